//! The durable record of everything, by trait.
//!
//! A commit is durable when [`Journal::commit`] returns. A mark is not: it outlives the process and not the kernel, and
//! costs one `write(2)`. Recovery is correct with no marks at all; marks only narrow what may have happened.

mod marks;
mod records;

use std::fmt;

use async_trait::async_trait;
use chiton_model::{ExtensionName, GatewayId, OperationId, SandboxId, SandboxName, StoreEpoch, WorkspaceName};

pub use marks::{DriverCall, Mark, MarkEvent, MarkPosition, StepKey, StepStatus};
pub use records::{
    ActivationStamp, AuditRecord, ChainEntry, Debt, ExtensionState, FrozenChain, Obligation, ObligationReason,
    ObligationStatus, OperationOutcome, OperationRecord, RequestKey, RequestRecord, SandboxRecord, StepTiming, Subject,
    WorkspaceKey, WorkspaceRecord,
};
use serde_json::Value;

/// What can go wrong with the journal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// The name is held by another sandbox. Nothing was stored.
    #[error("the name is held by sandbox {holder}")]
    NameHeld {
        /// Who holds it.
        holder: SandboxId,
    },
    /// The workspace was released or is being released. Nothing was stored.
    #[error("the workspace is not ready on this driver")]
    WorkspaceGone,
    /// The workspace still has sandboxes. Nothing was stored.
    #[error("the workspace still has {0} sandboxes")]
    WorkspaceInUse(u64),
    /// A record cannot be read by this build.
    #[error("a record cannot be read: {0}")]
    Unreadable(String),
    /// There is no room for it. Nothing was stored, and what is stored is not touched.
    #[error("no room is left for the store: {0}")]
    Full(String),
    /// The medium failed: I/O error, lost connection.
    #[error("the store failed: {0}")]
    Failed(String),
}

/// Facts about a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreInfo {
    /// The installation that it belongs to.
    pub gateway: GatewayId,
    /// Its present life.
    pub epoch: StoreEpoch,
    /// The number of its last commit.
    pub last_commit: u64,
}

/// A condition that must hold for a commit, checked in the same transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// No live sandbox holds the name.
    NameFree(WorkspaceName, SandboxName),
    /// The workspace is ready on the driver (its ensure was committed and no release was).
    WorkspaceReady(WorkspaceKey),
    /// No sandbox row refers to the workspace.
    WorkspaceUnused(WorkspaceName),
}

/// One change of a commit.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Makes or replaces a sandbox's row.
    PutSandbox(Box<SandboxRecord>),
    /// Removes a sandbox's row, its states included.
    RemoveSandbox(SandboxId),
    /// Makes a row let go of its name.
    ReleaseName(SandboxId),
    /// Keeps a config document under its digest.
    PutConfig {
        /// `sha256:` and 64 hex digits.
        digest: String,
        /// The document.
        document: Value,
    },
    /// Makes or replaces an operation. One without an outcome is open.
    PutOperation(Box<OperationRecord>),
    /// Makes or replaces an extension's state.
    PutState(Subject, ExtensionName, ExtensionState),
    /// Removes an extension's state.
    RemoveState(Subject, ExtensionName),
    /// Makes or replaces an obligation.
    PutObligation(Box<Obligation>),
    /// Removes an obligation that was paid.
    RemoveObligation(String),
    /// Makes or replaces a workspace's row for a driver.
    PutWorkspace(Box<WorkspaceRecord>),
    /// Removes it.
    RemoveWorkspace(WorkspaceKey),
    /// Remembers a request id.
    PutRequest(Box<RequestRecord>),
    /// Appends to the audit trail.
    Audit(Box<AuditRecord>),
}

/// Changes that become durable together or not at all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Commit {
    /// Its number, from [`Journal::next_commit`]; 0 takes a fresh one.
    pub number: u64,
    /// What must hold. Checked after the `ReleaseName` writes are applied.
    pub checks: Vec<Check>,
    /// What changes.
    pub writes: Vec<Write>,
}

