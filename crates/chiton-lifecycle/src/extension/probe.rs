//! What a kit that proves extensions needs from a hook's context: to see what the hook does with it, and to withhold state.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use async_trait::async_trait;
use chiton_model::ExtensionName;
use serde_json::Value;

use super::context::{HookCore, StateSink};
use super::{HookContext, WorkspaceContext};
use crate::journal::{ExtensionState, JournalError, Subject};
use crate::runtime::{CancelToken, Executor};

/// Sees what one hook does with its context. Methods are called while the hook runs and must return at once.
pub trait HookProbe: Send + Sync + 'static {
    /// Where the hook's blocking work goes instead; the given executor is the engine's, to which it must go in the end.
    fn executor(&self, engine: Arc<dyn Executor>) -> Arc<dyn Executor>;

    /// Whether the hook gets to see what was saved before. Without it, it sees what one sees whose state was lost.
    fn shows_state(&self) -> bool;

    /// The hook saved this.
    fn saved(&self, payload: &Value);

    /// The hook asked for saved state, and what there is could not be read as what it asked for.
    fn unread(&self, why: &str);
}

struct Probed {
    sink: Arc<dyn StateSink>,
    probe: Arc<dyn HookProbe>,
}

impl Probed {
    fn tell(&self, state: Option<&ExtensionState>) {
        if let Some(state) = state {
            self.probe.saved(&state.payload);
        }
    }
}

#[async_trait]
impl StateSink for Probed {
    fn save(&self, extension: &ExtensionName, state: Option<ExtensionState>) -> Result<(), JournalError> {
        self.tell(state.as_ref());
        self.sink.save(extension, state)
    }

    async fn save_durable(&self, extension: &ExtensionName, state: Option<ExtensionState>) -> Result<(), JournalError> {
        self.tell(state.as_ref());
        self.sink.save_durable(extension, state).await
    }

    fn load(&self, extension: &ExtensionName) -> Option<ExtensionState> {
        self.sink.load(extension).filter(|_| self.probe.shows_state())
    }

    async fn list(&self, extension: &ExtensionName) -> Result<Vec<(Subject, ExtensionState)>, JournalError> {
        let states = self.sink.list(extension).await?;
        Ok(if self.probe.shows_state() { states } else { Vec::new() })
    }

    fn unread(&self, why: &str) {
        self.probe.unread(why);
    }
}

impl HookCore {
    fn probed(&self, probe: Arc<dyn HookProbe>, cancel: CancelToken) -> Self {
        Self {
            extension: self.extension.clone(),
            state_schema: self.state_schema,
            subject: self.subject.clone(),
            call: self.call,
            phase: self.phase,
            operation: self.operation.clone(),
            attempt: self.attempt,
            ends_at: self.ends_at,
            may_repair: self.may_repair,
            cancel,
            executor: probe.executor(Arc::clone(&self.executor)),
            sink: Arc::new(Probed { sink: Arc::clone(&self.sink), probe }),
            clock: Arc::clone(&self.clock),
            alive: self.alive.clone(),
            saved: AtomicUsize::new(0),
        }
    }

    /// What the call is about.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }
}

impl HookContext {
    /// The context of the same call as seen through a probe. For kits that prove extensions.
    #[must_use]
    pub fn probed(&self, probe: Arc<dyn HookProbe>, cancel: CancelToken) -> Self {
        Self {
            core: self.core.probed(probe, cancel),
            sandbox: self.sandbox.clone(),
            name: self.name.clone(),
            workspace: self.workspace.clone(),
            kind: self.kind,
            principal: self.principal.clone(),
            request: Arc::clone(&self.request),
            driver: Arc::clone(&self.driver),
            backend: self.backend.clone(),
            plan: Arc::clone(&self.plan),
            slots: self.slots.clone(),
        }
    }
}

impl WorkspaceContext {
    /// The context of the same call as seen through a probe. For kits that prove extensions.
    #[must_use]
    pub fn probed(&self, probe: Arc<dyn HookProbe>, cancel: CancelToken) -> Self {
        Self {
            core: self.core.probed(probe, cancel),
            workspace: self.workspace.clone(),
            driver: Arc::clone(&self.driver),
        }
    }
}
