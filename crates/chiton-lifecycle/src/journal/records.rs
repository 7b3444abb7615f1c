//! Rows of the store. All are versioned by the store's schema; every enum and struct here is read strictly.

use std::collections::BTreeMap;
use std::fmt;

use chiton_model::{
    BackendId, Condition, CreateFailure, DriverId, Error, ExitStatus, ExtensionName, OperationId, OperationKind, Phase,
    Principal, Ran, SandboxId, SandboxName, SandboxPhase, SandboxSpec, StartReason, StopReason, StoreEpoch,
    WorkspaceName,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{MarkPosition, StepKey};
use crate::plan::SealedPlan;

/// A workspace on a driver.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkspaceKey {
    /// The workspace.
    pub workspace: WorkspaceName,
    /// The driver.
    pub driver: DriverId,
}

/// What an operation, a state or an obligation is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// A sandbox.
    Sandbox(SandboxId),
    /// A workspace on a driver.
    Workspace(WorkspaceKey),
}

impl Subject {
    /// The sandbox, if it is one.
    pub fn sandbox(&self) -> Option<&SandboxId> {
        match self {
            Self::Sandbox(id) => Some(id),
            Self::Workspace(_) => None,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sandbox(id) => write!(f, "{id}"),
            Self::Workspace(key) => write!(f, "workspace/{}/{}", key.workspace, key.driver),
        }
    }
}

/// Why an extension is in a chain: the decision that the gateway stamped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActivationStamp {
    /// `always`, `on-request` or `match`.
    pub rule: String,
    /// sha256 of the rule's inputs: workspace, principal, labels, request.
    pub inputs: String,
    /// Who asked.
    pub principal: String,
}

/// One extension of a frozen chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainEntry {
    /// Its name.
    pub name: ExtensionName,
    /// Its version when the chain was sealed.
    pub version: String,
    /// The schema version of its state.
    pub state_schema: u32,
    /// Digest of its config document.
    pub config: String,
    /// Why it is here.
    pub activation: ActivationStamp,
    /// It only watches: its effect phases are never called.
    pub observe: bool,
}

/// The extensions of one sandbox, in order.
pub type FrozenChain = Vec<ChainEntry>;

/// A cleanup that somebody owes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Debt {
    /// Who.
    pub extension: ExtensionName,
    /// The cleanup phase to call.
    pub phase: Phase,
    /// What is known of the action.
    pub ran: Ran,
}

/// A sandbox's row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SandboxRecord {
    /// Its id.
    pub id: SandboxId,
    /// Its name.
    pub name: SandboxName,
    /// Whether it still holds the name.
    pub name_held: bool,
    /// Its workspace.
    pub workspace: WorkspaceName,
    /// Its driver.
    pub driver: DriverId,
    /// The installation that the driver talked to.
    pub backend: BackendId,
    /// The store's life in which it was made.
    pub epoch: StoreEpoch,
    /// The number of its create's C1.
    pub commit: u64,
    /// The operation that made it.
    pub created_by: OperationId,
    /// Who asked.
    pub principal: Principal,
    /// What was asked for.
    pub spec: SandboxSpec,
    /// What it is doing.
    pub phase: SandboxPhase,
    /// Notable facts.
    pub conditions: Vec<Condition>,
    /// How its main process ended, if it did.
    pub exit: Option<ExitStatus>,
    /// Why its create failed, if it did.
    pub failure: Option<CreateFailure>,
    /// The plan.
    pub plan: SealedPlan,
    /// Values of filled slots, by slot name. Secrets never.
    pub slots: BTreeMap<String, String>,
    /// The chain.
    pub chain: FrozenChain,
    /// Cleanups owed.
    pub debts: Vec<Debt>,
    /// Names the present start; the agent carries it.
    pub attempt: String,
    /// sha256 (hex) of the agent's token.
    pub token: String,
    /// The gateway stopped it at shutdown and starts it again.
    pub restart: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// The row goes at this time, if no cleanup is owed.
    pub expires_at: Option<Timestamp>,
}

impl SandboxRecord {
    /// It as a subject.
    pub fn subject(&self) -> Subject {
        Subject::Sandbox(self.id.clone())
    }
}

