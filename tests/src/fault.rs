//! An extension with real effects that fails on command.
//!
//! Its effect is a file per sandbox and action phase; its cleanups remove them. Every call is appended to a file, so that a
//! test reads who was called, in which order, and with what.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use chiton_lifecycle::extension::{
    Approval, Descriptor, Draft, Extension, ExtensionKind, HookContext, HookCore, RequestContext, SlotValues,
    StepError, StepResult,
};
use chiton_lifecycle::plan::PlanView;
use chiton_model::{CreateFailure, Error, Phase, Ran, StartReason, StopReason};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

/// What to do in a phase.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Return an error.
    Fail,
    /// Take longer than any deadline.
    Hang,
    /// Panic.
    Panic,
    /// Fail as long as a file `mended` is not there.
    FailUntilMended,
}

/// The config: `[compute.extension."fault"]`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where its effects and its calls go.
    folder: PathBuf,
    /// The phase that fails; none does when absent.
    #[serde(default)]
    phase: Option<Phase>,
    /// How it fails.
    #[serde(default = "fail")]
    how: Fault,
    /// A label that it writes into the plan.
    #[serde(default)]
    label: Option<String>,
}

fn fail() -> Fault {
    Fault::Fail
}

/// The extension.
#[derive(Debug)]
pub struct Faulty(Config);

/// What the derived build registers.
pub fn extension() -> Result<ExtensionKind, Error> {
    let phases = Phase::ALL.iter().copied().filter(|phase| {
        !matches!(phase, Phase::Reconcile | Phase::Sweep | Phase::EnsureWorkspace | Phase::ReleaseWorkspace)
    });
    let mut descriptor = Descriptor::new("fault", "1.0.0", "Fails on command", phases)?;
    descriptor.local_effects = true;
    Ok(ExtensionKind::new(descriptor, |_: &Config| Vec::new(), |config| Ok(Faulty(config))))
}

impl Faulty {
    async fn fault(&self, phase: Phase) -> StepResult {
        if self.0.phase != Some(phase) {
            return Ok(());
        }
        match self.0.how {
            Fault::Fail => Err(StepError::fatal("told to fail")),
            Fault::FailUntilMended if self.0.folder.join("mended").exists() => Ok(()),
            Fault::FailUntilMended => Err(StepError::fatal("not mended yet")),
            Fault::Panic => panic!("told to panic"),
            Fault::Hang => {
                std::future::pending::<()>().await;
                Ok(())
            }
        }
    }

    fn note(&self, cx: &HookCore, ran: Option<Ran>) -> StepResult {
        let line = json!({ "phase": cx.phase(), "ran": ran, "key": cx.idempotency_key("effect"), "operation": cx.operation() });
        let write = || -> io::Result<()> {
            fs::create_dir_all(self.0.folder.join("effects"))?;
            // One write, so that lines of several threads do not mix.
            let mut file = OpenOptions::new().create(true).append(true).open(self.0.folder.join("calls"))?;
            file.write_all(format!("{line}\n").as_bytes())
        };
        write().map_err(|error| StepError::fatal(error.to_string()))
    }

    fn effect(&self, cx: &HookContext) -> PathBuf {
        self.0.folder.join("effects").join(format!("{}.{}", cx.sandbox, cx.phase()))
    }

    /// An action: noted, done, and then failed if told to, so that there is something to undo.
    async fn act(&self, cx: &HookContext) -> StepResult {
        self.note(cx, None)?;
        fs::write(self.effect(cx), "").map_err(|error| StepError::fatal(error.to_string()))?;
        self.fault(cx.phase()).await
    }

    /// A cleanup of the effects of these phases.
    async fn undo(&self, cx: &HookContext, ran: Ran, phases: [Phase; 2]) -> StepResult {
        self.note(cx, Some(ran))?;
        self.fault(cx.phase()).await?;
        for phase in phases {
            match fs::remove_file(self.0.folder.join("effects").join(format!("{}.{phase}", cx.sandbox))) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(StepError::fatal(error.to_string()));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Extension for Faulty {
    async fn validate_request(&self, _cx: &RequestContext) -> StepResult {
        self.fault(Phase::ValidateRequest).await
    }

    async fn prepare_plan(&self, _cx: &RequestContext, draft: &mut Draft) -> StepResult {
        if let Some(label) = &self.0.label {
            draft.portable().label(label, "fault")?;
        }
        self.fault(Phase::PreparePlan).await
    }

    async fn validate_plan(&self, _cx: &RequestContext, _plan: &PlanView) -> StepResult {
        self.fault(Phase::ValidatePlan).await
    }

    async fn before_create(&self, cx: &HookContext) -> StepResult<SlotValues> {
        self.act(cx).await?;
        Ok(SlotValues::new())
    }

    async fn after_create(&self, cx: &HookContext) -> StepResult {
        self.act(cx).await
    }

    async fn before_start(&self, cx: &HookContext, _reason: StartReason) -> StepResult {
        self.act(cx).await
    }

    async fn after_ready(&self, cx: &HookContext, _reason: StartReason) -> StepResult {
        self.act(cx).await
    }

    async fn approve_stop(&self, _cx: &HookContext, _reason: StopReason) -> StepResult<Approval> {
        match self.fault(Phase::ApproveStop).await {
            Ok(()) => Ok(Approval::Approve),
            Err(error) => Ok(Approval::Veto(error.to_string())),
        }
    }

    async fn before_stop(&self, cx: &HookContext, _reason: StopReason) -> StepResult {
        self.note(cx, None)?;
        self.fault(Phase::BeforeStop).await
    }

    async fn after_stop(&self, cx: &HookContext, ran: Ran, _reason: StopReason) -> StepResult {
        self.undo(cx, ran, [Phase::BeforeStart, Phase::AfterReady]).await
    }

    async fn on_create_failed(&self, cx: &HookContext, ran: Ran, _failure: &CreateFailure) -> StepResult {
        self.undo(cx, ran, [Phase::BeforeCreate, Phase::AfterCreate]).await
    }

    async fn before_delete(&self, cx: &HookContext) -> StepResult {
        self.note(cx, None)?;
        self.fault(Phase::BeforeDelete).await
    }

    async fn after_delete(&self, cx: &HookContext, ran: Ran) -> StepResult {
        self.undo(cx, ran, [Phase::BeforeCreate, Phase::AfterCreate]).await
    }
}

/// How long a test's hooks may take, so that a hanging one is over soon.
pub const DEADLINE: Duration = Duration::from_millis(500);
