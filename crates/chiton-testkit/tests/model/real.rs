//! The engine in its virtual world, held against the model after everything that happens.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chiton_lifecycle::journal::{Obligation, OperationOutcome, SandboxQuery, Subject};
use chiton_lifecycle::{Accepted, CreateRequest, Engine, Request, Selector};
use chiton_model::{Error, ErrorKind, OperationId, Phase, Principal, SandboxId, SandboxName, WorkspaceName};
use chiton_testkit::{Act, Behaviour, Call, DriverSpec, ExtensionScript, Gate, Lab, VirtualWorld};
use parking_lot::Mutex;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest};

use crate::machine::{Machine, Transition};
use crate::reference::{Answer, Ask, Model, What};

/// The doors at which the gate can stand.
const DOORS: [Phase; 9] = [
    Phase::BeforeCreate,
    Phase::BeforeStart,
    Phase::AfterReady,
    Phase::ApproveStop,
    Phase::BeforeStop,
    Phase::AfterStop,
    Phase::OnCreateFailed,
    Phase::BeforeDelete,
    Phase::AfterDelete,
];

/// Longer than the longest pause between two retries.
const PASS: Duration = Duration::from_mins(6);
const FOREVER: Duration = Duration::from_hours(1000);

type Ends = BTreeMap<OperationId, Waits>;
type Slot = Arc<Mutex<Option<Result<Accepted, Error>>>>;

pub(crate) struct Real {
    lab: Lab,
    gate: Gate,
    answers: Vec<Slot>,
    /// The model's sandboxes and operations, as the engine calls them.
    ids: BTreeMap<usize, SandboxId>,
    operations: BTreeMap<usize, OperationId>,
    /// How the operations ended that somebody waited for.
    ends: Arc<Mutex<Ends>>,
    discharged: Option<Result<(), Error>>,
}

fn name(number: u8) -> SandboxName {
    SandboxName::new(format!("name-{number}")).expect("valid")
}

/// Who waits for an operation's end, and what they were told.
#[derive(Clone, Debug, Default, PartialEq)]
struct Waits {
    under_way: usize,
    told: BTreeSet<bool>,
}

/// Two more wait for the operation's end, as any number may.
fn wait_for(world: &VirtualWorld, engine: &Engine, ends: &Arc<Mutex<Ends>>, operation: &OperationId) {
    for _ in 0..2 {
        ends.lock().entry(operation.clone()).or_default().under_way += 1;
        let (engine, ends, operation) = (engine.clone(), Arc::clone(ends), operation.clone());
        world.spawn_outside(async move {
            let record = engine.wait(&operation).await.expect("an operation that was answered exists");
            let mut ends = ends.lock();
            let waits = ends.entry(operation).or_default();
            waits.under_way -= 1;
            waits.told.insert(record.outcome == Some(OperationOutcome::Succeeded));
        });
    }
}

impl Real {
    fn new(seed: u64, model: &Model) -> Self {
        let gate = Gate::default();
        let script = ExtensionScript::everywhere("ext").saves().local_effects();
        for phase in DOORS.into_iter().chain([Phase::Reconcile]) {
            script.always(phase, Act::Gate(gate.clone()));
        }
        let mut lab = Lab::new(seed)
            .driver(DriverSpec::new("fake"))
            .extension_with(script, |policy| policy.deadline = FOREVER)
            .configure(|config| {
                config.reconcile_every = FOREVER;
                config.sweep_every = FOREVER;
                config.keep_requests = FOREVER;
                config.keep_errors = FOREVER;
            });
        lab.start();
        let (answers, ids, operations) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        let mut real = Self { lab, gate, answers, ids, operations, ends: Arc::default(), discharged: None };
        real.close(model.closed);
        real
    }

    fn close(&mut self, closed: bool) {
        if closed { self.gate.close(&DOORS) } else { self.gate.open(&DOORS) }
    }

