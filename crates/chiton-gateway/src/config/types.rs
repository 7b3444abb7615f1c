//! The configuration as the rest of the gateway sees it: checked, typed, complete.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use chiton_lifecycle::extension::ConfigIssue;
use chiton_lifecycle::policy::{Match, Policy};
use chiton_lifecycle::{EngineConfig, ExtensionConfig, Missing};
use chiton_model::{DriverId, Error, ExtensionName, Principal, WorkspaceName};
use serde_json::Value;

use super::reader::Shown;
use crate::plugin::Listen;

/// What is compiled in: the names that a configuration may use, and the checks of tables that belong to others.
pub trait Catalog {
    /// Names of the compiled-in extensions.
    fn extensions(&self) -> Vec<String>;
    /// Everything that is wrong with an extension's own table. Constructs nothing.
    fn check_extension(&self, name: &str, document: &Value) -> Vec<ConfigIssue>;
    /// Kinds of the compiled-in drivers, in the order in which one is looked for.
    fn driver_kinds(&self) -> Vec<String>;
    /// Everything that is wrong with a driver's table (without `kind` and `required`). Constructs nothing.
    fn check_driver(&self, kind: &str, id: &str, options: &Value) -> Vec<ConfigIssue>;
    /// Whether this kind could run here with that table: what was found, or why not. It looks at the machine and may take
    /// a few seconds; [`super::load`] never calls it, only [`Config::choose`] does.
    fn probe_driver(&self, kind: &str, options: &Value) -> Result<String, Error>;
}

/// A whole configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Folders, sockets, callers.
    pub gateway: GatewayConfig,
    /// Drivers, extensions and the operator's rules.
    pub compute: ComputeConfig,
    /// The operator's secrets, by the reference that requests name.
    pub secrets: BTreeMap<String, SecretRef>,
    /// Logging.
    pub log: LogConfig,
    /// How often reconcile runs.
    pub reconcile_interval: Duration,
    /// How often sweeps run.
    pub sweep_interval: Duration,
    /// How long something without an owner must have been so before a sweep may touch it.
    pub sweep_grace: Duration,
    /// Where agents of another make are served, when a driver brings such.
    pub supervisor: SupervisorConfig,
    /// Where metrics are served apart from the API's own listeners, if anywhere.
    pub metrics: Option<MetricsListen>,
    pub(super) shown: Vec<Shown>,
}

impl Config {
    /// Every setting with its value and origin, by key path. Secrets appear as references, never as values. What a look
    /// at the machine decides is in [`super::Chosen::origins`].
    pub fn origins(&self) -> &[Shown] {
        &self.shown
    }

    /// The part that the engine takes, with the driver of requests that name none; what no setting is about has the
    /// engine's defaults.
    pub fn engine(&self, default_driver: DriverId) -> EngineConfig {
        let mut engine = EngineConfig::new(default_driver);
        engine.extensions.clone_from(&self.compute.extensions);
        engine.other_policies.clone_from(&self.compute.other_policies);
        engine.missing = self.compute.missing;
        engine.drain = self.compute.drain;
        engine.late_effects = self.compute.late_effects;
        engine.reconcile_every = self.reconcile_interval;
        engine.sweep_every = self.sweep_interval;
        engine.sweep_grace = self.sweep_grace;
        engine
    }
}

/// `[gateway]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayConfig {
    /// Where the store and all that must last is kept; absolute.
    pub data_dir: PathBuf,
    /// Where sockets and what a reboot may drop is kept; absolute.
    pub run_dir: PathBuf,
    /// Where the API is served; never empty, no path twice.
    pub listen: Vec<Listener>,
    /// Users who may call besides root and the gateway's own.
    pub allow_uids: BTreeSet<u32>,
}

/// An address on which the API is served.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Listener {
    /// A Unix socket at an absolute path of at most 107 bytes.
    Unix(PathBuf),
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Where metrics are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetricsListen {
    /// A loopback address.
    Tcp(SocketAddr),
    /// A Unix socket at an absolute path of at most 107 bytes.
    Unix(PathBuf),
}

/// `[supervisor]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SupervisorConfig {
    /// Where they dial.
    pub listen: Listen,
    /// Whether that may be where other machines reach it, although it is without TLS.
    pub allow_remote: bool,
}

/// `[compute]`.
#[derive(Clone, Debug)]
pub struct ComputeConfig {
    /// The drivers to run, or among which one is looked for.
    pub drivers: Drivers,
    /// Extensions in processes of their own.
    pub processes: Vec<ProcessConfig>,
    /// The chain of new sandboxes, in order; each document passed the extension's own check, unless that is a process's,
    /// which is asked at the start.
    pub extensions: Vec<ExtensionConfig>,
    /// Rules about extensions that are not listed: draining or abandoned.
    pub other_policies: BTreeMap<ExtensionName, Policy>,
    /// What to do at start-up when something that a sandbox needs is not there.
    pub missing: Missing,
    /// How long a shutdown waits for running operations.
    pub drain: Duration,
    /// How long a create or start whose answer was lost may land late on a platform that works by itself.
    pub late_effects: Duration,
}

/// An extension in a process of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessConfig {
    /// The extension's name.
    pub name: ExtensionName,
    /// The socket that its process listens on; absolute.
    pub socket: PathBuf,
    /// The users whose process may be there.
    pub peers: BTreeSet<u32>,
}

/// Which drivers run.
#[derive(Clone, Debug, PartialEq)]
pub enum Drivers {
    /// Those that the operator named.
    Listed {
        /// Never empty, no id twice.
        drivers: Vec<DriverConfig>,
        /// The driver of requests that name none; one of them.
        default: DriverId,
    },
    /// The operator named none: the first of these that can run. One for each compiled-in kind, in the order of their
    /// registration, with its own table where there is one.
    Detect(Vec<DriverConfig>),
}

/// A driver to run.
#[derive(Clone, Debug, PartialEq)]
pub struct DriverConfig {
    /// Its id, as requests and records name it.
    pub id: DriverId,
    /// Its kind, as compiled in.
    pub kind: String,
    /// Whether the gateway does not start without it.
    pub required: bool,
    /// Its own table, without `kind` and `required`; passed the kind's own check.
    pub options: Value,
}

/// A secret of the operator: where its value is, and who may use it. The value itself is never here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretRef {
    /// Where the value is.
    pub source: SecretSource,
    /// Who may use it; names at least one workspace or principal, and never labels.
    pub allow: Match,
}

impl SecretRef {
    /// Whether this principal may use it in this workspace.
    pub fn allows(&self, principal: &Principal, workspace: &WorkspaceName) -> bool {
        self.allow.holds(workspace.as_str(), &principal.subject, &BTreeMap::new())
    }
}

/// Where a secret's value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// In this environment variable of the gateway.
    Env(String),
    /// In this file; absolute.
    File(PathBuf),
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// A level, or `target=level` parts separated by commas: what `tracing_subscriber` takes as a filter.
    pub level: String,
    /// The form of a line.
    pub format: LogFormat,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
