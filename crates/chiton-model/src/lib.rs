//! Words that every part of Chiton shares: ids, names, labels, quantities, phases, conditions and errors.
//!
//! Nothing here does I/O, reads a clock or draws a random number: values come in from the edge. A type in this crate is
//! valid by construction, so that no later layer has to check it again.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod condition;
pub mod error;
pub mod id;
pub mod label;
pub mod name;
pub mod network;
pub mod phase;
pub mod quantity;
pub mod spec;
mod suggest;
pub mod volume;

pub use condition::{Condition, ConditionStatus};
pub use error::{Error, ErrorKind, Result};
pub use id::{BackendId, DriverId, ExtensionName, GatewayId, OperationId, SandboxId, StoreEpoch};
pub use name::{SandboxName, VolumeName, WorkspaceName};
pub use network::{NetworkMode, NetworkRule, NetworkSpec, Protocol};
pub use phase::{CreateFailure, ExitStatus, OperationKind, Phase, Ran, SandboxPhase, StartReason, StopReason};
pub use quantity::{CpuQuantity, MemoryQuantity};
pub use spec::{Principal, Resources, SandboxSpec};
pub use suggest::{nearest, printable};
pub use volume::VolumeMount;
