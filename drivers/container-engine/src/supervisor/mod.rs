//! The supervisor of an `OpenShell` gateway, put into sandboxes as that gateway's own docker and podman drivers do it
//! (commit 2f7fb65). Every name of the other side that this crate knows is in this module.
//!
//! - `names`: paths, variables, lists
//! - `plan`: what will be injected, as data in the plan, and the checks of it
//! - `body`: from that to what the engine is asked for
//! - `host`: the address by which sandboxes reach this machine, and where their gateway has to listen
//! - `program`: the program itself, from a file or out of an image, kept by its digest
//! - `token`: the sandbox's token, a file of this driver that only the sandbox's first process is shown

mod body;
mod host;
mod names;
mod plan;
mod program;
mod token;

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::path::PathBuf;

pub(crate) use body::{Injected, host_entries, variables};
pub use plan::{AgentPlan, FilePlan, MainPlan, ProgramPlan, SupervisorPlan};
pub(crate) use plan::{Sandbox, check, default_main, overlaps, planned};
pub(crate) use program::Programs;

/// Whose ways of starting the supervisor an engine has: the other side's two drivers differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ways {
    /// As its docker driver.
    Docker,
    /// As its podman driver.
    Podman,
}

/// What is put into the sandboxes of a driver.
#[derive(Clone, Debug, Default)]
pub enum Injects {
    /// Chiton's agent.
    #[default]
    Agent,
    /// Nothing.
    Nothing,
    /// Another gateway's supervisor.
    Supervisor(Box<SupervisorOptions>),
}

impl Injects {
    /// Whether sandboxes have something in them that talks to a gateway.
    pub(crate) fn talks(&self) -> bool {
        !matches!(self, Self::Nothing)
    }

    /// The supervisor, if it is one.
    pub(crate) fn supervisor(&self) -> Option<&SupervisorOptions> {
        match self {
            Self::Supervisor(options) => Some(options),
            Self::Agent | Self::Nothing => None,
        }
    }
}

/// Where the supervisor's program is got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Supervisor {
    /// A file of this machine; absolute. It is copied, so that a change of it concerns later sandboxes only.
    Bin(PathBuf),
    /// An image, as requests name images.
    Image(String),
}

/// What the supervisor shows to its gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTls {
    /// The authority that the gateway is checked against; absolute.
    pub ca: PathBuf,
    /// The certificate; absolute.
    pub cert: PathBuf,
    /// Its key; absolute.
    pub key: PathBuf,
}

/// How sandboxes reach the machine that their gateway runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostAddress {
    /// By this address.
    Fixed(IpAddr),
    /// The engine finds it out; not every version of every engine can.
    Engine,
}

/// What the operator decides about the supervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SupervisorOptions {
    /// Its program.
    pub program: Supervisor,
    /// Where its gateway is, as sandboxes reach it: `https://host.openshell.internal:17670`.
    pub endpoint: String,
    /// What it shows there; nothing where that gateway asks for none.
    pub tls: Option<ClientTls>,
    /// Where in the sandbox it listens for its gateway's sessions.
    pub ssh_socket: String,
    /// How much it says where a request does not say.
    pub log_level: String,
    /// Whether it may report about its use.
    pub telemetry: bool,
    /// How sandboxes reach this machine; none is the address of the network's gateway, or of the default route where an
    /// engine's networks come and go.
    pub host_address: Option<HostAddress>,
    /// Whether tokens outlive a reboot: for a gateway that hands them over at a create and never again.
    pub keep_tokens: bool,
}

impl SupervisorOptions {
    /// Options with defaults for all that may have one.
    pub fn new(program: Supervisor, endpoint: String) -> Self {
        Self {
            program,
            endpoint,
            tls: None,
            ssh_socket: names::SSH_SOCKET.to_owned(),
            log_level: "info".to_owned(),
            telemetry: false,
            host_address: None,
            keep_tokens: false,
        }
    }

    /// The most processes and threads of a sandbox whose request names no limit.
    pub const PIDS: u32 = 2048;
}