    fn ask(&mut self, ask: &Ask) {
        let (engine, waiting, slot) = (self.lab.engine(), self.lab.engine(), Slot::default());
        self.answers.push(Arc::clone(&slot));
        let request = Request {
            principal: Principal { subject: format!("caller-{}", ask.principal), claims: BTreeMap::new() },
            request_id: ask.request.map(|request| format!("request-{request}")),
        };
        let what = ask.what.clone();
        let id = match what {
            What::Create(_) => None,
            What::Start(id) | What::Stop(id) | What::Delete(id, _) => Some(self.ids[&id].clone()),
        };
        let (world, ends) = (self.lab.world().clone(), Arc::clone(&self.ends));
        self.lab.world().spawn_outside(async move {
            let answer = match (what, id) {
                (What::Start(_), Some(id)) => engine.start(request, id).await,
                (What::Stop(_), Some(id)) => engine.stop(request, id).await,
                (What::Delete(_, force), Some(id)) => engine.delete(request, id, force).await,
                (What::Create(wanted), _) => {
                    let create = CreateRequest { name: wanted.map(name), ..CreateRequest::default() };
                    engine.create(request, create).await
                }
                _ => unreachable!("only a create has no sandbox yet"),
            };
            // At once: of a sandbox that is gone nobody keeps the operations for long.
            if let Ok(Accepted { operation: Some(operation), .. }) = &answer {
                wait_for(&world, &waiting, &ends, operation);
            }
            *slot.lock() = Some(answer);
        });
    }

    /// Whoever discharges has seen to it that nothing is left.
    fn clean_by_hand(&self, obligation: &Obligation) {
        let ledger = self.lab.ledger();
        let stops = obligation.debt.phase == Phase::AfterStop;
        for ((extension, key), subject) in ledger.held() {
            let of_start = key.ends_with("/start") || key.ends_with("/ready");
            if subject == obligation.subject && of_start == stops {
                ledger.outside(chiton_testkit::What::Release { extension, subject, key, call: None });
            }
        }
    }

    fn apply(&mut self, transition: &Transition) {
        let platform = self.lab.platform().clone();
        match transition {
            Transition::Ask(ask) => self.ask(ask),
            Transition::Step(id) => {
                assert!(self.gate.step(&Subject::Sandbox(self.ids[id].clone())), "nobody stands at a door of {id}");
            }
            Transition::Exit(id) => platform.exit(&self.ids[id], 3),
            Transition::Reconcile => {
                self.gate.close(&[Phase::Reconcile]);
                let engine = self.lab.engine();
                self.lab.world().spawn_outside(async move { drop(engine.reconcile().await) });
                self.lab.advance(Duration::from_secs(1));
                self.gate.open(&[Phase::Reconcile]);
            }
            Transition::Discharge(id) => {
                let (engine, id) = (self.lab.engine(), self.ids[id].clone());
                let open = engine.obligations_of(&Subject::Sandbox(id));
                let obligation = open.first().expect("one is listed").clone();
                let principal = self.lab.request().principal;
                let which = obligation.id.clone();
                let answer = self.lab.block_on(async move { engine.discharge(principal, which, true).await });
                if answer.is_ok() {
                    self.clean_by_hand(&obligation);
                }
                self.discharged = Some(answer);
            }
            Transition::Close(closed) => self.close(*closed),
            Transition::Veto(vetoes) => self.gate.fail(Phase::ApproveStop, *vetoes),
            Transition::PlatformFails(fails) => {
                platform.behave();
                if *fails {
                    platform.always(Call::Create, Behaviour::Fail(Duration::ZERO, "scripted".to_owned()));
                    platform.always(Call::Start, Behaviour::Fail(Duration::ZERO, "scripted".to_owned()));
                }
            }
            Transition::Fail(phase) => {
                for other in [Phase::AfterStop, Phase::OnCreateFailed, Phase::AfterDelete] {
                    self.gate.fail(other, *phase == Some(other));
                }
            }
            Transition::Crash { marks, reboot } => {
                if *reboot {
                    self.lab.power_loss();
                } else {
                    self.lab.crash();
                    if !marks {
                        self.lab.lose_marks();
                    }
                }
                // Every life has another config: cleanups get the one that was frozen.
                let tag = format!("life-{}", self.lab.ledger().len());
                self.lab.reconfigure("ext", serde_json::json!({ "tag": tag }));
                self.lab.start();
                // Whoever waited died with the gateway, and asks again.
                let open: Vec<OperationId> = {
                    let mut ends = self.ends.lock();
                    ends.values_mut().for_each(|waits| waits.under_way = 0);
                    ends.iter().filter(|(_, waits)| waits.told.is_empty()).map(|(id, _)| id.clone()).collect()
                };
                for operation in open {
                    wait_for(self.lab.world(), &self.lab.engine(), &self.ends, &operation);
                }
            }
        }
        self.lab.advance(PASS);
    }

