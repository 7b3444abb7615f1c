//! A world for a setting: built, brought to where the operation begins, and the operation itself.

use std::sync::Arc;
use std::time::Duration;

use chiton_driver::{Observed, ObservedStatus};
use chiton_lifecycle::extension::{ReconcileOutcome, ReconcileSupport, StepError};
use chiton_lifecycle::journal::Subject;
use chiton_model::{Phase, SandboxId, StoreEpoch, WorkspaceName};
use chiton_testkit::{Act as Does, Behaviour, Call, DriverSpec, ExtensionScript, Lab, What};
use parking_lot::Mutex;

use crate::cell::{Act, Driver, Fault, Ill, Lapse, Setting};

/// Longer than every back-off, sweep grace and late landing together: what is going to happen has happened by then.
const SETTLED: Duration = Duration::from_mins(40);

pub(crate) struct Scene {
    pub(crate) lab: Lab,
    setting: Setting,
    /// The epoch that the next process adopts.
    adopts: Arc<Mutex<Option<StoreEpoch>>>,
    sandbox: Option<SandboxId>,
}

fn spec(setting: Setting) -> DriverSpec {
    let spec = DriverSpec::new("fake");
    let spec = match setting.driver {
        Driver::Local => spec,
        Driver::Remote => spec.remote(),
        Driver::OnePhase => spec.features([]).without_agent(),
    };
    if setting.act == Act::Shutdown { spec.managed() } else { spec }
}

fn script(index: usize) -> ExtensionScript {
    let name = format!("ext-{index}");
    let script =
        ExtensionScript::everywhere(&name).declare(|descriptor| descriptor.reconcile = ReconcileSupport::Authoritative);
    match index {
        0 => script.slot("ip", "EXT_IP").saves_everywhere(),
        1 => script.saves_durably_everywhere(),
        2 => script.local_effects(),
        _ => script,
    }
}

/// Asks for the end of the workspace; a refusal is an answer too.
fn delete_workspace(lab: &Lab) -> impl Future<Output = ()> + use<> {
    let (engine, principal) = (lab.engine(), lab.request().principal);
    async move { drop(engine.delete_workspace(principal, WorkspaceName::default()).await) }
}

impl Scene {
    /// Builds the world and brings it to where the operation begins.
    pub(crate) fn new(setting: Setting) -> Self {
        let adopts: Arc<Mutex<Option<StoreEpoch>>> = Arc::default();
        let adopted = Arc::clone(&adopts);
        let mut lab = Lab::new(7).driver(spec(setting)).configure(move |config| {
            config.adopt_epoch.clone_from(&adopted.lock());
            // At every start, and else only where it is what the scene is about: a round is many commits.
            config.reconcile_every = Duration::from_hours(24);
        });
        for index in 0..setting.chain {
            lab = lab.extension_with(script(index), |policy| policy.authoritative = true);
        }
        // A commit takes time, so that a crash finds some on their way.
        lab.journal().latency(Duration::from_micros(100)..Duration::from_micros(900));
        let mut scene = Self { lab, setting, adopts, sandbox: None };
        scene.lab.start();
        scene.prepare();
        scene
    }

    fn prepare(&mut self) {
        let made = |scene: &mut Self| {
            let (id, _) = scene.lab.create("one");
            scene.sandbox = Some(id.clone());
            id
        };
        match self.setting.act {
            Act::Create => {}
            Act::Cancel => {
                // Its workspace is ready: the delete meets the create itself.
                let id = made(self);
                self.lab.delete_sandbox(&id).expect("a delete is accepted");
                self.sandbox = None;
            }
            Act::Stop | Act::Delete | Act::Exit | Act::Reconcile | Act::Workspace | Act::Shutdown => drop(made(self)),
            Act::Start => {
                let id = made(self);
                self.lab.stop_sandbox(&id).expect("a stop is accepted");
            }
            Act::Bury => self.owe_a_create(),
            Act::Cleanup => match self.setting.fault {
                Fault::Hook { phase: Phase::OnCreateFailed, .. } => self.owe_a_create(),
                Fault::Hook { phase: Phase::ReleaseWorkspace, .. } => {
                    let id = made(self);
                    self.lab.delete_sandbox(&id).expect("a delete is accepted");
                    self.refuse(&[Phase::ReleaseWorkspace]);
                    self.lab.block_on(delete_workspace(&self.lab));
                }
                _ => {
                    let id = made(self);
                    self.refuse(&[Phase::AfterStop, Phase::AfterDelete]);
                    self.lab.delete_sandbox(&id).expect("a delete is accepted");
                }
            },
            Act::Sweep => self.leave_behind(),
        }
        if self.setting.act == Act::Reconcile {
            self.lab.advance(Duration::from_mins(1));
        }
        assert!(self.lab.advance(Duration::from_millis(500)), "no crash is placed yet");
        self.misbehave();
    }

    /// The next call of each extension in these phases fails.
    fn refuse(&self, phases: &[Phase]) {
        for index in 0..self.setting.chain {
            for phase in phases {
                self.hook(index, *phase, Does::Refuse(StepError::fatal("scripted")));
            }
        }
    }

    /// A failed create whose row owes its undoing.
    fn owe_a_create(&mut self) {
        self.refuse(&[Phase::AfterStop, Phase::OnCreateFailed]);
        let failing = if self.setting.driver == Driver::OnePhase { Call::Create } else { Call::Start };
        self.lab.platform().next(failing, Behaviour::FailDone(Duration::from_millis(5), "scripted".to_owned()));
        self.sandbox = Some(self.lab.create("one").0);
    }

