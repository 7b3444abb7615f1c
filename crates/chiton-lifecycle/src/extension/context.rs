//! What a hook gets to see and may call.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use chiton_driver::Capabilities;
use chiton_model::spec::{DEEPEST, is_shallow};
use chiton_model::{
    BackendId, ExtensionName, NetworkSpec, OperationId, OperationKind, Phase, Principal, Resources, SandboxId,
    SandboxName, VolumeMount, WorkspaceName,
};
use futures::channel::oneshot;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{StepError, StepId, StepResult};
use crate::journal::{ExtensionState, JournalError, Subject};
use crate::runtime::{CancelToken, Clock, Executor};

/// The request as extensions see it: no secret, no other driver's options.
#[derive(Clone, Debug)]
pub struct RequestView {
    /// The name, unless the gateway will generate one.
    pub name: Option<SandboxName>,
    /// The workspace.
    pub workspace: WorkspaceName,
    /// The image asked for; empty means the driver's default.
    pub image: String,
    /// The main process.
    pub command: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Limits.
    pub resources: Resources,
    /// How it reaches other machines.
    pub network: NetworkSpec,
    /// Named volumes.
    pub volumes: Vec<VolumeMount>,
    /// The chosen driver's own block.
    pub driver_config: Value,
}

/// What the phases before the commit get. There is no sandbox id: a plan must not depend on it.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// Who asks.
    pub principal: Principal,
    /// What is asked for.
    pub request: Arc<RequestView>,
    /// The chosen driver.
    pub driver: Arc<Capabilities>,
    /// Set when the hook should end.
    pub cancel: CancelToken,
}

/// Where a hook's saved state goes. Implemented by the engine.
#[async_trait]
pub(crate) trait StateSink: Send + Sync {
    fn save(&self, extension: &ExtensionName, state: Option<ExtensionState>) -> Result<(), JournalError>;
    async fn save_durable(&self, extension: &ExtensionName, state: Option<ExtensionState>) -> Result<(), JournalError>;
    fn load(&self, extension: &ExtensionName) -> Option<ExtensionState>;
    async fn list(&self, extension: &ExtensionName) -> Result<Vec<(Subject, ExtensionState)>, JournalError>;
    /// A hook could not read what it saved. Only a kit's probe listens; the hook has the error already.
    fn unread(&self, _why: &str) {}
}

/// Held by whatever belongs to a running hook; the hook is over when the last one is dropped.
pub(crate) struct Alive {
    count: Arc<AtomicUsize>,
    over: CancelToken,
}

impl Alive {
    pub(crate) fn new(over: CancelToken) -> Self {
        Self { count: Arc::new(AtomicUsize::new(1)), over }
    }
}

impl Clone for Alive {
    fn clone(&self) -> Self {
        self.count.fetch_add(1, Ordering::AcqRel);
        Self { count: Arc::clone(&self.count), over: self.over.clone() }
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        if self.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.over.cancel();
        }
    }
}

/// What every hook with effects gets, whatever its subject is.
pub struct HookCore {
    pub(crate) extension: ExtensionName,
    pub(crate) state_schema: u32,
    pub(crate) subject: Subject,
    pub(crate) call: u64,
    pub(crate) phase: Phase,
    pub(crate) operation: OperationId,
    pub(crate) attempt: u32,
    pub(crate) ends_at: Duration,
    pub(crate) may_repair: bool,
    pub(crate) cancel: CancelToken,
    pub(crate) sink: Arc<dyn StateSink>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) executor: Arc<dyn Executor>,
    pub(crate) alive: Alive,
    pub(crate) saved: AtomicUsize,
}

/// How much one attempt of a hook may save. It stays on disk until its operation has ended.
const MOST_SAVED: usize = 16 << 20;
/// What a save counts at least: its place in the log, and the time of a flush.
const LEAST_SAVE: usize = 4 << 10;

/// Counts what is written.
struct Size(usize);

impl std::io::Write for Size {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl HookCore {
    /// The extension's own name.
    pub fn extension(&self) -> &ExtensionName {
        &self.extension
    }

    /// The phase that is running.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The operation that this call is part of.
    pub fn operation(&self) -> &OperationId {
        &self.operation
    }

    /// 1 for the first call of this step, more for a retry.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// This very call: what an extension outside of this process is fenced by.
    pub fn step(&self) -> StepId {
        StepId {
            call: self.call,
            operation: self.operation.clone(),
            phase: self.phase,
            extension: self.extension.clone(),
            attempt: self.attempt,
        }
    }

    /// How much of the deadline is left.
    pub fn time_left(&self) -> Duration {
        self.ends_at.saturating_sub(self.clock.since_boot())
    }

    /// Set when the hook should end: its deadline passed or its operation was cancelled. A hook that goes on for more than
    /// a second after that is dropped.
    pub fn cancel(&self) -> &CancelToken {
        &self.cancel
    }

