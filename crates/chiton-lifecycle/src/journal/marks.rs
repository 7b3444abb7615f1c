//! Marks: what happened between an operation's two commits.

use std::collections::BTreeMap;
use std::fmt;

use chiton_model::{ExtensionName, OperationId, Phase};
use serde::{Deserialize, Serialize};

use super::ExtensionState;

/// A place in the mark log. Opaque to the engine; the store gives and takes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MarkPosition {
    /// The segment's random header.
    pub log: String,
    /// The next record's sequence number.
    pub sequence: u64,
    /// The kernel's boot id when the operation began.
    pub boot: String,
}

/// A call to a driver, as a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriverCall {
    /// Pull, assets.
    Prepare,
    /// Makes the object.
    Create,
    /// Starts it.
    Start,
    /// Until driver and agent are ready.
    Ready,
    /// Stops it.
    Stop,
    /// Removes it.
    Delete,
    /// Prepares a workspace.
    EnsureWorkspace,
    /// Releases a workspace.
    ReleaseWorkspace,
}

impl DriverCall {
    /// The word for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Create => "create",
            Self::Start => "start",
            Self::Ready => "ready",
            Self::Stop => "stop",
            Self::Delete => "delete",
            Self::EnsureWorkspace => "ensure_workspace",
            Self::ReleaseWorkspace => "release_workspace",
        }
    }
}

/// Names a step within its operation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum StepKey {
    /// A hook.
    Hook {
        /// The phase.
        phase: Phase,
        /// The extension.
        extension: ExtensionName,
    },
    /// A driver call.
    Driver(DriverCall),
}

impl StepKey {
    /// A hook's key.
    pub fn hook(phase: Phase, extension: &ExtensionName) -> Self {
        Self::Hook { phase, extension: extension.clone() }
    }
}

impl fmt::Display for StepKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hook { phase, extension } => write!(f, "{phase} {extension}"),
            Self::Driver(call) => write!(f, "driver {}", call.as_str()),
        }
    }
}

/// How far a step came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepStatus {
    /// About to be called.
    Started,
    /// Returned success.
    Completed,
    /// Returned an error, timed out, was cancelled or panicked, and is over.
    Failed,
    /// May have been called: known only after a crash, never written.
    Maybe,
}

/// What a mark says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum MarkEvent {
    /// A step's progress.
    Step {
        /// Which step.
        step: StepKey,
        /// How far it came.
        status: StepStatus,
    },
    /// Values of an extension's slots.
    Slots {
        /// Whose.
        extension: ExtensionName,
        /// By slot name.
        values: BTreeMap<String, String>,
    },
    /// An extension saved state, or removed it.
    State {
        /// Whose.
        extension: ExtensionName,
        /// The new state.
        state: Option<ExtensionState>,
    },
}

/// One record of the mark log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// The operation that it is about.
    pub operation: OperationId,
    /// What it says.
    pub event: MarkEvent,
}
