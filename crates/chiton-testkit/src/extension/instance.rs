//! One instance, with the machinery that every hook shares.

use std::time::Duration;

use chiton_lifecycle::extension::{HookCore, StepError, StepResult};
use chiton_lifecycle::journal::Subject;
use chiton_model::{ExtensionName, Phase, Ran};
use futures::channel::oneshot;
use serde_json::json;

use super::gate::Passage;
use super::script::{Act, ExtensionScript, Saves, ScriptedConfig};
use crate::ledger::{End, Hook, Ledger, What};
use crate::world::Process;

/// An instance of a scripted extension in one process.
pub struct ScriptedExtension {
    pub(super) script: ExtensionScript,
    pub(super) config: ScriptedConfig,
    pub(super) ledger: Ledger,
    pub(super) process: Process,
}

/// What a hook does when it is told to do it.
#[derive(Clone)]
pub(super) enum Deed {
    Nothing,
    /// Acquires under these slots.
    Acquire(&'static [&'static str]),
    /// Releases these slots.
    Release(&'static [&'static str]),
}

/// Writes a hook's end to the ledger, whichever way it comes.
pub(crate) struct HookGuard {
    ledger: Ledger,
    process: Process,
    call: u64,
    end: Option<End>,
}

impl HookGuard {
    pub(crate) fn new(ledger: &Ledger, process: &Process, call: u64) -> Self {
        Self { ledger: ledger.clone(), process: process.clone(), call, end: None }
    }

    /// How it ended, when it returned.
    pub(crate) fn end(&mut self, end: End) {
        self.end = Some(end);
    }
}

impl Drop for HookGuard {
    fn drop(&mut self) {
        let end = self.end.take().unwrap_or(if std::thread::panicking() { End::Panicked } else { End::Dropped });
        self.ledger.by(&self.process, What::HookEnd { call: self.call, end });
    }
}

/// What a hook is about, taken from its context.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) extension: ExtensionName,
    pub(super) subject: Subject,
    pub(super) call: u64,
    pub(super) keys: Vec<String>,
}

/// The words that a hook was told.
#[derive(Default)]
pub(super) struct Told {
    pub(super) ran: Option<Ran>,
    pub(super) reason: Option<String>,
}

impl ScriptedExtension {
    pub(super) fn new(script: ExtensionScript, config: ScriptedConfig, ledger: Ledger, process: Process) -> Self {
        Self { script, config, ledger, process }
    }

    pub(super) fn look(&self, phase: Phase) -> Act {
        self.ledger.by(&self.process, What::Look { extension: self.script.name().clone(), phase });
        self.script.act(phase)
    }

    /// A hook without effects on a request or plan.
    pub(super) async fn watch(&self, phase: Phase) -> StepResult {
        self.process.live().await;
        match self.look(phase) {
            Act::Slow(delay) | Act::Late(delay) | Act::Block(delay) => {
                self.process.world().sleep(delay).await;
                Ok(())
            }
            Act::Fail(error) | Act::Refuse(error) => Err(error),
            Act::Hang | Act::Obey => std::future::pending().await,
            Act::Panic => panic!("scripted panic in {phase}"),
            Act::Succeed | Act::Veto(_) | Act::WrongSlots | Act::Hoard | Act::Gate(_) => Ok(()),
        }
    }

    /// A hook with a context. Answers how the script wants it to go on, for hooks that return more than success.
    pub(super) async fn run(&self, core: &HookCore, subject: Subject, told: Told, deed: Deed) -> StepResult<Act> {
        self.process.live().await;
        let phase = core.phase();
        let call = self.ledger.next_call();
        self.check(core, phase);
        let begun = What::HookBegin(Hook {
            call,
            extension: core.extension().clone(),
            phase,
            subject: subject.clone(),
            operation: core.operation().clone(),
            attempt: core.attempt(),
            ran: told.ran,
            reason: told.reason,
            tag: self.config.tag.clone(),
        });
        self.ledger.by(&self.process, begun);
        let mut guard = HookGuard::new(&self.ledger, &self.process, call);
        self.process.live().await;
        let slots = match &deed {
            Deed::Nothing => &[][..],
            Deed::Acquire(slots) | Deed::Release(slots) => slots,
        };
        let keys = slots.iter().map(|slot| core.idempotency_key(slot)).collect();
        let target = Target { extension: core.extension().clone(), subject, call, keys };
        let act = self.script.act(phase);
        let result = match self.save(core, phase).await {
            Ok(()) => self.perform(core, &target, act.clone(), &deed).await,
            Err(error) => Err(error),
        };
        self.process.live().await;
        guard.end(match &result {
            Ok(()) => End::Succeeded,
            Err(error) => End::Failed(error.to_string()),
        });
        result.map(|()| act)
    }

