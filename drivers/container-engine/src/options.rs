//! What the operator decides about an engine.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use chiton_model::{DriverId, GatewayId, MemoryQuantity};
use ipnet::Ipv4Net;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::dialect::Dialect;
use crate::supervisor::Injects;

/// When an image that the engine has is used as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PullPolicy {
    /// The registry is asked each time what a tag means now.
    Always,
    /// The engine's own image is used where it has one of that name.
    #[default]
    Missing,
    /// Only what the engine has already; no registry is ever asked.
    Never,
}

/// Soft and hard limit, as in `setrlimit(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ulimit {
    /// What programs start with.
    pub soft: i64,
    /// What they may raise it to.
    pub hard: i64,
}

/// The gateway's own network on the engine, for requests that ask for `bridge`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BridgeOptions {
    /// Its range. Needed where extensions lease addresses; otherwise the engine chooses.
    pub subnet: Option<Ipv4Net>,
    /// Whether it has no way out to other networks.
    pub internal: bool,
}

impl BridgeOptions {
    /// The gateway of its range: the first address, as the engines themselves take it.
    pub(crate) fn gateway(&self) -> Option<Ipv4Addr> {
        self.subnet.and_then(|subnet| subnet.hosts().next())
    }
}

/// What requests may ask for beyond what is safe for everybody. Nothing by default.
#[derive(Clone, Debug, Default)]
pub struct Allowed {
    /// Folders of the host below which binds may be.
    pub bind_roots: Vec<PathBuf>,
    /// Volumes of the engine that are not this gateway's.
    pub volumes: BTreeSet<String>,
    /// Networks of the engine, by name.
    pub networks: BTreeSet<String>,
    /// The host's own network.
    pub host_network: bool,
    /// CDI devices, `vendor/class=name`.
    pub cdi_devices: BTreeSet<String>,
    /// Capabilities, without `CAP_`.
    pub capabilities: BTreeSet<String>,
}

/// Everything that a driver of an engine needs to know. Nothing is read from the environment.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Which engine it is.
    pub dialect: &'static dyn Dialect,
    /// The operator's id for this driver.
    pub id: DriverId,
    /// The installation that its sandboxes belong to.
    pub gateway: GatewayId,
    /// The engine's socket; absolute.
    pub socket: PathBuf,
    /// This driver's alone, for what outlives a reboot; absolute. The engine must see it under the same path.
    pub state_dir: PathBuf,
    /// This driver's alone, for sockets; absolute. The engine must see it under the same path.
    pub run_dir: PathBuf,
    /// The static agent binary.
    pub agent_binary: &'static [u8],
    /// What is put into sandboxes.
    pub agent: Injects,
    /// The image of requests that name none; empty means that a request must name one.
    pub default_image: String,
    /// When registries are asked.
    pub pull: PullPolicy,
    /// Registries, logins, and where image files may be.
    pub images: chiton_image::Policy,
    /// How long a main process may take to end by itself when a request says nothing.
    pub stop_grace: Duration,
    /// The most processes and threads of sandboxes whose request names no limit.
    pub default_pids: Option<u32>,
    /// The memory of sandboxes whose request names no limit.
    pub default_memory: Option<MemoryQuantity>,
    /// How large the file with a main process's output may become, in bytes; the engine keeps two.
    pub log_bytes: u64,
    /// Limits of every container, by the names of `ulimit`: what the engine's own defaults would exceed.
    pub ulimits: BTreeMap<String, Ulimit>,
    /// The gateway's own network.
    pub bridge: BridgeOptions,
    /// What requests may ask for.
    pub allowed: Allowed,
    /// The runtime of the containers, by the name that the engine knows; none is the engine's default.
    pub runtime: Option<String>,
    /// Whether binds are relabelled for SELinux where the engine runs under it.
    pub relabel: bool,
}

impl EngineOptions {
    /// The least memory that engines give a container.
    pub const LEAST_MEMORY: u64 = 6 << 20;

    /// Options with defaults for all that may have one.
    pub fn new(
        dialect: &'static dyn Dialect,
        id: DriverId,
        gateway: GatewayId,
        socket: PathBuf,
        (state_dir, run_dir): (PathBuf, PathBuf),
        agent_binary: &'static [u8],
    ) -> Self {
        Self {
            dialect,
            id,
            gateway,
            socket,
            state_dir,
            run_dir,
            agent_binary,
            agent: Injects::default(),
            default_image: String::new(),
            pull: PullPolicy::default(),
            images: chiton_image::Policy::default(),
            stop_grace: Duration::from_secs(10),
            default_pids: Some(4096),
            default_memory: None,
            log_bytes: 8 << 20,
            ulimits: BTreeMap::new(),
            bridge: BridgeOptions::default(),
            allowed: Allowed::default(),
            runtime: None,
            relabel: true,
        }
    }
}
