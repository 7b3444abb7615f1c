//! The lifecycle's vocabulary: phases that extensions take part in, phases that a sandbox is in, and reasons.

use std::fmt;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum $name {
            $($(#[$variant_meta])* #[serde(rename = $text)] $variant,)+
        }

        impl $name {
            /// Every value, in the order of the design's table.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The word that people and wires use.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// Reads the word back.
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)+ _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

words!(
    /// A phase of the lifecycle in which extensions take part.
    Phase {
        /// Looks at the request; no effects.
        ValidateRequest = "validate_request",
        /// May write plan fields and declare slots; no effects.
        PreparePlan = "prepare_plan",
        /// Looks at the merged plan with its owners; no effects.
        ValidatePlan = "validate_plan",
        /// Allocates before the backend object exists; fills its slots.
        BeforeCreate = "before_create",
        /// The backend object exists and has not started.
        AfterCreate = "after_create",
        /// About to start.
        BeforeStart = "before_start",
        /// The platform runs it and its agent is connected.
        AfterReady = "after_ready",
        /// May veto a requested stop or suspend; no effects.
        ApproveStop = "approve_stop",
        /// About to stop.
        BeforeStop = "before_stop",
        /// Cleanup: it is confirmed stopped.
        AfterStop = "after_stop",
        /// Cleanup: the create failed and the backend object is confirmed absent.
        OnCreateFailed = "on_create_failed",
        /// About to be deleted.
        BeforeDelete = "before_delete",
        /// Cleanup: the backend object is confirmed absent.
        AfterDelete = "after_delete",
        /// Compares outside state with saved state.
        Reconcile = "reconcile",
        /// Frees what no state names.
        Sweep = "sweep",
        /// Before the first sandbox of a workspace on a driver.
        EnsureWorkspace = "ensure_workspace",
        /// Cleanup: the workspace goes.
        ReleaseWorkspace = "release_workspace",
    }
);

impl Phase {
    /// Whether the phase undoes effects, so that it is retried until it succeeds.
    pub fn is_cleanup(self) -> bool {
        matches!(self, Self::AfterStop | Self::OnCreateFailed | Self::AfterDelete | Self::ReleaseWorkspace)
    }

    /// Whether extensions are called last to first.
    pub fn is_reverse(self) -> bool {
        self.is_cleanup() || matches!(self, Self::BeforeStop | Self::BeforeDelete)
    }
}

words!(
    /// What a sandbox is doing, as the API shows it.
    SandboxPhase {
        /// Being created.
        Provisioning = "Provisioning",
        /// Running, and its agent is connected.
        Ready = "Ready",
        /// Being started again.
        Starting = "Starting",
        /// Being stopped.
        Stopping = "Stopping",
        /// Stopped; its files are kept.
        Stopped = "Stopped",
        /// Its main process ended by itself; its files are kept.
        Completed = "Completed",
        /// Being deleted.
        Deleting = "Deleting",
        /// Gone from its platform; the row stays until the last cleanup is done.
        Deleted = "Deleted",
        /// Its create failed and was undone; the row tells why.
        Error = "Error",
    }
);

words!(
    /// What an operation does to its subject. At most one runs per subject.
    OperationKind {
        /// Makes a sandbox.
        Create = "create",
        /// Starts a stopped or completed sandbox.
        Start = "start",
        /// Stops a running sandbox.
        Stop = "stop",
        /// Removes a sandbox.
        Delete = "delete",
        /// Takes in that the main process ended.
        Exit = "exit",
        /// Pays a cleanup that failed before.
        Cleanup = "cleanup",
        /// Compares outside state with saved state.
        Reconcile = "reconcile",
        /// Prepares a workspace on a driver.
        EnsureWorkspace = "ensure_workspace",
        /// Removes a workspace.
        ReleaseWorkspace = "release_workspace",
    }
);

words!(
    /// Why a sandbox is being started.
    StartReason {
        /// As the last part of its create.
        Create = "Create",
        /// Somebody asked.
        Request = "Request",
        /// From a snapshot.
        Resume = "Resume",
        /// The gateway stopped it at shutdown and starts it again.
        GatewayRestart = "GatewayRestart",
        /// A suspend was given up.
        SuspendAborted = "SuspendAborted",
    }
);

words!(
    /// Why a sandbox is being stopped, or was.
    StopReason {
        /// Somebody asked.
        Request = "Request",
        /// It is being suspended.
        Suspend = "Suspend",
        /// The gateway shuts down and manages this driver's lifecycle.
        GatewayShutdown = "GatewayShutdown",
        /// Its main process ended.
        ProcessExited = "ProcessExited",
        /// It is being deleted.
        Deleting = "Deleting",
        /// Its create failed.
        CreateFailed = "CreateFailed",
        /// Its start failed.
        StartFailed = "StartFailed",
    }
);

words!(
    /// What a cleanup hook is told about the action it undoes.
    Ran {
        /// The action returned success.
        Completed = "completed",
        /// The action returned an error, timed out, was cancelled or panicked.
        Failed = "failed",
        /// Nobody knows whether the action ran, or how far.
        Maybe = "maybe",
    }
);

/// Why a create was undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateFailure {
    /// The step that failed: a phase, or `driver create`, `driver start`, `ready`, `interrupted`, `deleted`.
    pub step: String,
    /// The extension whose hook it was, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extension: Option<String>,
    /// What it said.
    pub cause: String,
}

impl fmt::Display for CreateFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.extension {
            Some(extension) => write!(f, "extension {extension:?} failed in {}: {}", self.step, self.cause),
            None => write!(f, "{} failed: {}", self.step, self.cause),
        }
    }
}

/// How a main process ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExitStatus {
    /// Its exit code (128 + signal when a signal ended it); absent when nobody saw it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// One word: `Exited`, `Signaled`, `OOMKilled`; `AgentKilled`, `MonitorLost`, `HostRestarted` when something outside
    /// ended it unasked; `Unknown`.
    pub reason: String,
    /// When it ended, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub at: Option<Timestamp>,
}
