//! An extension that misbehaves on demand, and that leaves real traces.
//!
//! Every call is appended to `FOLDER/calls.jsonl`, one JSON object a line, by a single write before anything else
//! happens: what the file says was called was called, whatever became of the process. Every phase that acts leaves a file
//! `FOLDER/effects/SANDBOX.PHASE`, *before* it misbehaves, so that a failed action has an effect that somebody must undo;
//! cleanups remove these files *after* they would have misbehaved.
//!
//! Which phase misbehaves, and how, is said by the config (`faults`) or by the request, as label `fault/PHASE` with the
//! kind as its value. While `FOLDER/cured` exists nothing misbehaves.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use chiton_lifecycle::extension::{
    Approval, Descriptor, Draft, Extension, ExtensionKind, HookContext, HookCore, ReconcileOutcome, RequestContext,
    SlotValues, StepError, StepResult, WorkspaceContext,
};
use chiton_lifecycle::plan::PlanView;
use chiton_model::{CreateFailure, Error, Phase, Ran, StartReason, StopReason};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// How a phase misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Fails for good.
    Fail,
    /// Fails at the first attempt and succeeds at the next.
    Once,
    /// Never returns; can be dropped.
    Hang,
    /// Returns, as if nothing were, once `FOLDER/cured` exists.
    Hold,
    /// Panics.
    Panic,
    /// `approve_stop` only: says no.
    Veto,
}

/// The config.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Absolute path of the folder for calls and effects. Must exist.
    pub folder: PathBuf,
    /// Phase → how it misbehaves.
    #[serde(default)]
    pub faults: BTreeMap<String, Kind>,
    /// Labels to write into every plan, to meet other extensions' writes.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// What is saved for each sandbox.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    ticket: String,
}

/// The extension.
#[derive(Debug)]
pub struct Fault {
    config: Config,
}

/// What the distribution registers.
///
/// # Errors
/// None in practice: the name is a constant of the right form.
pub fn extension() -> Result<ExtensionKind, Error> {
    extension_of(1)
}

/// The same, with state of another schema version.
///
/// # Errors
/// None in practice, either.
pub fn extension_of(state_schema: u32) -> Result<ExtensionKind, Error> {
    let phases = Phase::ALL.iter().copied().filter(|phase| *phase != Phase::Sweep);
    let mut descriptor = Descriptor::new("fault", env!("CARGO_PKG_VERSION"), "Misbehaves on demand", phases)?;
    // Files are written by this process: after a crash none can still be on its way.
    descriptor.local_effects = true;
    descriptor.state_schema = state_schema;
    Ok(ExtensionKind::new(descriptor, |_: &Config| Vec::new(), |config| Ok(Fault { config })))
}

fn io(error: &std::io::Error) -> StepError {
    StepError::fatal(format!("the test's folder cannot be used: {error}"))
}

impl Fault {
    /// Notes a call.
    fn note(&self, phase: Phase, mut call: serde_json::Value) -> StepResult {
        call["phase"] = json!(phase.as_str());
        let mut line = call.to_string();
        line.push('\n');
        let file = OpenOptions::new().append(true).create(true).open(self.config.folder.join("calls.jsonl"));
        file.and_then(|mut file| file.write_all(line.as_bytes())).map_err(|error| io(&error))
    }

    fn note_hook(&self, cx: &HookContext, ran: Option<Ran>, reason: Option<&str>) -> StepResult {
        self.note(
            cx.phase(),
            json!({
                "sandbox": cx.sandbox.as_str(), "name": cx.name.as_str(), "operation": cx.kind.as_str(),
                "attempt": cx.attempt(), "ran": ran.map(Ran::as_str), "reason": reason,
            }),
        )
    }

    fn effect(&self, subject: &str, phase: Phase) -> PathBuf {
        self.config.folder.join("effects").join(format!("{subject}.{phase}"))
    }

    /// Leaves a trace.
    fn act(&self, subject: &str, phase: Phase) -> StepResult {
        let path = self.effect(subject, phase);
        let made = fs::create_dir_all(self.config.folder.join("effects")).and_then(|()| fs::write(path, "held\n"));
        made.map_err(|error| io(&error))
    }

    /// Removes traces, whether they are there or not.
    fn undo(&self, subject: &str, phases: &[Phase]) -> StepResult {
        for phase in phases {
            match fs::remove_file(self.effect(subject, *phase)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(io(&error)),
                _ => {}
            }
        }
        Ok(())
    }

    fn wanted(&self, phase: Phase, labels: Option<&BTreeMap<String, String>>) -> Option<Kind> {
        if self.config.folder.join("cured").exists() {
            return None;
        }
        let asked = labels.and_then(|labels| labels.get(&format!("fault/{phase}")));
        let asked = asked.and_then(|kind| serde_json::from_value(json!(kind)).ok());
        asked.or_else(|| self.config.faults.get(phase.as_str()).copied())
    }

    async fn misbehave(&self, phase: Phase, labels: Option<&BTreeMap<String, String>>, attempt: u32) -> StepResult {
        match self.wanted(phase, labels) {
            Some(Kind::Fail) => Err(StepError::fatal(format!("{phase} was told to fail"))),
            Some(Kind::Once) if attempt == 1 => Err(StepError::retryable(format!("{phase} was told to fail once"))),
            Some(Kind::Hang) => futures::future::pending().await,
            Some(Kind::Hold) => {
                while !self.config.folder.join("cured").exists() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Ok(())
            }
            Some(Kind::Panic) => panic!("{phase} was told to panic"),
            Some(Kind::Once | Kind::Veto) | None => Ok(()),
        }
    }

