//! The embedded compute driver: OCI containers run directly, without a daemon and without a container engine.
//!
//! Three processes share the work, because each has a life of its own. The *gateway* holds this driver; it may stop,
//! die or be replaced at any moment, and a sandbox must not notice. The *monitor* (`chiton-oci-monitor`, a mode of the
//! static agent binary) lives as long as one run of one sandbox: it owns the container's init, so that its exit status
//! has somebody to be given to. The *launch child* ([`launch`]) is a short run of our own binary in which the container
//! library may fork and change its process as it likes. What the three leave behind at any point of any of them being
//! killed is found by the sandbox's id alone: folders, cgroups and lock are named after it, and mounts exist only in
//! namespaces that end with their last process.
//!
//! A sandbox has an identity range of its own, seven namespaces of its own, no capability, `no_new_privs`, and a root
//! of an overlay whose upper layer is kept from start to start.
#![deny(unsafe_code)]
#![warn(missing_docs)]

mod check;
mod connection;
mod disk;
mod doctor;
mod driver;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod host;
mod images;
pub mod launch;
mod logs;
mod means;
mod network;
mod options;
mod plan;
mod program;
mod record;
mod spec;
mod sys;
mod volumes;
mod wait;
mod watch;

pub use doctor::{Finding, doctor, probe};
pub use driver::OciDriver;
pub use options::{Launcher, NetworkOptions, OciOptions};
pub use plan::{
    DevicePlan, DiskMeans, DnsSource, ImageKind, ImagePlan, LayerPlan, MountPlan, NetworkMode, NetworkPlan, OciPlan,
    PLAN_SCHEMA, ResourcesPlan, SandboxRef, SecurityPlan, VolumePlan,
};