/// A workspace's row for one driver.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkspaceRecord {
    /// Which.
    pub key: WorkspaceKey,
    /// Its ensure was committed, and no release was begun.
    pub ready: bool,
    /// The extensions that took part, with their frozen configs.
    pub chain: FrozenChain,
    /// Cleanups owed.
    pub debts: Vec<Debt>,
    /// The store's life in which it was made.
    pub epoch: StoreEpoch,
    /// When it was made.
    pub created_at: Timestamp,
}

/// How long a step took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepTiming {
    /// Which step.
    pub step: StepKey,
    /// Microseconds from the operation's begin to the step's.
    pub begin_us: u64,
    /// Microseconds that it took.
    pub took_us: u64,
    /// What went wrong, if something did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationOutcome {
    /// It did what it was for.
    Succeeded,
    /// It did not; what it had begun was undone or is listed as obligations.
    Failed(Error),
}

/// An operation. Without an outcome it is open.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperationRecord {
    /// Its id.
    pub id: OperationId,
    /// What it is about.
    pub subject: Subject,
    /// What it does.
    pub kind: OperationKind,
    /// Why it starts something, if it does.
    pub start_reason: Option<StartReason>,
    /// Why it stops something, if it does.
    pub stop_reason: Option<StopReason>,
    /// Who asked.
    pub principal: Principal,
    /// The number of its C1.
    pub commit: u64,
    /// Where the mark log ended at C1.
    pub marks: MarkPosition,
    /// The store's life.
    pub epoch: StoreEpoch,
    /// When it began.
    pub started_at: Timestamp,
    /// When it began, by the clock since boot, in milliseconds.
    pub started_boot_ms: u64,
    /// A delete met it: it unwinds and the row goes.
    pub deleted: bool,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// How it ended; none while it is open.
    pub outcome: Option<OperationOutcome>,
    /// Its steps in order.
    pub steps: Vec<StepTiming>,
    /// Microseconds from begin to C2.
    pub total_us: u64,
}

/// State that an extension saved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtensionState {
    /// The schema version of the payload.
    pub schema_version: u32,
    /// The extension's own document.
    pub payload: Value,
}

/// Why a cleanup is not confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObligationReason {
    /// It was called and failed.
    CleanupFailed,
    /// The hook that it would undo has not ended.
    HookStillRunning,
    /// It succeeded once after a crash and is called once more, because the effect may still have been on its way.
    Confirming,
}

/// Where an obligation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObligationStatus {
    /// Retried until it succeeds.
    Open,
    /// The operator's policy gave it up; kept as a record.
    Abandoned,
}

/// A step that may have left something behind and whose cleanup is not confirmed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Obligation {
    /// Its id.
    pub id: String,
    /// What it is about.
    pub subject: Subject,
    /// The sandbox's name, for people.
    pub name: String,
    /// Who owes.
    pub debt: Debt,
    /// Why it is open.
    pub reason: ObligationReason,
    /// Where it stands.
    pub status: ObligationStatus,
    /// The reason that an `after_stop` hook is told.
    pub stop_reason: Option<StopReason>,
    /// The failure that an `on_create_failed` hook is told.
    pub failure: Option<CreateFailure>,
    /// The operation that owes it.
    pub operation: OperationId,
    /// When it came up.
    pub opened_at: Timestamp,
    /// How often it was tried.
    pub attempts: u32,
    /// What the last try said.
    pub last_error: String,
    /// When it is tried next.
    pub next_attempt_at: Timestamp,
    /// When it is forgotten; only of one that was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// Names a request that must not run twice.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestKey {
    /// Who asked.
    pub principal: String,
    /// Which method.
    pub method: String,
    /// The caller's id for the request.
    pub request_id: String,
}

/// What a request id stands for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestRecord {
    /// Which request.
    pub key: RequestKey,
    /// sha256 (hex) of its body.
    pub body: String,
    /// The operation that it began or joined; none when nothing was to be done.
    pub operation: Option<OperationId>,
    /// What it is about.
    pub subject: Subject,
    /// The sandbox as it was then, without the documents of its plan: the answer when the row is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Box<SandboxRecord>>,
    /// When it is forgotten.
    pub expires_at: Timestamp,
}

/// Something done by hand or by policy that an operator must be able to find later.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditRecord {
    /// When.
    pub at: Timestamp,
    /// One word.
    pub action: String,
    /// To what.
    pub subject: String,
    /// By whom.
    pub by: String,
    /// Why.
    pub message: String,
}
