//! What a distribution plugs into a gateway: kinds of driver and kinds of extension. Nothing here knows any of them.

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use chiton_driver::ComputeDriver;
use chiton_lifecycle::crash::Points;
use chiton_lifecycle::extension::{ConfigIssue, ExtensionKind, Registry};
use chiton_model::{DriverId, Error, GatewayId, SandboxId};
use futures::future::BoxFuture;
use serde::Serialize;
use serde_json::Value;

use crate::sessions::{Exits, Sessions, Tokens};

/// What a driver is built from.
#[derive(Clone, Debug)]
pub struct DriverContext {
    /// The operator's id for it.
    pub id: DriverId,
    /// The installation that it works for.
    pub gateway: GatewayId,
    /// A folder of its own for what outlives a reboot.
    pub state_dir: PathBuf,
    /// A folder of its own for sockets and other things that a reboot ends.
    pub run_dir: PathBuf,
    /// Where agents of another make dial the gateway, as the operator configured it; none for a mere look.
    pub guests: Option<Listen>,
    /// Its own config block.
    pub config: Value,
}

/// A folder on this machine into which a sandbox's agent socket goes.
pub type AgentFolder = dyn Fn(&SandboxId) -> PathBuf + Send + Sync;

/// A driver, ready to be used.
#[derive(Clone)]
pub struct BuiltDriver {
    /// The driver.
    pub driver: Arc<dyn ComputeDriver>,
    /// Where its sandboxes' agents dial; none when it carries no agent.
    pub agent_folder: Option<Arc<AgentFolder>>,
}

/// Where something is listened for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// An address, without TLS.
    Tcp(SocketAddr),
    /// A socket at an absolute path.
    Unix(PathBuf),
}

impl fmt::Display for Listen {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(to, "{address}"),
            Self::Unix(path) => write!(to, "unix:{}", path.display()),
        }
    }
}

/// What serves agents of another make, whose protocol is not ours: drivers may bring them into their sandboxes. It brings
/// each as a connection to [`Sessions::attach`].
#[derive(Clone, Copy)]
pub struct GuestKind {
    /// What such an agent is called, for messages.
    pub name: &'static str,
    /// Begins to listen. Called on the gateway's runtime, once.
    pub serve: fn(GuestContext) -> Serving,
}

/// Becomes a server that listens, or says why it cannot.
pub type Serving = BoxFuture<'static, Result<Box<dyn GuestServer>, Error>>;

/// What it is given.
#[derive(Clone)]
pub struct GuestContext {
    /// Whose token is whose.
    pub tokens: Arc<dyn Tokens>,
    /// Where connections go.
    pub sessions: Sessions,
    /// Who hears of exits.
    pub exits: Arc<dyn Exits>,
    /// Where to listen.
    pub listen: Listen,
    /// Whether that may be where other machines reach it.
    pub allow_remote: bool,
}

/// One that listens.
pub trait GuestServer: Send + Sync {
    /// Where; with the port that the system chose when none was named.
    fn listen(&self) -> Listen;
    /// Ends all sessions, and what callers run in them; within a few seconds.
    fn drain(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// Something that a driver needs of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: String,
    /// Whether it is as needed.
    pub ok: bool,
    /// What was found.
    pub detail: String,
    /// What to do about it; empty when it is as needed.
    pub cure: String,
}

/// A compiled-in kind of driver.
#[derive(Clone, Copy)]
pub struct DriverKind {
    /// The name that configs use.
    pub kind: &'static str,
    /// Looks at the command line before anything else runs, for helper processes that must be single-threaded.
    pub early: fn(&[OsString]) -> Option<ExitCode>,
    /// Everything that is wrong with a config block. Constructs nothing.
    pub check: fn(&Value) -> Vec<ConfigIssue>,
    /// Makes a driver.
    pub build: fn(DriverContext) -> Result<BuiltDriver, Error>,
    /// Looks at what the machine offers.
    pub doctor: fn(&Value) -> Vec<Finding>,
    /// Whether this kind could run here with that config block: a quick look without side effects, with a deadline of
    /// its own of at most two seconds, on a thread that may block. What was found, for people (`dockerd 28.1 at
    /// /var/run/docker.sock`), or why not and the cure.
    pub probe: fn(&Value) -> Result<String, Error>,
}

/// Everything that is compiled in.
#[derive(Clone, Default)]
pub struct Plugins {
    drivers: Vec<DriverKind>,
    /// Who serves agents of another make, if anybody does.
    pub guests: Option<GuestKind>,
    /// Kinds of extension.
    pub extensions: Registry,
    /// Who watches where a crash may come; nobody but a test.
    pub points: Points,
}

impl Plugins {
    /// Adds a kind of driver. Its name must be one that can be a driver's id, and a second one of the same name is an
    /// error; the first stays.
    pub fn driver(&mut self, kind: DriverKind) -> Result<(), Error> {
        DriverId::new(kind.kind)?;
        if self.driver_kind(kind.kind).is_some() {
            return Err(Error::already_exists(format!("two drivers are registered as {:?}", kind.kind)));
        }
        self.drivers.push(kind);
        Ok(())
    }

    /// The kinds of driver, in the order in which they were registered: the order in which one is looked for.
    #[must_use]
    pub fn drivers(&self) -> &[DriverKind] {
        &self.drivers
    }

    /// A kind of driver by name.
    #[must_use]
    pub fn driver_kind(&self, name: &str) -> Option<&DriverKind> {
        // There are a handful.
        self.drivers.iter().find(|kind| kind.kind == name)
    }

    /// Adds a kind of extension; a second one of the same name is an error.
    pub fn extension(&mut self, kind: ExtensionKind) -> Result<(), Error> {
        self.extensions.register(kind)
    }
}

/// The folders of a driver, below the gateway's own.
pub(crate) fn context(
    id: DriverId,
    gateway: GatewayId,
    data_dir: &Path,
    run_dir: &Path,
    guests: Listen,
    config: Value,
) -> DriverContext {
    DriverContext {
        state_dir: data_dir.join("drivers").join(id.as_str()),
        run_dir: run_dir.join("drivers").join(id.as_str()),
        id,
        gateway,
        guests: Some(guests),
        config,
    }
}

#[cfg(test)]
mod tests;
