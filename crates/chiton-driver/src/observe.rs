//! What a driver reports about its platform.

use bytes::Bytes;
use chiton_model::{ExitStatus, GatewayId, SandboxId, StoreEpoch};
use futures::stream::BoxStream;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::CallResult;

/// What the platform says of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ObservedStatus {
    /// Made, not started.
    Created,
    /// Running.
    Running,
    /// Not running: stopped, or its main process ended.
    Exited(ExitStatus),
    /// Half made, or being removed: neither usable nor absent.
    Broken(String),
}

/// One backend object of this gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// The sandbox.
    pub id: SandboxId,
    /// Its state.
    pub status: ObservedStatus,
    /// The start that this status is about, where the driver knows it: late news of an earlier start is then told apart.
    pub attempt: Option<String>,
    /// From its managed labels.
    pub gateway: GatewayId,
    /// From its managed labels.
    pub epoch: StoreEpoch,
    /// From its managed labels.
    pub commit: u64,
}

/// News from a driver. A watch begins with every object, then `SnapshotEnd`, then changes; after a lag it begins anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DriverEvent {
    /// An object as it is now.
    Changed(Observed),
    /// An object is gone.
    Deleted(SandboxId),
    /// Everything that exists was told.
    SnapshotEnd,
    /// Slow work goes on, for people.
    Progress {
        /// The sandbox.
        id: SandboxId,
        /// What is being done.
        message: String,
    },
}

/// Which part of the main process's output is wanted.
#[derive(Clone, Debug, Default)]
pub struct LogOptions {
    /// Go on with what is written later.
    pub follow: bool,
    /// Only the last so many lines.
    pub tail: Option<u64>,
    /// Only what was written at or after this time.
    pub since: Option<Timestamp>,
}

/// A piece of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogChunk {
    /// When it was read from the process.
    pub at: Timestamp,
    /// Whether it is of standard error.
    pub stderr: bool,
    /// The bytes as they came.
    pub data: Bytes,
    /// How many bytes of output are missing before these, given up to keep within the limit or because they could not be
    /// written. A chunk that tells of such has no data.
    pub dropped: u64,
}

/// A stream of output.
pub type LogStream = BoxStream<'static, CallResult<LogChunk>>;
