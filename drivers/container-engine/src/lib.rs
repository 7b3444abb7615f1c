//! A container engine as a compute driver: what `docker` and `podman` share, over the API that both of them serve.
//!
//! A sandbox is one container. Its plan is what the engine is asked for; the agent's program and folder are bound into it
//! read-only, and the agent is told its token and the sandbox's secrets on its standard input, so that nothing that the
//! engine keeps or shows holds them. Whose a container is stands in its labels, and everything is found by them.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod act;
mod body;
mod check;
mod client;
mod dialect;
mod doctor;
mod driver;
mod engine;
mod images;
mod launch;
mod logs;
mod names;
mod network;
mod observe;
mod options;
mod plan;
mod raw;
mod supervisor;
mod tombstones;
mod volumes;
mod watch;

pub use dialect::{Dialect, LaterAbilities};
pub use doctor::{Finding, doctor, probe};
pub use driver::EngineDriver;
pub use options::{Allowed, BridgeOptions, EngineOptions, PullPolicy, Ulimit};
pub use plan::{
    DevicePlan, EnginePlan, ImagePlan, MountPlan, NetworkPlan, PLAN_SCHEMA, ResourcesPlan, SandboxRef, SecurityPlan,
    SelinuxLabel, VolumePlan,
};

pub use supervisor::{
    AgentPlan, ClientTls, FilePlan, HostAddress, Injects, MainPlan, ProgramPlan, Supervisor, SupervisorOptions,
    SupervisorPlan, Ways,
};

#[cfg(test)]
mod tests;
