//! What a driver is handed for a call, and the three ways in which a call can end.

use chiton_model::label::managed;
use chiton_model::{Error, ExtensionName, GatewayId, OperationId, SandboxId, SandboxName, StoreEpoch, WorkspaceName};
use serde_json::Value;

/// Who a backend object belongs to: its managed labels, which drivers set last so that nothing overrides them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The installation.
    pub gateway: GatewayId,
    /// The store's life.
    pub epoch: StoreEpoch,
    /// The number of the commit that intended the object.
    pub commit: u64,
    /// The sandbox.
    pub sandbox: SandboxId,
    /// Its name.
    pub name: SandboxName,
    /// Its workspace.
    pub workspace: WorkspaceName,
    /// The operation that makes it.
    pub operation: OperationId,
    /// Who asked for it: a principal's subject. No label.
    pub principal: String,
    /// The extensions on its chain, in order. No label here; a driver that hands the sandbox on to another says it there.
    pub extensions: Vec<ExtensionName>,
}

impl Identity {
    /// The managed labels, as key and value.
    pub fn labels(&self) -> [(&'static str, String); 8] {
        [
            (managed::MANAGED_BY, "chiton".to_owned()),
            (managed::GATEWAY_ID, self.gateway.to_string()),
            (managed::STORE_EPOCH, self.epoch.to_string()),
            (managed::COMMIT, self.commit.to_string()),
            (managed::SANDBOX_ID, self.sandbox.to_string()),
            (managed::SANDBOX_NAME, self.name.to_string()),
            (managed::WORKSPACE, self.workspace.to_string()),
            (managed::OPERATION, self.operation.to_string()),
        ]
    }
}

/// How the agent of one start proves who it is. The token is a secret: never logged, never stored.
#[derive(Clone)]
pub struct AgentLaunch {
    /// The sandbox's own token; empty at a start of a driver that cannot bring a new one: the sandbox has its own already.
    pub token: String,
    /// Names this start; the gateway waits for the agent that carries it.
    pub attempt: String,
}

impl std::fmt::Debug for AgentLaunch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentLaunch").field("attempt", &self.attempt).finish_non_exhaustive()
    }
}

/// A create: the whole plan with every slot and secret in place.
#[derive(Clone, Debug)]
pub struct CreateCall {
    /// Managed labels, the id among them.
    pub identity: Identity,
    /// The sealed plan, slots and secrets filled. Holds secrets: never logged, never stored as it is.
    pub plan: Value,
    /// The agent's credentials, when the driver carries one.
    pub agent: Option<AgentLaunch>,
}

/// A start of a created, stopped or exited sandbox. It carries all that a create carries, because platforms without a
/// restart rebuild the object around the files that were kept.
pub type StartCall = CreateCall;

/// How a call that did not succeed ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Certainly without effect.
    #[error("{0}")]
    NotRun(Error),
    /// It failed; what it did is known to be undone or will be found by id.
    #[error("{0}")]
    Failed(Error),
    /// Nobody knows: a deadline, a lost connection, a crash. Probed by id before any retry or undo.
    #[error("{0}")]
    Unknown(Error),
}

impl CallError {
    /// The condition that the call ended with.
    pub fn error(&self) -> &Error {
        match self {
            Self::NotRun(error) | Self::Failed(error) | Self::Unknown(error) => error,
        }
    }

    /// The condition that the call ended with.
    pub fn into_error(self) -> Error {
        match self {
            Self::NotRun(error) | Self::Failed(error) | Self::Unknown(error) => error,
        }
    }
}

/// The result of a driver call.
pub type CallResult<T> = Result<T, CallError>;