    /// Whether a `reconcile` may mend what it finds: the operator's policy lets it and the extension supports it. Otherwise
    /// it only looks and reports.
    pub fn may_repair(&self) -> bool {
        self.may_repair
    }

    /// A key for an external handle: the same in every attempt and after every crash, different for every subject,
    /// extension and slot.
    pub fn idempotency_key(&self, slot: &str) -> String {
        format!("{}/{}/{slot}", self.subject, self.extension)
    }

    /// The state that this extension saved for this subject. An unknown schema version never reaches a hook.
    pub fn state<S: DeserializeOwned>(&self) -> StepResult<Option<S>> {
        let Some(state) = self.sink.load(&self.extension) else { return Ok(None) };
        serde_json::from_value(state.payload)
            .map(Some)
            .map_err(|error| self.unread(format!("saved state cannot be read: {error}")))
    }

    fn unread(&self, why: String) -> StepError {
        self.sink.unread(&why);
        StepError::Fatal(why)
    }

    /// The schema version of the state that is saved, if any.
    pub fn state_version(&self) -> Option<u32> {
        self.sink.load(&self.extension).map(|state| state.schema_version)
    }

    fn encode(&self, state: &impl Serialize) -> StepResult<ExtensionState> {
        let payload = serde_json::to_value(state)
            .map_err(|error| StepError::fatal(format!("state cannot be written: {error}")))?;
        if !is_shallow(&payload) {
            return Err(StepError::fatal(format!("state is nested more than {DEEPEST} levels deep; write it flatter")));
        }
        let mut size = Size(0);
        drop(serde_json::to_writer(&mut size, &payload));
        let size = size.0.max(LEAST_SAVE);
        if self.saved.fetch_add(size, Ordering::Relaxed).saturating_add(size) > MOST_SAVED {
            return Err(StepError::fatal(
                "a hook may save 16 MiB in all, each save counted as 4 KiB at least; save less often",
            ));
        }
        Ok(ExtensionState { schema_version: self.state_schema, payload })
    }

    /// Saves state: outlives the process when this returns, and the machine once the operation is committed.
    pub fn save(&self, state: &impl Serialize) -> StepResult {
        let state = self.encode(state)?;
        self.sink.save(&self.extension, Some(state)).map_err(|error| StepError::fatal(error.to_string()))
    }

    /// Saves state so that it outlives a power loss too; costs one fsync. For handles that a third party chose and that
    /// nothing else could find again.
    pub async fn save_durable(&self, state: &impl Serialize) -> StepResult {
        let state = self.encode(state)?;
        self.sink.save_durable(&self.extension, Some(state)).await.map_err(|error| StepError::fatal(error.to_string()))
    }

    /// All states that this extension saved, for any subject.
    pub async fn states<S: DeserializeOwned>(&self) -> StepResult<Vec<(Subject, S)>> {
        let states = self.sink.list(&self.extension).await.map_err(|error| StepError::fatal(error.to_string()))?;
        states
            .into_iter()
            .map(|(subject, state)| match serde_json::from_value(state.payload) {
                Ok(payload) => Ok((subject, payload)),
                Err(error) => Err(self.unread(format!("saved state of {subject} cannot be read: {error}"))),
            })
            .collect()
    }

    /// Runs blocking work on a thread that may block. The hook is not over before the work is, even when the hook's
    /// future is dropped.
    pub async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> StepResult<T> {
        let (done, result) = oneshot::channel();
        let alive = self.alive.clone();
        self.executor.spawn_blocking(Box::new(move || {
            let value = work();
            drop(done.send(value));
            drop(alive);
        }));
        result.await.map_err(|_| StepError::fatal("blocking work panicked"))
    }
}

/// What a hook about a sandbox gets.
pub struct HookContext {
    pub(crate) core: HookCore,
    /// The sandbox's id: never reissued.
    pub sandbox: SandboxId,
    /// Its name; may be another sandbox's later.
    pub name: SandboxName,
    /// Its workspace.
    pub workspace: WorkspaceName,
    /// What is being done to it.
    pub kind: OperationKind,
    /// Who asked for the sandbox.
    pub principal: Principal,
    /// What was asked for.
    pub request: Arc<RequestView>,
    /// Its driver.
    pub driver: Arc<Capabilities>,
    /// The installation that its driver talks to.
    pub backend: BackendId,
    /// The sealed plan with the slots that are known by now; secrets never.
    pub plan: Arc<Value>,
    /// This extension's own slots, as far as they are filled.
    pub slots: BTreeMap<String, String>,
}

impl Deref for HookContext {
    type Target = HookCore;

    fn deref(&self) -> &HookCore {
        &self.core
    }
}

/// What a hook about a workspace gets.
pub struct WorkspaceContext {
    pub(crate) core: HookCore,
    /// The workspace.
    pub workspace: WorkspaceName,
    /// The driver on which it is being prepared or released.
    pub driver: Arc<Capabilities>,
}

impl Deref for WorkspaceContext {
    type Target = HookCore;

    fn deref(&self) -> &HookCore {
        &self.core
    }
}