/// An operation that a crash interrupted.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenOperation {
    /// Its record as of C1 (or of the last update).
    pub operation: OperationRecord,
    /// Its marks in order, if they can be trusted; none means that every step from C1 on may have run.
    pub marks: Option<Vec<Mark>>,
}

/// Which rows a listing wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SandboxQuery {
    /// Only this workspace.
    pub workspace: Option<WorkspaceName>,
    /// Also rows that let go of their name.
    pub all: bool,
    /// Rows after this id, in id order.
    pub after: Option<SandboxId>,
    /// At most so many; 0 means no limit.
    pub limit: usize,
}

/// The store.
#[async_trait]
pub trait Journal: Send + Sync + 'static {
    /// Facts about it.
    fn info(&self) -> StoreInfo;

    /// A number for a commit that is being prepared; each is given once, later ones are larger, also after a restart.
    fn next_commit(&self) -> u64;

    /// Makes changes durable. On an error nothing was stored.
    async fn commit(&self, commit: Commit) -> Result<u64, JournalError>;

    /// Begins a new life of the store: objects of the old one may be another store's. Marks of the old one are no longer
    /// trusted.
    async fn renew_epoch(&self) -> Result<StoreEpoch, JournalError>;

    /// The lives of the store that have ended, oldest first, as far as it knows.
    async fn epochs(&self) -> Result<Vec<StoreEpoch>, JournalError>;

    /// Where the mark log ends now; an operation's record keeps it.
    fn mark_position(&self) -> MarkPosition;

    /// Appends a mark. When it returns the mark outlives the process. On an error nothing of it can be read back.
    fn mark(&self, mark: &Mark) -> Result<(), JournalError>;

    /// Operations without an outcome, oldest first. Called once, before anything else runs.
    async fn open_operations(&self) -> Result<Vec<OpenOperation>, JournalError>;

    /// A sandbox's row.
    async fn sandbox(&self, id: &SandboxId) -> Result<Option<SandboxRecord>, JournalError>;

    /// The row that holds the name, else the newest that held it.
    async fn sandbox_by_name(
        &self,
        workspace: &WorkspaceName,
        name: &SandboxName,
    ) -> Result<Option<SandboxRecord>, JournalError>;

    /// Rows in id order.
    async fn sandboxes(&self, query: &SandboxQuery) -> Result<Vec<SandboxRecord>, JournalError>;

    /// An operation.
    async fn operation(&self, id: &OperationId) -> Result<Option<OperationRecord>, JournalError>;

    /// A subject's operations, oldest first.
    async fn operations(&self, subject: &Subject) -> Result<Vec<OperationRecord>, JournalError>;

    /// What a request id was answered with.
    async fn request(&self, key: &RequestKey) -> Result<Option<RequestRecord>, JournalError>;

    /// The states of a subject.
    async fn states_of(&self, subject: &Subject) -> Result<Vec<(ExtensionName, ExtensionState)>, JournalError>;

    /// The states of an extension.
    async fn states_by(&self, extension: &ExtensionName) -> Result<Vec<(Subject, ExtensionState)>, JournalError>;

    /// Every subject and extension that has state.
    async fn state_keys(&self) -> Result<Vec<(Subject, ExtensionName)>, JournalError>;

    /// The audit trail after a number (0: from its beginning), oldest first, at most so many records, each with its number.
    /// Numbers ascend from 1 and are never given again.
    async fn audits(&self, after: u64, limit: usize) -> Result<Vec<(u64, AuditRecord)>, JournalError>;

    /// All obligations, oldest first.
    async fn obligations(&self) -> Result<Vec<Obligation>, JournalError>;

    /// A frozen config.
    async fn config(&self, digest: &str) -> Result<Option<Value>, JournalError>;

    /// All workspace rows.
    async fn workspaces(&self) -> Result<Vec<WorkspaceRecord>, JournalError>;

    /// Forgets what is past its time: answered requests, operations of rows that are gone, failed creates.
    async fn expire(&self, now: jiff::Timestamp) -> Result<Vec<SandboxId>, JournalError>;
}

impl fmt::Debug for dyn Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("info", &self.info()).finish()
    }
}