    /// Everything that the model says is so.
    fn check(&mut self, model: &Model) {
        for index in 0..self.answers.len() {
            self.check_answer(index, model);
        }
        if let Some(expected) = &model.discharged
            && let Some(answer) = self.discharged.take()
        {
            match expected {
                Answer::Nothing => assert!(answer.is_ok(), "the discharge is answered {answer:?}"),
                _ => assert!(
                    answer.as_ref().is_err_and(|error| error.kind == ErrorKind::Conflict),
                    "the discharge is answered {answer:?} and not {expected:?}"
                ),
            }
        }
        let mut doors = BTreeSet::new();
        for (index, sandbox) in model.sandboxes.iter().enumerate() {
            let id = &self.ids[&index];
            let door = sandbox.busy.as_ref().and_then(|busy| busy.door);
            doors.extend(door.map(|door| (Subject::Sandbox(id.clone()), door)));
            let row = self.lab.row(id);
            assert_eq!(row.as_ref().map(|row| row.phase), (!sandbox.gone).then_some(sandbox.phase), "phase of {index}");
            let Some(row) = row else { continue };
            let engine = self.lab.engine();
            let view = self.lab.block_on(async { engine.get(&Selector::Id(id.clone()), false).await }).expect("a row");
            assert_eq!(view.running.is_some(), sandbox.busy.is_some(), "whether {index} is busy");
            if sandbox.busy.is_none() {
                let owed: BTreeSet<Phase> = row.debts.iter().map(|debt| debt.phase).collect();
                assert_eq!(owed, sandbox.owed, "debts of {index}");
                let open = self.lab.engine().obligations_of(&row.subject());
                let listed: BTreeSet<Phase> = open.iter().map(|obligation| obligation.debt.phase).collect();
                assert_eq!(listed, sandbox.listed, "obligations of {index}");
            }
        }
        assert_eq!(self.gate.waiting().into_iter().collect::<BTreeSet<_>>(), doors, "who stands at a door");
        self.check_listings(model);
        let ends = self.ends.lock().clone();
        for (operation, id) in &self.operations {
            let waits = ends.get(id).cloned().unwrap_or_default();
            // All learn it at the same time, and all learn the same.
            let told: BTreeSet<bool> = model.operations[*operation].into_iter().collect();
            assert_eq!(waits.told, told, "how operation {operation} ended");
            assert!(told.is_empty() || waits.under_way == 0, "somebody still waits for operation {operation}");
        }
    }

    fn check_answer(&mut self, index: usize, model: &Model) {
        let (ask, expected) = &model.asks[index];
        if model.lost.contains(&index) {
            return;
        }
        let real = self.answers[index].lock().clone();
        let what = format!("ask {index}, {ask:?}, is answered {:?}", real.as_ref().map(short));
        let (Some(expected), Some(real)) = (expected, real) else {
            assert!(expected.is_none() && self.answers[index].lock().is_none(), "{what} and not {expected:?}");
            return;
        };
        match (expected, real) {
            (Answer::Operation(operation), Ok(Accepted { sandbox, operation: Some(id) })) => {
                if let Some(made) = model.sandboxes.iter().position(|other| other.made_by == *operation) {
                    let known = self.ids.entry(made).or_insert_with(|| sandbox.id.clone());
                    assert_eq!(*known, sandbox.id, "{what}");
                }
                let other = self.operations.iter().find(|(_, other)| **other == id).map(|(known, _)| *known);
                assert!(other.is_none_or(|other| other == *operation), "{what} and not with a new operation");
                if let Some(known) = self.operations.get(operation) {
                    assert_eq!(*known, id, "{what} and not {expected:?}");
                } else {
                    self.operations.insert(*operation, id);
                }
            }
            (Answer::Nothing, Ok(Accepted { operation: None, .. })) => {}
            (Answer::Running(kind, operation), Err(error)) => {
                assert_eq!(error.kind, ErrorKind::Conflict, "{what}");
                assert!(error.message.contains(&format!("a {kind} is running")), "{what} and not {expected:?}");
                if let Some(id) = self.operations.get(operation) {
                    assert!(error.message.contains(id.as_str()), "{what} and does not name {id}");
                }
            }
            (Answer::Conflict, Err(error)) => assert_eq!(error.kind, ErrorKind::Conflict, "{what}"),
            (Answer::NotFound, Err(error)) => assert_eq!(error.kind, ErrorKind::NotFound, "{what}"),
            (Answer::Exists, Err(error)) => assert_eq!(error.kind, ErrorKind::AlreadyExists, "{what}"),
            (Answer::Refused, Err(error)) => assert!(matches!(error.kind, ErrorKind::Refused { .. }), "{what}"),
            _ => panic!("{what} and not {expected:?}"),
        }
    }

