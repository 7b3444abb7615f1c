//! Contexts for hooks whose engine is in another process: what serves an extension over a socket builds them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use async_trait::async_trait;
use chiton_driver::Capabilities;
use chiton_model::{BackendId, ExtensionName, OperationKind, Principal, SandboxId, SandboxName, WorkspaceName};
use serde_json::Value;

use super::context::{Alive, HookContext, HookCore, RequestView, StateSink, WorkspaceContext};
use super::fence::StepId;
use crate::journal::{ExtensionState, JournalError, Subject};
use crate::runtime::{CancelToken, Clock, Executor};

/// The engine's side of an extension's state, as far as it can be reached.
#[async_trait]
pub trait RemoteStates: Send + Sync + 'static {
    /// What is saved for the hook's subject.
    fn load(&self) -> Option<ExtensionState>;
    /// Saves; the engine has it when this returns. May block the thread.
    fn save(&self, state: ExtensionState) -> Result<(), String>;
    /// Saves so that it survives a power loss.
    async fn save_durable(&self, state: ExtensionState) -> Result<(), String>;
    /// What is saved for every subject.
    async fn list(&self) -> Result<Vec<(Subject, ExtensionState)>, String>;
}

struct Sink(Arc<dyn RemoteStates>);

#[async_trait]
impl StateSink for Sink {
    fn save(&self, _extension: &ExtensionName, state: Option<ExtensionState>) -> Result<(), JournalError> {
        state.map_or(Ok(()), |state| self.0.save(state)).map_err(JournalError::Failed)
    }

    async fn save_durable(
        &self,
        _extension: &ExtensionName,
        state: Option<ExtensionState>,
    ) -> Result<(), JournalError> {
        let Some(state) = state else { return Ok(()) };
        self.0.save_durable(state).await.map_err(JournalError::Failed)
    }

    fn load(&self, _extension: &ExtensionName) -> Option<ExtensionState> {
        self.0.load()
    }

    async fn list(&self, _extension: &ExtensionName) -> Result<Vec<(Subject, ExtensionState)>, JournalError> {
        self.0.list().await.map_err(JournalError::Failed)
    }
}

impl HookCore {
    /// What the extension saved for this subject, as it is stored. For who passes a hook on to another process.
    pub fn stored_state(&self) -> Option<ExtensionState> {
        self.sink.load(&self.extension)
    }

    /// All states that the extension saved, as they are stored. For who passes a hook on to another process.
    pub async fn stored_states(&self) -> Result<Vec<(Subject, ExtensionState)>, JournalError> {
        self.sink.list(&self.extension).await
    }
}

/// What a hook about a sandbox is told of it; the fields are those of [`HookContext`].
#[expect(missing_docs, reason = "each is documented where hooks see it")]
pub struct RemoteSandbox {
    pub sandbox: SandboxId,
    pub name: SandboxName,
    pub workspace: WorkspaceName,
    pub kind: OperationKind,
    pub principal: Principal,
    pub request: Arc<RequestView>,
    pub driver: Arc<Capabilities>,
    pub backend: BackendId,
    pub plan: Arc<Value>,
    pub slots: BTreeMap<String, String>,
}

/// One call of a hook that an engine elsewhere asked for.
pub struct RemoteHook {
    /// The attempt.
    pub step: StepId,
    /// What it is about.
    pub subject: Subject,
    /// The schema version of the state that the extension writes.
    pub state_schema: u32,
    /// How much of its deadline is left now.
    pub time_left: Duration,
    /// Whether a reconcile may mend.
    pub may_repair: bool,
    /// Set when it should end.
    pub cancel: CancelToken,
    /// Set, once the context is dropped and the hook's blocking work has ended, by the context itself.
    pub over: CancelToken,
    /// The engine's side.
    pub states: Arc<dyn RemoteStates>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Where the hook's blocking work runs.
    pub executor: Arc<dyn Executor>,
}

impl RemoteHook {
    fn core(self) -> HookCore {
        HookCore {
            extension: self.step.extension.clone(),
            state_schema: self.state_schema,
            subject: self.subject,
            call: self.step.call,
            phase: self.step.phase,
            operation: self.step.operation,
            attempt: self.step.attempt,
            ends_at: self.clock.since_boot() + self.time_left,
            may_repair: self.may_repair,
            cancel: self.cancel,
            sink: Arc::new(Sink(self.states)),
            clock: self.clock,
            executor: self.executor,
            alive: Alive::new(self.over),
            saved: AtomicUsize::new(0),
        }
    }

    /// The context of a hook about a sandbox.
    pub fn about_sandbox(self, about: RemoteSandbox) -> HookContext {
        HookContext {
            core: self.core(),
            sandbox: about.sandbox,
            name: about.name,
            workspace: about.workspace,
            kind: about.kind,
            principal: about.principal,
            request: about.request,
            driver: about.driver,
            backend: about.backend,
            plan: about.plan,
            slots: about.slots,
        }
    }

    /// The context of a hook about a workspace.
    pub fn about_workspace(self, workspace: WorkspaceName, driver: Arc<Capabilities>) -> WorkspaceContext {
        WorkspaceContext { core: self.core(), workspace, driver }
    }
}