    async fn hook(&self, cx: &HookContext) -> StepResult {
        self.misbehave(cx.phase(), Some(&cx.request.labels), cx.attempt()).await
    }

    async fn look(&self, cx: &RequestContext, phase: Phase) -> StepResult {
        let name = cx.request.name.as_ref().map(|name| name.as_str().to_owned());
        self.note(phase, json!({ "name": name }))?;
        self.misbehave(phase, Some(&cx.request.labels), 1).await
    }

    async fn action(&self, cx: &HookContext, reason: Option<&str>) -> StepResult {
        self.note_hook(cx, None, reason)?;
        self.act(cx.sandbox.as_str(), cx.phase())?;
        self.hook(cx).await
    }

    async fn cleanup(&self, cx: &HookContext, ran: Ran, reason: Option<&str>, phases: &[Phase]) -> StepResult {
        self.note_hook(cx, Some(ran), reason)?;
        self.hook(cx).await?;
        self.undo(cx.sandbox.as_str(), phases)
    }

    async fn workspace(&self, cx: &WorkspaceContext) -> StepResult {
        let core: &HookCore = cx;
        self.note(core.phase(), json!({ "workspace": cx.workspace.as_str(), "attempt": core.attempt() }))?;
        if core.phase() == Phase::EnsureWorkspace {
            self.act(cx.workspace.as_str(), Phase::EnsureWorkspace)?;
        }
        self.misbehave(core.phase(), None, core.attempt()).await
    }
}

const CREATED: [Phase; 2] = [Phase::BeforeCreate, Phase::AfterCreate];
const STARTED: [Phase; 2] = [Phase::BeforeStart, Phase::AfterReady];

#[async_trait]
impl Extension for Fault {
    async fn validate_request(&self, cx: &RequestContext) -> StepResult {
        self.look(cx, Phase::ValidateRequest).await
    }

    async fn prepare_plan(&self, cx: &RequestContext, draft: &mut Draft) -> StepResult {
        self.look(cx, Phase::PreparePlan).await?;
        let ticket = draft.slot_or("ticket", "none");
        draft.portable().env("FAULT_TICKET", &ticket)?;
        for (key, value) in &self.config.labels {
            draft.portable().label(key, value)?;
        }
        Ok(())
    }

    async fn validate_plan(&self, cx: &RequestContext, _plan: &PlanView) -> StepResult {
        self.look(cx, Phase::ValidatePlan).await
    }

    async fn before_create(&self, cx: &HookContext) -> StepResult<SlotValues> {
        self.action(cx, None).await?;
        let ticket = format!("ticket-{}", cx.sandbox);
        cx.save(&State { ticket: ticket.clone() })?;
        Ok(SlotValues::from([("ticket".to_owned(), ticket)]))
    }

    async fn after_create(&self, cx: &HookContext) -> StepResult {
        self.action(cx, None).await
    }

    async fn before_start(&self, cx: &HookContext, reason: StartReason) -> StepResult {
        self.action(cx, Some(reason.as_str())).await
    }

    async fn after_ready(&self, cx: &HookContext, reason: StartReason) -> StepResult {
        self.action(cx, Some(reason.as_str())).await
    }

    async fn approve_stop(&self, cx: &HookContext, reason: StopReason) -> StepResult<Approval> {
        self.note_hook(cx, None, Some(reason.as_str()))?;
        if self.wanted(cx.phase(), Some(&cx.request.labels)) == Some(Kind::Veto) {
            return Ok(Approval::Veto("it was told to say no".to_owned()));
        }
        self.hook(cx).await.map(|()| Approval::Approve)
    }

    async fn before_stop(&self, cx: &HookContext, reason: StopReason) -> StepResult {
        self.note_hook(cx, None, Some(reason.as_str()))?;
        self.hook(cx).await
    }

    async fn after_stop(&self, cx: &HookContext, ran: Ran, reason: StopReason) -> StepResult {
        self.cleanup(cx, ran, Some(reason.as_str()), &STARTED).await
    }

    async fn on_create_failed(&self, cx: &HookContext, ran: Ran, failure: &CreateFailure) -> StepResult {
        self.cleanup(cx, ran, Some(&failure.step), &CREATED).await
    }

    async fn before_delete(&self, cx: &HookContext) -> StepResult {
        self.note_hook(cx, None, None)?;
        self.hook(cx).await
    }

    async fn after_delete(&self, cx: &HookContext, ran: Ran) -> StepResult {
        self.cleanup(cx, ran, None, &CREATED).await
    }

    async fn reconcile(&self, cx: &HookContext) -> ReconcileOutcome {
        let noted = match self.note_hook(cx, None, None) {
            Ok(()) => self.hook(cx).await,
            Err(error) => Err(error),
        };
        match (noted, cx.state::<State>()) {
            (Err(error), _) | (Ok(()), Err(error)) => ReconcileOutcome::Failed(error.to_string()),
            (Ok(()), Ok(Some(_))) if !self.effect(cx.sandbox.as_str(), Phase::BeforeCreate).exists() => {
                ReconcileOutcome::Drift("the file of before_create is gone".to_owned())
            }
            (Ok(()), Ok(_)) => ReconcileOutcome::InSync,
        }
    }

    async fn ensure_workspace(&self, cx: &WorkspaceContext) -> StepResult {
        self.workspace(cx).await
    }

    async fn release_workspace(&self, cx: &WorkspaceContext, _ran: Ran) -> StepResult {
        self.workspace(cx).await?;
        self.undo(cx.workspace.as_str(), &[Phase::EnsureWorkspace])
    }
}