    /// Something that no row owns: an object of this store, and a holding.
    fn leave_behind(&self) {
        let info = self.lab.journal().info();
        let id = SandboxId::generate(1, [7; 10]);
        if self.setting.chain > 0 {
            let extension = self.lab.script("ext-0").name().clone();
            let key = format!("{id}/{extension}/create");
            let subject = Subject::Sandbox(SandboxId::generate(1, [8; 10]));
            self.lab.ledger().outside(What::Acquire { extension, subject, key, call: 0 });
        }
        self.lab.platform().plant(Observed {
            id,
            status: ObservedStatus::Created,
            attempt: None,
            gateway: info.gateway,
            epoch: info.epoch,
            commit: 0,
        });
    }

    fn hook(&self, index: usize, phase: Phase, act: Does) {
        self.lab.script(&format!("ext-{index}")).next(phase, act);
    }

    fn misbehave(&self) {
        match self.setting.fault {
            Fault::None => {}
            Fault::Hook { phase, position, ill } => {
                let act = match ill {
                    Ill::Fails => Does::Fail(StepError::fatal("scripted")),
                    Ill::TimesOut => Does::Obey,
                    Ill::Hangs => Does::Block(Duration::from_secs(90)),
                    Ill::Panics => Does::Panic,
                };
                self.hook(position, phase, act);
                // A cleanup is called when something fails.
                let fails = Does::Fail(StepError::fatal("scripted"));
                match (self.setting.act, phase) {
                    (Act::Create, Phase::AfterStop | Phase::OnCreateFailed) => {
                        self.hook(position, Phase::AfterReady, fails);
                    }
                    (Act::Create, Phase::ReleaseWorkspace) => {
                        self.hook(self.setting.chain - 1, Phase::EnsureWorkspace, fails);
                    }
                    (Act::Start, Phase::AfterStop) => {
                        self.hook(self.setting.chain - 1, Phase::BeforeStart, fails);
                    }
                    _ => {}
                }
            }
            Fault::Driver { call, lapse } => {
                let why = || "scripted".to_owned();
                let soon = Duration::from_millis(5);
                let behaviour = match lapse {
                    Lapse::NotRun => Behaviour::NotRun(why()),
                    Lapse::Fails => Behaviour::Fail(soon, why()),
                    Lapse::FailsDone => Behaviour::FailDone(soon, why()),
                    Lapse::LandsLate => Behaviour::HangDone(Duration::from_secs(100)),
                    Lapse::Lost => Behaviour::Hang,
                };
                self.lab.platform().next(call.call(), behaviour);
                match (self.setting.act, call.call()) {
                    (Act::Create | Act::Start, Call::Stop | Call::Delete) => {
                        self.lab.platform().next(Call::Start, Behaviour::FailDone(soon, why()));
                    }
                    (Act::Create, Call::ReleaseWorkspace) if self.setting.chain > 0 => {
                        let fails = Does::Fail(StepError::fatal("scripted"));
                        self.hook(self.setting.chain - 1, Phase::EnsureWorkspace, fails);
                    }
                    _ => {}
                }
            }
        }
    }

    /// The operation, as far as the gateway lives, and whatever follows from it.
    pub(crate) fn act(&mut self) {
        if self.begin().is_some() {
            self.lab.advance(SETTLED);
        }
    }

    fn begin(&mut self) -> Option<()> {
        let (engine, request) = (self.lab.engine(), self.lab.request());
        let sandbox = self.sandbox.clone();
        let id = move || sandbox.expect("the scene has a sandbox");
        match self.setting.act {
            Act::Create => drop(self.lab.ask_create("one")?),
            Act::Cancel => {
                let created = self.lab.ask_create("one")?.ok();
                self.lab.advance(Duration::from_micros(700)).then_some(())?;
                if let Some(created) = created {
                    let id = created.sandbox.id;
                    self.lab.run(async move { engine.delete(request, id, false).await })?.ok();
                }
            }
            Act::Start => drop(self.lab.run(async move { engine.start(request, id()).await })?),
            Act::Stop => drop(self.lab.run(async move { engine.stop(request, id()).await })?),
            Act::Delete | Act::Bury => drop(self.lab.run(async move { engine.delete(request, id(), false).await })?),
            Act::Exit => self.lab.platform().exit(&id(), 3),
            Act::Reconcile => {
                for index in 0..self.setting.chain {
                    let outcome = ReconcileOutcome::Repaired("scripted".to_owned());
                    self.lab.script(&format!("ext-{index}")).next_reconcile(outcome);
                }
                self.lab.run(async move { drop(engine.reconcile().await) })?;
            }
            // In the background, when their time comes.
            Act::Sweep | Act::Cleanup => {}
            Act::Workspace => {
                let deleting = engine.clone();
                let deleted = self.lab.run(async move { deleting.delete(request, id(), false).await })?.ok()?;
                let waiting = engine.clone();
                self.lab.run(async move { waiting.wait(&deleted.operation?).await.ok() })?;
                self.lab.run(delete_workspace(&self.lab))?;
            }
            Act::Shutdown => {
                self.lab.run(async move { engine.shutdown().await })?;
                self.lab.crash();
                self.lab.try_start().ok()?.then_some(())?;
            }
        }
        Some(())
    }

    /// From here on nobody misbehaves.
    pub(crate) fn behave(&self) {
        for index in 0..self.setting.chain {
            self.lab.script(&format!("ext-{index}")).behave();
        }
        self.lab.platform().behave();
    }

    /// The next process takes the rows of this epoch over.
    pub(crate) fn adopt(&self, epoch: StoreEpoch) {
        *self.adopts.lock() = Some(epoch);
    }

    /// The next process starts as usual.
    pub(crate) fn adopt_none(&self) {
        *self.adopts.lock() = None;
    }
}
