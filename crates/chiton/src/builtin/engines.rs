//! The `docker` and `podman` drivers: their config, and how they are made. They differ only in the engine's ways.

mod supervisor;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chiton_container_engine::{
    Allowed, BridgeOptions, Dialect, EngineDriver, EngineOptions, Injects, PullPolicy, SupervisorOptions, Ulimit,
};
use chiton_driver::WhoseAgent;
use chiton_driver_docker::Docker;
use chiton_driver_podman::Podman;
use chiton_gateway::{BuiltDriver, DriverContext, DriverKind, Finding};
use chiton_lifecycle::extension::{ConfigIssue, decode_config};
use chiton_model::{DriverId, Error, GatewayId, MemoryQuantity};
use ipnet::Ipv4Net;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use self::supervisor::SupervisorConfig;
use super::checks::{Issues, escaped, unusable};
use super::machine::{folders, half_of_memory};
use super::registries::{LoginConfig, Registries};

/// `[compute.driver.docker]` and `[compute.driver.podman]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// Whose program in a sandbox talks to the gateway: `chiton`; `none` for no exec, no files and a command that is the
    /// sandbox's first process; `openshell` for the supervisor of such a gateway. Default: `chiton`.
    agent: WhoseAgent,
    /// The supervisor of `agent = "openshell"`.
    supervisor: Option<SupervisorConfig>,
    /// Absolute path of the engine's Unix socket. Default: `/var/run/docker.sock`; for podman `/run/podman/podman.sock`,
    /// or below `$XDG_RUNTIME_DIR` without root.
    socket: Option<PathBuf>,
    /// The image of requests that name none. Default: none, and a request must name one.
    default_image: String,
    /// When registries are asked: `always`, `missing` (the engine's own image counts) or `never`. Default: `missing`.
    pull: PullPolicy,
    /// From whom images are got.
    images: ImagesConfig,
    /// Seconds that a main process may take to end by itself, at most 45. Default: 10.
    stop_grace_seconds: Option<u64>,
    /// Bytes of a sandbox's output that are kept. Default: 8 MiB.
    log_bytes: Option<u64>,
    /// The most processes and threads of a sandbox whose request names no limit; 0 is none. Default: 4096, or 2048 with a
    /// supervisor.
    pids: Option<u32>,
    /// The memory of a sandbox whose request names no limit, for example "4Gi". Default: half of this machine's.
    memory: Option<MemoryQuantity>,
    /// Limits of every container by the names of ulimit, as "SOFT:HARD" or one number for both. Default: the engine's.
    ulimits: BTreeMap<String, String>,
    /// The network of sandboxes that ask for `bridge`.
    bridge: BridgeConfig,
    /// Absolute folders below which requests may ask for binds. Default: none.
    bind_roots: Vec<PathBuf>,
    /// Volumes of the engine, besides the gateway's own, that requests may ask for. Default: none.
    volumes: BTreeSet<String>,
    /// Networks of the engine that requests may ask for by `named:NAME`. Default: none.
    networks: BTreeSet<String>,
    /// Whether requests may ask for the host's own network. Default: no.
    host_network: bool,
    /// CDI devices that requests may ask for, as `VENDOR/CLASS=NAME`. Default: none.
    cdi_devices: BTreeSet<String>,
    /// Capabilities that requests may ask for, without `CAP_`. Default: none.
    capabilities: BTreeSet<String>,
    /// The runtime of the containers, as the engine knows it. Default: the engine's own.
    runtime: Option<String>,
    /// Whether what is bound into sandboxes is relabelled where the engine uses SELinux. Default: yes.
    relabel: Option<bool>,
}

/// `images`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct ImagesConfig {
    /// The registry of names that have none and that the engine does not have. Default: none.
    default_registry: Option<String>,
    /// The only registries that may be asked. Default: all.
    registries: Option<BTreeSet<String>>,
    /// Registries that are asked over plain HTTP what a name means; whether the engine pulls so is its own config's.
    insecure_registries: BTreeSet<String>,
    /// Who the gateway is to a registry; handed to the engine for a pull.
    login: BTreeMap<String, LoginConfig>,
    /// Absolute folders below which image files may be. Default: everywhere.
    file_roots: Option<Vec<PathBuf>>,
}

/// `bridge`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct BridgeConfig {
    /// Its IPv4 range. Needed where extensions lease addresses. Default: the engine's choice.
    subnet: Option<String>,
    /// Whether it has no way out. Default: no.
    internal: bool,
}

/// The `docker` driver.
#[must_use]
pub fn docker() -> DriverKind {
    DriverKind {
        kind: "docker",
        early: |_| None,
        check,
        build: |context| build(&Docker, context),
        doctor: |config| doctor(&Docker, config),
        probe: |config| chiton_container_engine::probe(&for_a_look(&Docker, config)?),
    }
}

/// The `podman` driver, rootful or rootless.
#[must_use]
pub fn podman() -> DriverKind {
    DriverKind {
        kind: "podman",
        early: |_| None,
        check,
        build: |context| build(&Podman, context),
        doctor: |config| doctor(&Podman, config),
        probe: |config| chiton_container_engine::probe(&for_a_look(&Podman, config)?),
    }
}

fn range(text: &str) -> Option<Ipv4Net> {
    text.parse::<Ipv4Net>().ok().filter(|range| range.trunc() == *range && (8..=29).contains(&range.prefix_len()))
}

fn ulimit(text: &str) -> Option<Ulimit> {
    let (soft, hard) = text.split_once(':').unwrap_or((text, text));
    let (soft, hard) = (soft.parse().ok()?, hard.parse().ok()?);
    (0 <= soft && soft <= hard).then_some(Ulimit { soft, hard })
}

