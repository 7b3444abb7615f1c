//! The contract between the lifecycle engine and a compute driver.
//!
//! A driver creates and observes sandboxes on one platform. It never sees the public API's types, never sees extensions
//! and never decides a public phase: it is handed a sealed plan, and it reports platform facts.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod agent;
mod call;
mod capabilities;
mod driver;
mod file;
mod images;
mod listen;
mod observe;
mod offers;
mod parts;
mod plan;
mod volume;

pub use agent::WhoseAgent;
pub use call::{AgentLaunch, CallError, CallResult, CreateCall, Identity, StartCall};
pub use capabilities::{Capabilities, Feature, Limit, Locality, NetworkKind, Point};
pub use driver::{ComputeDriver, Deadlines};
pub use file::replace_file;
pub use images::{ImageEvent, ImageInfo, Images, Removed, transfer_in_words};
pub use listen::{GatewayListener, ListenAt};
pub use observe::{DriverEvent, LogChunk, LogOptions, LogStream, Observed, ObservedStatus};
pub use parts::{
    DevicePlan, SandboxRef, VolumePlan, check_hostname, check_path, has_open_slot, parse_count, pointer_segment,
};
pub use plan::{DefaultPlan, FieldRule, PlanRequest, PortableWrite, Rule, marker, slots};
pub use volume::{Volume, VolumeRequest, VolumeUser};