    fn check_listings(&self, model: &Model) {
        let ids = |shown: &dyn Fn(usize) -> bool| -> BTreeSet<SandboxId> {
            self.ids.iter().filter(|(index, _)| shown(**index)).map(|(_, id)| id.clone()).collect()
        };
        for all in [false, true] {
            let engine = self.lab.engine();
            let query = SandboxQuery { all, ..SandboxQuery::default() };
            let page = self.lab.block_on(async move { engine.list(&query).await }).expect("listed");
            let listed: BTreeSet<SandboxId> = page.views.into_iter().map(|view| view.record.id).collect();
            let expected = ids(&|index| {
                let sandbox = &model.sandboxes[index];
                if all { !sandbox.gone } else { sandbox.shown() }
            });
            assert_eq!(listed, expected, "the list, all {all}");
            for number in 0..2 {
                let of_name = |sandbox: &&crate::reference::Sandbox| sandbox.name == Some(number) && !sandbox.gone;
                let named = || model.sandboxes.iter().enumerate().filter(|(_, sandbox)| of_name(sandbox));
                let found = named().find(|(_, sandbox)| sandbox.holds).or_else(|| named().next_back());
                let found = found.filter(|(_, sandbox)| all || sandbox.shown()).map(|(index, _)| &self.ids[&index]);
                let engine = self.lab.engine();
                let selector = Selector::Name(WorkspaceName::default(), name(number));
                let view = self.lab.block_on(async move { engine.get(&selector, all).await }).ok();
                assert_eq!(view.map(|view| view.record.id).as_ref(), found, "name {number}, all {all}");
            }
        }
    }

    /// Everybody goes on, and all is quiet and balances.
    fn end(mut self, mut model: Model) {
        for transition in [Transition::Close(false), Transition::Fail(None), Transition::PlatformFails(false)] {
            model = Machine::apply(model, &transition);
            self.apply(&transition);
        }
        for _ in 0..100 {
            let door =
                |sandbox: &crate::reference::Sandbox| sandbox.busy.as_ref().is_some_and(|busy| busy.door.is_some());
            let Some(id) = model.sandboxes.iter().position(door) else { break };
            model = Machine::apply(model, &Transition::Step(id));
            self.apply(&Transition::Step(id));
            self.check(&model);
        }
        assert!(self.lab.quiesce(Duration::from_hours(1)), "not quiet\n{:?}", self.lab.ledger());
        self.check(&model);
        self.lab.assert_sound();
        crate::MET.lock().extend(model.met);
    }
}

fn short(answer: &Result<Accepted, Error>) -> String {
    match answer {
        Ok(accepted) => format!("{} by {:?}", accepted.sandbox.id, accepted.operation),
        Err(error) => format!("{:?}: {}", error.kind, error.message),
    }
}

/// The engine beside the model.
pub(crate) struct Beside(Real, Model);

impl StateMachineTest for Beside {
    type SystemUnderTest = Self;
    type Reference = Machine;

    fn init_test(model: &Model) -> Self {
        Self(Real::new(7, model), model.clone())
    }

    fn apply(mut beside: Self, model: &Model, transition: Transition) -> Self {
        beside.0.apply(&transition);
        beside.0.check(model);
        beside.1 = model.clone();
        beside
    }

    fn teardown(beside: Self, _: Model) {
        beside.0.end(beside.1);
    }
}