fn check(options: &Value) -> Vec<ConfigIssue> {
    let config: Config = match decode_config(options) {
        Ok(config) => config,
        Err(issue) => return vec![issue],
    };
    let mut issues = Issues::default();
    supervisor::check(config.agent, config.supervisor.as_ref(), &mut issues);
    if let Some(socket) = &config.socket {
        issues.absolute("/socket", socket);
    }
    for (index, root) in config.bind_roots.iter().enumerate() {
        issues.absolute(format!("/bind_roots/{index}"), root);
    }
    for (index, root) in config.images.file_roots.iter().flatten().enumerate() {
        issues.absolute(format!("/images/file_roots/{index}"), root);
    }
    let registries = Registries {
        default: config.images.default_registry.as_ref(),
        only: config.images.registries.as_ref(),
        insecure: &config.images.insecure_registries,
        login: &config.images.login,
    };
    registries.check("/images", &mut issues);
    issues.stop_grace("/stop_grace_seconds", config.stop_grace_seconds);
    issues.log_bytes("/log_bytes", config.log_bytes);
    issues.memory("/memory", config.memory.as_ref(), EngineOptions::LEAST_MEMORY);
    for (name, text) in config.ulimits.iter().filter(|(_, text)| ulimit(text).is_none()) {
        let message = format!("{text:?} is not a limit");
        issues.add(format!("/ulimits/{}", escaped(name)), message, "write \"SOFT:HARD\", for example \"1024:4096\"");
    }
    if config.bridge.subnet.as_deref().is_some_and(|text| range(text).is_none()) {
        let message = "this is not an IPv4 range from /8 to /29 without host bits";
        issues.add("/bridge/subnet", message, "write a range that nothing else uses, for example \"10.200.0.0/20\"");
    }
    for name in config.capabilities.iter().filter(|name| name.starts_with("CAP_") || **name != name.to_uppercase()) {
        issues.add("/capabilities", format!("{name:?} is not a capability"), "write NET_RAW for CAP_NET_RAW");
    }
    issues.found()
}

fn options(dialect: &'static dyn Dialect, context: DriverContext) -> Result<EngineOptions, Error> {
    let config: Config =
        decode_config(&context.config).map_err(|issue| Error::invalid(issue.pointer, issue.message))?;
    let socket = config.socket.unwrap_or_else(|| dialect.default_socket());
    let folders = (context.state_dir, context.run_dir);
    let default = EngineOptions::new(dialect, context.id, context.gateway, socket, folders, chiton_agent_binary::AGENT);
    let images = chiton_image::Policy {
        default_registry: config.images.default_registry,
        registries: config.images.registries,
        insecure: config.images.insecure_registries,
        credentials: config.images.login.into_iter().map(|(host, login)| (host, login.into())).collect(),
        roots: config.images.file_roots,
        ..chiton_image::Policy::default()
    };
    let agent = supervisor::injects(config.agent, config.supervisor)?;
    let pids = if config.agent == WhoseAgent::Openshell { Some(SupervisorOptions::PIDS) } else { default.default_pids };
    Ok(EngineOptions {
        agent,
        default_image: config.default_image,
        pull: config.pull,
        images,
        stop_grace: config.stop_grace_seconds.map_or(default.stop_grace, Duration::from_secs),
        log_bytes: config.log_bytes.unwrap_or(default.log_bytes),
        default_pids: config.pids.or(pids).filter(|pids| *pids > 0),
        default_memory: config.memory.or_else(half_of_memory),
        ulimits: config.ulimits.into_iter().filter_map(|(name, text)| Some((name, ulimit(&text)?))).collect(),
        bridge: BridgeOptions {
            subnet: config.bridge.subnet.as_deref().and_then(range),
            internal: config.bridge.internal,
        },
        allowed: Allowed {
            bind_roots: config.bind_roots,
            volumes: config.volumes,
            networks: config.networks,
            host_network: config.host_network,
            cdi_devices: config.cdi_devices,
            capabilities: config.capabilities,
        },
        runtime: config.runtime,
        relabel: config.relabel.unwrap_or(default.relabel),
        ..default
    })
}

fn build(dialect: &'static dyn Dialect, context: DriverContext) -> Result<BuiltDriver, Error> {
    let options = options(dialect, context)?;
    // Only Chiton's agent dials a socket in a folder.
    let dials = matches!(options.agent, Injects::Agent);
    let driver = Arc::new(EngineDriver::new(options));
    let folders = Arc::clone(&driver);
    let agent_folder = if dials { Some(Arc::new(move |id: &_| folders.agent_folder(id)) as _) } else { None };
    Ok(BuiltDriver { driver, agent_folder })
}

/// Options to look at an engine with: any gateway will do.
fn for_a_look(dialect: &'static dyn Dialect, config: &Value) -> Result<EngineOptions, Error> {
    let (state_dir, run_dir) = folders();
    let (id, gateway) = (DriverId::new(dialect.kind())?, GatewayId::new("doctor")?);
    options(dialect, DriverContext { id, gateway, state_dir, run_dir, config: config.clone() })
}

fn doctor(dialect: &'static dyn Dialect, config: &Value) -> Vec<Finding> {
    match for_a_look(dialect, config) {
        Ok(options) => chiton_container_engine::doctor(&options)
            .into_iter()
            .map(|found| Finding { check: found.what, ok: found.ok, detail: found.detail, cure: found.cure })
            .collect(),
        Err(error) => vec![unusable(error)],
    }
}
