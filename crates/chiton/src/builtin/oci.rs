//! The `oci` driver: its config, and how it is made.

mod bridge;
mod images;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use chiton_driver::WhoseAgent;
use chiton_driver_oci::{OciDriver, OciOptions};
use chiton_gateway::{BuiltDriver, DriverContext, DriverKind, Finding};
use chiton_lifecycle::extension::{ConfigIssue, decode_config};
use chiton_model::{DriverId, Error, GatewayId, MemoryQuantity};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use self::bridge::BridgeConfig;
use self::images::ImagesConfig;
use super::checks::{Issues, unusable};
use super::machine::{folders, half_of_memory};

/// `[compute.driver.oci]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// Whose program in a sandbox talks to the gateway: `chiton`, or `none` for no exec, no files and a command that is
    /// the sandbox's first process. Default: `chiton`.
    agent: WhoseAgent,
    /// Whether the image `host` (a read-only view of this machine's programs) may be used. Default: yes.
    host_image: Option<bool>,
    /// Absolute folders below which `dir:` images may be. Default: everywhere.
    dir_roots: Option<Vec<PathBuf>>,
    /// How images are got and kept.
    images: ImagesConfig,
    /// The first host id of the ranges that sandboxes' users are mapped to; each sandbox gets 65,536.
    first_id: Option<u32>,
    /// Seconds that a main process may take to end by itself, at most 45. Default: 10.
    stop_grace_seconds: Option<u64>,
    /// Bytes of output that are kept of each of a sandbox's two log files. Default: 8 MiB.
    log_bytes: Option<u64>,
    /// The most processes and threads of a sandbox whose request names no limit; 0 is none. Default: 4096.
    pids: Option<u32>,
    /// The memory of a sandbox whose request names no limit, for example "4Gi". Default: half of this machine's.
    memory: Option<MemoryQuantity>,
    /// How much a sandbox whose request names no disk limit may keep, for example "2Gi". Default: no limit.
    disk: Option<MemoryQuantity>,
    /// How much a volume that is made without a size may hold, for example "10Gi". Default: no limit of its own.
    volume_size: Option<MemoryQuantity>,
    /// Whether a sandbox may keep the host's network, and with it reach what listens on the host's loopback interface
    /// and in its abstract namespace of Unix sockets. Default: no.
    host_network: Option<bool>,
    /// The bridge of sandboxes that ask for one.
    bridge: BridgeConfig,
}

/// The `oci` driver: containers run directly, without a daemon.
#[must_use]
pub fn oci() -> DriverKind {
    DriverKind { kind: "oci", early, check, build, doctor, probe }
}

fn early(arguments: &[OsString]) -> Option<ExitCode> {
    let (mode, rest) = arguments.split_first()?;
    (mode == "oci-launch").then(|| chiton_driver_oci::launch::main(rest.iter().cloned()))
}

fn check(options: &Value) -> Vec<ConfigIssue> {
    let config: Config = match decode_config(options) {
        Ok(config) => config,
        Err(issue) => return vec![issue],
    };
    let mut issues = Issues::default();
    if config.agent == WhoseAgent::Openshell {
        let message = "the oci driver's sandboxes have no capabilities, without which that supervisor cannot start";
        issues.add("/agent", message, "use the docker or podman driver for it, or agent = \"chiton\" or \"none\" here");
    }
    for (index, root) in config.dir_roots.iter().flatten().enumerate() {
        issues.absolute(format!("/dir_roots/{index}"), root);
    }
    config.images.check(&mut issues);
    issues.stop_grace("/stop_grace_seconds", config.stop_grace_seconds);
    if config.first_id.is_some_and(|id| id < 65_536) {
        let message = "ids below 65536 belong to this machine's own users";
        issues.add("/first_id", message, "use a range that nothing else uses");
    }
    issues.log_bytes("/log_bytes", config.log_bytes);
    issues.memory("/memory", config.memory.as_ref(), OciOptions::LEAST_MEMORY);
    let least = OciOptions::LEAST_PIDS;
    if config.pids.is_some_and(|pids| pids > 0 && pids < least) {
        let message = format!("fewer than {least} processes leave no room for the launch");
        issues.add("/pids", message, format!("use at least {least}, or 0 for no limit"));
    }
    issues.disk("/disk", config.disk.as_ref());
    issues.disk("/volume_size", config.volume_size.as_ref());
    config.bridge.check(&mut issues);
    issues.found()
}

fn options(context: DriverContext) -> Result<OciOptions, Error> {
    let config: Config =
        decode_config(&context.config).map_err(|issue| Error::invalid(issue.pointer, issue.message))?;
    let mut options =
        OciOptions::new(context.id, context.gateway, context.state_dir, context.run_dir, chiton_agent_binary::AGENT);
    options.agent = config.agent == WhoseAgent::Chiton;
    options.host_image = config.host_image.unwrap_or(options.host_image);
    options.dir_roots = config.dir_roots;
    options.images = config.images.policy();
    options.first_id = config.first_id.unwrap_or(options.first_id);
    options.stop_grace = config.stop_grace_seconds.map_or(options.stop_grace, Duration::from_secs);
    options.log_bytes = config.log_bytes.unwrap_or(options.log_bytes);
    options.default_pids = config.pids.or(options.default_pids).filter(|pids| *pids > 0);
    options.default_memory = config.memory.or_else(half_of_memory);
    options.default_disk = config.disk;
    options.volume_size = config.volume_size;
    options.network.host = config.host_network.unwrap_or(false);
    options.network.subnet = config.bridge.subnet.as_deref().and_then(BridgeConfig::range);
    options.network.dns = config.bridge.dns;
    options.network.allow_private = config.bridge.allow_private.iter().filter_map(|r| BridgeConfig::range(r)).collect();
    options.network.enable_forwarding = config.bridge.enable_forwarding.unwrap_or(false);
    Ok(options)
}

fn build(context: DriverContext) -> Result<BuiltDriver, Error> {
    let options = options(context)?;
    let agent = options.agent;
    let driver = Arc::new(OciDriver::new(options));
    let folders: Arc<OciDriver> = Arc::clone(&driver);
    let agent_folder = if agent { Some(Arc::new(move |id: &_| folders.agent_folder(id)) as _) } else { None };
    Ok(BuiltDriver { driver, agent_folder })
}

fn doctor(config: &Value) -> Vec<Finding> {
    // Doctor looks at the machine, not at a gateway: any id will do.
    let ids = DriverId::new("oci").and_then(|id| Ok((id, GatewayId::new("doctor")?)));
    let options = ids.and_then(|(id, gateway)| {
        let (state_dir, run_dir) = folders();
        options(DriverContext { id, gateway, state_dir, run_dir, config: config.clone() })
    });
    match options {
        Ok(options) => chiton_driver_oci::doctor(&options)
            .into_iter()
            .map(|found| Finding { check: found.what, ok: found.ok, detail: found.detail, cure: found.cure })
            .collect(),
        Err(error) => vec![unusable(error)],
    }
}

/// The table decides nothing here: what stops sandboxes for good is the machine's.
fn probe(_: &Value) -> Result<String, Error> {
    chiton_driver_oci::probe()
}