    fn check(&self, core: &HookCore, phase: Phase) {
        if !self.script.descriptor().takes_part(phase) {
            self.ledger.violation(format!("{} is called in {phase} and takes no part in it", core.extension()));
        }
        if core.extension() != self.script.name() {
            self.ledger.violation(format!("{} gets the context of {}", self.script.name(), core.extension()));
        }
        if core.time_left().is_zero() && !core.cancel().is_cancelled() {
            self.ledger.violation(format!("{} is called in {phase} without time", core.extension()));
        }
    }

    /// Saves state before it acts, as an extension does whose handles a third party chooses.
    async fn save(&self, core: &HookCore, phase: Phase) -> StepResult {
        let state = json!({ "key": core.idempotency_key("create") });
        match self.script.saves {
            Saves::Fast if phase == Phase::BeforeCreate => core.save(&state),
            Saves::Durable if phase == Phase::BeforeCreate => core.save_durable(&state).await,
            Saves::FastEverywhere => core.save(&state),
            Saves::DurableEverywhere => core.save_durable(&state).await,
            _ => Ok(()),
        }
    }

    async fn perform(&self, core: &HookCore, target: &Target, act: Act, deed: &Deed) -> StepResult {
        let world = self.process.world();
        // A failing cleanup has not cleaned up; a failing action has acted. Both are the harder case.
        let half = |deed: &Deed| matches!(deed, Deed::Acquire(_)).then(|| deed.clone()).unwrap_or(Deed::Nothing);
        match act {
            Act::Succeed | Act::Veto(_) | Act::WrongSlots => self.do_it(target, deed).await,
            Act::Slow(delay) => {
                world.sleep(delay).await;
                self.do_it(target, deed).await
            }
            Act::Hoard => loop {
                core.save(&json!({ "filler": "x".repeat(1 << 16) }))?;
            },
            Act::Fail(error) => {
                self.do_it(target, &half(deed)).await?;
                Err(error)
            }
            Act::Refuse(error) => Err(error),
            Act::Hang => {
                self.do_it(target, &half(deed)).await?;
                std::future::pending().await
            }
            Act::Obey => {
                self.do_it(target, &half(deed)).await?;
                core.cancel().cancelled().await;
                Err(StepError::fatal("scripted: cancelled"))
            }
            Act::Panic => {
                self.do_it(target, &half(deed)).await?;
                panic!("scripted panic in {}", core.phase());
            }
            Act::Gate(gate) => match gate.pass(target.call, &target.subject, core.phase(), core.cancel()).await {
                Passage::Through => self.do_it(target, deed).await,
                Passage::ToFail => {
                    self.do_it(target, &half(deed)).await?;
                    Err(StepError::fatal("scripted: the gate says so"))
                }
                Passage::Cancelled => {
                    self.do_it(target, &half(deed)).await?;
                    Err(StepError::fatal("scripted: cancelled"))
                }
            },
            Act::Block(delay) => self.block(core, target, delay, deed).await,
            Act::Late(delay) => self.late(target, delay, deed).await,
        }
    }

    async fn do_it(&self, target: &Target, deed: &Deed) -> StepResult {
        apply(&self.ledger, Some(&self.process), target, deed);
        // The gateway may have been killed by that very entry.
        self.process.live().await;
        Ok(())
    }

    async fn block(&self, core: &HookCore, target: &Target, delay: Duration, deed: &Deed) -> StepResult {
        self.process.world().next_blocking_takes(delay);
        let (ledger, process) = (self.ledger.clone(), self.process.clone());
        let (target, deed) = (target.clone(), deed.clone());
        ledger.by(&process, What::BlockingBegin { call: target.call });
        core.blocking(move || {
            apply(&ledger, Some(&process), &target, &deed);
            ledger.by(&process, What::BlockingEnd { call: target.call });
        })
        .await
    }

    async fn late(&self, target: &Target, delay: Duration, deed: &Deed) -> StepResult {
        let (done, result) = oneshot::channel();
        let (ledger, target, deed) = (self.ledger.clone(), target.clone(), deed.clone());
        let sleep = self.process.world().sleep(delay);
        self.process.world().spawn_outside(async move {
            sleep.await;
            apply(&ledger, None, &target, &deed);
            // Nobody waits any more when the hook was cut off.
            let _ = done.send(());
        });
        result.await.map_err(|_| StepError::fatal("scripted: the remote side went away"))
    }
}

/// Writes the effects; those of the gateway only while it lives.
fn apply(ledger: &Ledger, process: Option<&Process>, target: &Target, deed: &Deed) {
    let write = |what: What| match process {
        Some(process) => drop(ledger.by(process, what)),
        None => ledger.outside(what),
    };
    for key in &target.keys {
        let (extension, subject, key) = (target.extension.clone(), target.subject.clone(), key.clone());
        let holds = ledger.holds(&extension, &key);
        match deed {
            // Idempotent both ways: what is held is not acquired again, what is not held needs no release.
            Deed::Acquire(_) if !holds => write(What::Acquire { extension, subject, key, call: target.call }),
            Deed::Release(_) if holds => write(What::Release { extension, subject, key, call: Some(target.call) }),
            _ => {}
        }
    }
}
