//! The reference model: what each call is answered and what everybody sees, from the text of rules 4, 4a, 9, 15 and 17.
//!
//! It knows no marks, no commits and no tasks. An operation is a short programme of steps; where the test's gate is closed
//! it stands at the door of a hook, and everything else happens at once.

mod endings;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use chiton_model::{OperationKind as K, Phase, SandboxPhase};

use crate::table::{Rule, rule};

/// What a caller is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Accepted: this operation goes on. Joined is the same operation told twice.
    Operation(usize),
    /// Accepted, and nothing was to be done.
    Nothing,
    /// Refused because of what runs, which is named.
    Running(K, usize),
    /// Refused because of its state, an open obligation, or another body under the same request id.
    Conflict,
    NotFound,
    Exists,
    /// An extension vetoed.
    Refused,
}

/// What somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) what: What,
    pub(crate) principal: u8,
    pub(crate) request: Option<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// With one of a few names, or with a generated one.
    Create(Option<u8>),
    Start(usize),
    Stop(usize),
    Delete(usize, bool),
}

impl What {
    pub(crate) fn kind(&self) -> K {
        match self {
            Self::Create(_) => K::Create,
            Self::Start(_) => K::Start,
            Self::Stop(_) => K::Stop,
            Self::Delete(..) => K::Delete,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    /// A hook; the gate may stand before it.
    Door(Phase),
    /// From here on the operation is durable and answered.
    Intent(SandboxPhase),
    Approve,
    DriverCreate,
    DriverStart,
    Halt,
    /// The object is certainly gone and the name is free.
    Absent,
    Pay(Phase),
    /// An earlier stop's debt, before a start begins.
    Settle,
    End(SandboxPhase, bool),
}

/// An operation that runs.
#[derive(Clone, Debug)]
pub(crate) struct Busy {
    pub(crate) kind: K,
    pub(crate) operation: usize,
    /// Who asked, until it is answered.
    ask: Option<usize>,
    pub(crate) durable: bool,
    steps: VecDeque<Step>,
    pub(crate) door: Option<Phase>,
    /// Hooks that began.
    acted: BTreeSet<Phase>,
    /// Cleanups that were called, and whether they succeeded.
    paid: BTreeMap<Phase, bool>,
    cancelled: bool,
    unwinding: bool,
    deleted: bool,
    /// Its marks are lost.
    unmarked: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Sandbox {
    pub(crate) name: Option<u8>,
    pub(crate) phase: SandboxPhase,
    pub(crate) holds: bool,
    absent: bool,
    /// Another took the name over.
    taken: bool,
    pub(crate) gone: bool,
    pub(crate) runs: bool,
    exited: bool,
    pub(crate) owed: BTreeSet<Phase>,
    pub(crate) listed: BTreeSet<Phase>,
    pub(crate) busy: Option<Busy>,
    /// The operation that made it.
    pub(crate) made_by: usize,
    /// Who waits, in order; an exit has no asker.
    line: VecDeque<(K, Option<usize>)>,
}

impl Sandbox {
    /// Shown without `--all`.
    pub(crate) fn shown(&self) -> bool {
        !self.gone && self.phase != SandboxPhase::Deleted && !self.absent
    }

    pub(crate) fn idle(&self) -> bool {
        !self.gone && self.busy.is_none() && self.line.is_empty()
    }
}

pub(crate) type Key = (u8, K, u8);

#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) sandboxes: Vec<Sandbox>,
    pub(crate) asks: Vec<(Ask, Option<Answer>)>,
    /// Whether each operation that ended succeeded.
    pub(crate) operations: Vec<Option<bool>>,
    /// What a request id was answered, and for what.
    pub(crate) answered: BTreeMap<Key, (What, Answer)>,
    /// Who uses a request id that is not answered yet, first come first.
    pub(crate) using: BTreeMap<Key, VecDeque<usize>>,
    /// Asks whose caller died with the gateway.
    pub(crate) lost: BTreeSet<usize>,
    pub(crate) closed: bool,
    pub(crate) vetoes: bool,
    pub(crate) platform_fails: bool,
    pub(crate) failing: Option<Phase>,
    /// What the last discharge is answered.
    pub(crate) discharged: Option<Answer>,
    /// Which cells of the table were met.
    pub(crate) met: BTreeSet<(K, K)>,
}

impl Model {
    pub(crate) fn ask(&mut self, ask: &Ask) {
        let index = self.asks.len();
        self.asks.push((ask.clone(), None));
        if let Some(key) = self.key(index) {
            let line = self.using.entry(key).or_default();
            line.push_back(index);
            if line.len() > 1 {
                return;
            }
        }
        self.take(index);
    }

    fn key(&self, ask: usize) -> Option<Key> {
        let ask = &self.asks[ask].0;
        ask.request.map(|request| (ask.principal, ask.what.kind(), request))
    }

    /// Rule 17, then the request itself.
    fn take(&mut self, ask: usize) {
        let what = self.asks[ask].0.what.clone();
        if let Some((before, answer)) = self.key(ask).and_then(|key| self.answered.get(&key)) {
            let answer = if *before == what { answer.clone() } else { Answer::Conflict };
            return self.reply(ask, answer);
        }
        match what {
            What::Create(name) => self.create(ask, name),
            What::Start(id) | What::Stop(id) | What::Delete(id, _) => {
                if self.sandboxes[id].gone {
                    return self.reply(ask, Answer::NotFound);
                }
                self.arrive(id, what.kind(), Some(ask));
            }
        }
    }

    fn reply(&mut self, ask: usize, answer: Answer) {
        self.asks[ask].1 = Some(answer.clone());
        let Some(key) = self.key(ask) else { return };
        if matches!(answer, Answer::Operation(_) | Answer::Nothing) {
            self.answered.insert(key, (self.asks[ask].0.what.clone(), answer));
        }
        let line = self.using.entry(key).or_default();
        line.retain(|other| *other != ask);
        if let Some(next) = line.front().copied() {
            self.take(next);
        }
    }

    fn create(&mut self, ask: usize, name: Option<u8>) {
        if name.is_some() && self.sandboxes.iter().any(|other| other.name == name && other.holds) {
            return self.reply(ask, Answer::Exists);
        }
        if name.is_some() {
            self.sandboxes.iter_mut().filter(|other| other.name == name).for_each(|other| other.taken = true);
        }
        self.sandboxes.push(Sandbox {
            name,
            phase: SandboxPhase::Provisioning,
            holds: true,
            absent: false,
            taken: false,
            gone: false,
            runs: false,
            exited: false,
            owed: BTreeSet::new(),
            listed: BTreeSet::new(),
            busy: None,
            made_by: self.operations.len(),
            line: VecDeque::new(),
        });
        let steps = [
            Step::Intent(SandboxPhase::Provisioning),
            Step::Door(Phase::BeforeCreate),
            Step::DriverCreate,
            Step::Door(Phase::BeforeStart),
            Step::DriverStart,
            Step::Door(Phase::AfterReady),
            Step::End(SandboxPhase::Ready, true),
        ];
        self.begin(self.sandboxes.len() - 1, K::Create, Some(ask), steps);
    }

    fn begin(&mut self, id: usize, kind: K, ask: Option<usize>, steps: impl Into<VecDeque<Step>>) {
        let operation = self.operations.len();
        self.operations.push(None);
        self.sandboxes[id].busy = Some(Busy {
            kind,
            operation,
            ask,
            durable: false,
            steps: steps.into(),
            door: None,
            acted: BTreeSet::new(),
            paid: BTreeMap::new(),
            cancelled: false,
            unwinding: false,
            deleted: false,
            unmarked: false,
        });
        self.go(id);
    }

    /// Somebody wants to run on a sandbox: at the end of the line.
    fn arrive(&mut self, id: usize, kind: K, ask: Option<usize>) {
        if let Some(busy) = &self.sandboxes[id].busy {
            self.met.insert((busy.kind, kind));
        }
        self.sandboxes[id].line.push_back((kind, ask));
        self.serve(id);
    }

    /// Looks along the line until nothing changes.
    fn serve(&mut self, id: usize) {
        let mut place = 0;
        while let Some((kind, ask)) = self.sandboxes[id].line.get(place).copied() {
            if self.admit(id, kind, ask) {
                // Whoever is answered leaves, and everybody is looked at again.
                place = 0;
            } else {
                place += 1;
            }
        }
    }

    /// True when it need not wait any longer.
    fn admit(&mut self, id: usize, kind: K, ask: Option<usize>) -> bool {
        let Some(busy) = &mut self.sandboxes[id].busy else {
            self.sandboxes[id].line.retain(|other| *other != (kind, ask));
            self.admitted(id, kind, ask);
            return true;
        };
        let answer = match rule(busy.kind, kind) {
            Rule::Join if busy.durable => Answer::Operation(busy.operation),
            Rule::Conflict => Answer::Running(busy.kind, busy.operation),
            Rule::Undo => {
                busy.deleted = true;
                let answer = Answer::Operation(busy.operation);
                self.sandboxes[id].line.retain(|other| *other != (kind, ask));
                if let Some(ask) = ask {
                    self.reply(ask, answer);
                }
                self.cancel(id);
                return true;
            }
            Rule::Cancel if !busy.cancelled => {
                self.cancel(id);
                return false;
            }
            Rule::Join | Rule::Queue | Rule::Cancel | Rule::Skip => return false,
        };
        self.sandboxes[id].line.retain(|other| *other != (kind, ask));
        if let Some(ask) = ask {
            self.reply(ask, answer);
        }
        true
    }

    /// A hook that acts ends at once; a cleanup runs to its end.
    fn cancel(&mut self, id: usize) {
        let Some(busy) = &mut self.sandboxes[id].busy else { return };
        busy.cancelled = true;
        match (busy.kind, busy.door) {
            (K::Create | K::Start, Some(door)) if !door.is_cleanup() => self.unwind(id),
            (K::Reconcile, _) => self.end(id),
            _ => {}
        }
    }

    /// The subject is free.
    fn admitted(&mut self, id: usize, kind: K, ask: Option<usize>) {
        let sandbox = &self.sandboxes[id];
        let mut answer = None;
        match (kind, sandbox.phase) {
            _ if sandbox.gone => answer = Some(Answer::NotFound),
            (K::Exit, SandboxPhase::Ready) if !sandbox.runs => {
                let steps = [
                    Step::Intent(SandboxPhase::Stopping),
                    Step::Halt,
                    Step::Door(Phase::AfterStop),
                    Step::Pay(Phase::AfterStop),
                    Step::End(SandboxPhase::Completed, true),
                ];
                self.begin(id, kind, None, steps);
            }
            (K::Exit, _) => {}
            (K::Start, SandboxPhase::Ready) | (K::Stop, SandboxPhase::Stopped | SandboxPhase::Completed) => {
                answer = Some(Answer::Nothing);
            }
            (K::Start, SandboxPhase::Stopped | SandboxPhase::Completed) => {
                let mut steps = VecDeque::new();
                if sandbox.owed.contains(&Phase::AfterStop) {
                    steps.extend([Step::Door(Phase::AfterStop), Step::Settle]);
                }
                steps.extend([
                    Step::Intent(SandboxPhase::Starting),
                    Step::Door(Phase::BeforeStart),
                    Step::DriverStart,
                    Step::Door(Phase::AfterReady),
                    Step::End(SandboxPhase::Ready, true),
                ]);
                self.begin(id, kind, ask, steps);
            }
            (K::Stop, SandboxPhase::Ready) => {
                let steps = [
                    Step::Door(Phase::ApproveStop),
                    Step::Approve,
                    Step::Intent(SandboxPhase::Stopping),
                    Step::Door(Phase::BeforeStop),
                    Step::Halt,
                    Step::Door(Phase::AfterStop),
                    Step::Pay(Phase::AfterStop),
                    Step::End(SandboxPhase::Stopped, true),
                ];
                self.begin(id, kind, ask, steps);
            }
            (K::Delete, _) => {
                let steps = self.delete_steps(id);
                self.begin(id, kind, ask, steps);
            }
            _ => answer = Some(Answer::Conflict),
        }
        if let (Some(answer), Some(ask)) = (answer, ask) {
            self.reply(ask, answer);
        }
    }

    /// Runs an operation until it ends or stands at a closed door.
    fn go(&mut self, id: usize) {
        loop {
            let (closed, fails) = (self.closed, self.platform_fails);
            let sandbox = &mut self.sandboxes[id];
            let Some(busy) = &mut sandbox.busy else { return };
            if busy.door.is_some() {
                return;
            }
            let Some(step) = busy.steps.pop_front() else { return };
            match step {
                Step::Door(phase) => {
                    if busy.cancelled && !busy.unwinding && matches!(busy.kind, K::Create | K::Start) && busy.durable {
                        return self.unwind(id);
                    }
                    busy.acted.insert(phase);
                    if closed {
                        busy.door = Some(phase);
                    }
                }
                Step::Intent(phase) => {
                    busy.durable = true;
                    sandbox.phase = phase;
                    let (operation, ask) = (busy.operation, busy.ask.take());
                    if busy.kind == K::Start {
                        sandbox.exited = false;
                    }
                    if let Some(ask) = ask {
                        self.reply(ask, Answer::Operation(operation));
                    }
                    self.serve(id);
                }
                Step::Approve if self.vetoes => return self.refuse(id, Answer::Refused),
                Step::DriverCreate | Step::DriverStart if fails => return self.unwind(id),
                Step::Approve | Step::DriverCreate => {}
                Step::DriverStart => (sandbox.runs, sandbox.exited) = (true, false),
                Step::Halt => sandbox.runs = false,
                Step::Absent => (sandbox.holds, sandbox.absent, sandbox.runs) = (false, true, false),
                Step::Pay(phase) => drop(busy.paid.insert(phase, self.failing != Some(phase))),
                Step::Settle if self.failing == Some(Phase::AfterStop) => return self.refuse(id, Answer::Conflict),
                Step::Settle => {
                    sandbox.owed.remove(&Phase::AfterStop);
                    sandbox.listed.remove(&Phase::AfterStop);
                    busy.acted.clear();
                }
                Step::End(phase, succeeded) => return self.finish(id, phase, succeeded),
            }
        }
    }

    /// It ends before it was durable.
    fn refuse(&mut self, id: usize, answer: Answer) {
        let ask = self.sandboxes[id].busy.as_mut().and_then(|busy| busy.ask.take());
        if let Some(ask) = ask {
            self.reply(ask, answer);
        }
        self.end(id);
    }

    fn finish(&mut self, id: usize, phase: SandboxPhase, succeeded: bool) {
        let sandbox = &mut self.sandboxes[id];
        let Some(busy) = &sandbox.busy else { return };
        for (phase, paid) in &busy.paid {
            if *paid {
                sandbox.owed.remove(phase);
                sandbox.listed.remove(phase);
            } else {
                sandbox.owed.insert(*phase);
                sandbox.listed.insert(*phase);
            }
        }
        if phase == SandboxPhase::Ready {
            sandbox.owed.insert(Phase::AfterStop);
            sandbox.owed.extend((busy.kind == K::Create).then_some(Phase::AfterDelete));
        }
        sandbox.phase = if busy.deleted { SandboxPhase::Deleted } else { phase };
        sandbox.exited &= phase == SandboxPhase::Ready;
        self.operations[busy.operation] = Some(succeeded);
        self.vanish(id);
        self.end(id);
    }

    /// A deleted row goes with its last debt.
    fn vanish(&mut self, id: usize) {
        let sandbox = &mut self.sandboxes[id];
        if sandbox.phase == SandboxPhase::Deleted {
            sandbox.holds = false;
            sandbox.gone = sandbox.owed.is_empty();
        }
    }

    /// The subject is free: the next in line, and an exit that nobody used.
    fn end(&mut self, id: usize) {
        let sandbox = &mut self.sandboxes[id];
        sandbox.busy = None;
        if sandbox.exited && sandbox.phase == SandboxPhase::Ready && !sandbox.line.contains(&(K::Exit, None)) {
            sandbox.line.push_back((K::Exit, None));
        }
        self.serve(id);
    }

    pub(crate) fn step(&mut self, id: usize) {
        let Some(busy) = &mut self.sandboxes[id].busy else { return };
        busy.door = None;
        if busy.kind == K::Reconcile {
            return self.end(id);
        }
        self.go(id);
    }

    /// The main process ends by itself.
    pub(crate) fn exit(&mut self, id: usize) {
        let sandbox = &mut self.sandboxes[id];
        sandbox.runs = false;
        match &sandbox.busy {
            None => self.arrive(id, K::Exit, None),
            Some(busy) => {
                self.met.insert((busy.kind, K::Exit));
                sandbox.exited = true;
            }
        }
    }

    /// A round of reconcile whose first hook stands at its door.
    pub(crate) fn reconcile(&mut self) {
        let takes_part = |sandbox: &Sandbox| {
            matches!(sandbox.phase, SandboxPhase::Ready | SandboxPhase::Stopped | SandboxPhase::Completed)
        };
        for id in 0..self.sandboxes.len() {
            let sandbox = &self.sandboxes[id];
            if sandbox.gone {
                continue;
            }
            if let Some(busy) = &sandbox.busy {
                self.met.insert((busy.kind, K::Reconcile));
            } else if takes_part(sandbox) {
                self.begin(id, K::Reconcile, None, []);
                if let Some(busy) = &mut self.sandboxes[id].busy {
                    busy.door = Some(Phase::Reconcile);
                }
                return;
            }
        }
    }

    /// Whether a cleanup failed anywhere and is not settled.
    pub(crate) fn owes(&self) -> bool {
        let failed = |sandbox: &Sandbox| sandbox.busy.iter().any(|busy| busy.paid.values().any(|paid| !paid));
        self.sandboxes.iter().any(|sandbox| !sandbox.listed.is_empty() || failed(sandbox))
    }

    pub(crate) fn discharge(&mut self, id: usize) -> Answer {
        let sandbox = &mut self.sandboxes[id];
        if let Some(busy) = &sandbox.busy {
            self.met.insert((busy.kind, K::Cleanup));
            return Answer::Running(busy.kind, busy.operation);
        }
        let listed = std::mem::take(&mut sandbox.listed);
        sandbox.owed.retain(|phase| !listed.contains(phase));
        self.vanish(id);
        Answer::Nothing
    }

    /// Minutes pass: what is owed is tried again wherever nobody is busy.
    pub(crate) fn pass(&mut self) {
        for id in 0..self.sandboxes.len() {
            let sandbox = &self.sandboxes[id];
            let Some(phase) = sandbox.listed.first().copied().filter(|_| sandbox.idle()) else { continue };
            let end = Step::End(sandbox.phase, true);
            self.begin(id, K::Cleanup, None, [Step::Door(phase), Step::Pay(phase), end]);
        }
    }
}
