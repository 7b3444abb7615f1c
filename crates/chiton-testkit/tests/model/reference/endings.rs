//! How things end: what a delete does, what an unwinding undoes, and how a crash leaves them.

use std::collections::VecDeque;

use chiton_model::{OperationKind as K, Phase, SandboxPhase};

use super::{Busy, Model, Step};

impl Model {
    pub(super) fn delete_steps(&self, id: usize) -> VecDeque<Step> {
        let sandbox = &self.sandboxes[id];
        let mut steps = VecDeque::new();
        if matches!(sandbox.phase, SandboxPhase::Error | SandboxPhase::Deleted) {
            steps.push_back(Step::Intent(sandbox.phase));
            for phase in [Phase::AfterStop, Phase::OnCreateFailed, Phase::AfterDelete] {
                if sandbox.owed.contains(&phase) {
                    steps.extend([Step::Door(phase), Step::Pay(phase)]);
                }
            }
        } else {
            steps.push_back(Step::Intent(SandboxPhase::Deleting));
            if sandbox.owed.contains(&Phase::AfterStop) || sandbox.runs {
                steps.extend([Step::Door(Phase::BeforeStop), Step::Halt]);
                steps.extend([Step::Door(Phase::AfterStop), Step::Pay(Phase::AfterStop)]);
            }
            steps.extend([Step::Door(Phase::BeforeDelete), Step::Absent]);
            steps.extend([Step::Door(Phase::AfterDelete), Step::Pay(Phase::AfterDelete)]);
        }
        steps.push_back(Step::End(SandboxPhase::Deleted, true));
        steps
    }

    /// Rule 3 and the sequences: who acted cleans up, in reverse, nothing of the create before absence.
    pub(super) fn unwind(&mut self, id: usize) {
        let sandbox = &mut self.sandboxes[id];
        let Some(busy) = &mut sandbox.busy else { return };
        (busy.unwinding, busy.door) = (true, None);
        let started = busy.acted.contains(&Phase::BeforeStart);
        let mut steps = VecDeque::from([Step::Halt]);
        let mut clean = |phase: Phase, acted: bool| {
            if acted && busy.paid.get(&phase) != Some(&true) {
                steps.extend([Step::Door(phase), Step::Pay(phase)]);
            }
        };
        clean(Phase::AfterStop, started);
        if busy.kind == K::Create {
            sandbox.holds = false;
            clean(Phase::OnCreateFailed, busy.acted.contains(&Phase::BeforeCreate));
            steps.push_back(Step::End(SandboxPhase::Error, false));
        } else {
            steps.push_back(Step::End(SandboxPhase::Stopped, false));
        }
        busy.steps = steps;
        self.go(id);
    }

    /// Rule 15. Callers are gone; what was durable goes on. Without its machine nothing runs any more.
    pub(crate) fn crash(&mut self, marks: bool, reboot: bool) {
        if reboot {
            self.sandboxes.iter_mut().for_each(|sandbox| sandbox.runs = false);
        }
        self.lost.extend((0..self.asks.len()).filter(|ask| self.asks[*ask].1.is_none()));
        self.using.clear();
        for id in 0..self.sandboxes.len() {
            let sandbox = &mut self.sandboxes[id];
            sandbox.line.clear();
            if sandbox.phase == SandboxPhase::Deleting && sandbox.absent && !sandbox.taken {
                // Absence is confirmed anew, and until then the name is held again.
                (sandbox.absent, sandbox.holds) = (false, true);
            }
            if !sandbox.busy.as_ref().is_some_and(|busy| busy.durable) {
                sandbox.busy = None;
            }
        }
        for id in 0..self.sandboxes.len() {
            self.resume(id, marks);
        }
        for id in 0..self.sandboxes.len() {
            let sandbox = &mut self.sandboxes[id];
            if sandbox.phase == SandboxPhase::Ready && !sandbox.runs && sandbox.idle() {
                self.arrive(id, K::Exit, None);
            }
        }
    }

    fn resume(&mut self, id: usize, marks: bool) {
        let sandbox = &mut self.sandboxes[id];
        let Some(busy) = &mut sandbox.busy else { return };
        busy.unmarked |= !marks;
        let marks = !busy.unmarked;
        let done = |busy: &Busy, phase: Phase| marks && busy.acted.contains(&phase) && busy.door != Some(phase);
        if !marks {
            busy.paid.clear();
            let acts: &[Phase] = match busy.kind {
                K::Create => &[Phase::BeforeCreate, Phase::BeforeStart],
                K::Start => &[Phase::BeforeStart],
                _ => &[],
            };
            busy.acted.extend(acts);
        }
        busy.cancelled = false;
        let steps: VecDeque<Step> = match busy.kind {
            // Its agent calls again only where it runs.
            K::Start if sandbox.runs => [Step::Door(Phase::AfterReady), Step::End(SandboxPhase::Ready, true)].into(),
            K::Create | K::Start => return self.unwind(id),
            K::Stop | K::Delete => {
                let (stopping, deleting) = (done(busy, Phase::BeforeStop), done(busy, Phase::BeforeDelete));
                let kept = busy.clone();
                let mut steps = if busy.kind == K::Delete {
                    self.delete_steps(id)
                } else {
                    [
                        Step::Door(Phase::BeforeStop),
                        Step::Halt,
                        Step::Door(Phase::AfterStop),
                        Step::Pay(Phase::AfterStop),
                        Step::End(SandboxPhase::Stopped, true),
                    ]
                    .into()
                };
                steps.retain(|step| match step {
                    Step::Intent(_) => false,
                    Step::Door(Phase::BeforeStop) => !stopping,
                    Step::Door(Phase::BeforeDelete) => !deleting,
                    Step::Door(phase) | Step::Pay(phase) => kept.paid.get(phase) != Some(&true),
                    _ => true,
                });
                steps
            }
            _ => [
                Step::Halt,
                Step::Door(Phase::AfterStop),
                Step::Pay(Phase::AfterStop),
                Step::End(SandboxPhase::Completed, true),
            ]
            .into(),
        };
        if let Some(busy) = &mut self.sandboxes[id].busy {
            (busy.steps, busy.door) = (steps, None);
        }
        self.go(id);
    }
}
