//! The `external` driver: a process of its own behind a Unix socket.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chiton_driver::{Capabilities, WhoseAgent};
use chiton_driver_external::{ExternalDriver, ExternalOptions};
use chiton_gateway::{AgentFolder, BuiltDriver, DriverContext, DriverKind, Finding, Listen};
use chiton_lifecycle::extension::{ConfigIssue, decode_config};
use chiton_model::{DriverId, Error, GatewayId};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::checks::{Issues, unusable};
use super::machine::folders;

/// `[compute.driver.NAME]` of a driver behind a socket.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// Absolute path of its socket. Required.
    socket: Option<PathBuf>,
    /// Who answers to the gateway inside its sandboxes: `chiton`, `openshell` or `none`. Default: `none`.
    agent: Option<WhoseAgent>,
    /// The users whose process it may be, and who may own its socket. Default: the gateway's own and root.
    peer_uids: Option<BTreeSet<u32>>,
    /// Seconds that a look may take: get, list, validate. Default: 10.
    look_seconds: Option<u64>,
    /// Seconds that a create, start, stop or delete may take, each. Default: 60.
    act_seconds: Option<u64>,
    /// Seconds from a start until the sandbox is ready, image pull and all. Default: 900.
    ready_seconds: Option<u64>,
}

/// The `external` driver.
#[must_use]
pub fn external() -> DriverKind {
    DriverKind { kind: "external", early: |_| None, check, build, doctor, probe }
}

fn check(options: &Value) -> Vec<ConfigIssue> {
    let config: Config = match decode_config(options) {
        Ok(config) => config,
        Err(issue) => return vec![issue],
    };
    let mut issues = Issues::default();
    match &config.socket {
        Some(socket) => issues.absolute("/socket", socket),
        None => issues.add("/socket", "an external driver needs a socket", "write socket = \"/run/NAME.sock\""),
    }
    if config.peer_uids.as_ref().is_some_and(BTreeSet::is_empty) {
        issues.add("/peer_uids", "nobody is trusted", "name the user that the driver runs as, or leave it out");
    }
    for (name, seconds) in [("look", config.look_seconds), ("act", config.act_seconds), ("ready", config.ready_seconds)]
    {
        if seconds.is_some_and(|seconds| !(1..=86_400).contains(&seconds)) {
            issues.add(format!("/{name}_seconds"), "this is not from 1 to 86400", "write a number of seconds");
        }
    }
    issues.found()
}

fn options(context: DriverContext) -> Result<ExternalOptions, Error> {
    let config: Config =
        decode_config(&context.config).map_err(|issue| Error::invalid(issue.pointer, issue.message))?;
    let socket = config.socket.ok_or_else(|| Error::invalid("socket", "an external driver needs a socket"))?;
    let default = ExternalOptions::new(context.id, context.gateway, context.state_dir, context.run_dir, socket);
    let mut deadlines = default.deadlines.clone();
    for (to, seconds) in [
        (&mut deadlines.look, config.look_seconds),
        (&mut deadlines.act, config.act_seconds),
        (&mut deadlines.ready, config.ready_seconds),
    ] {
        *to = seconds.map_or(*to, Duration::from_secs);
    }
    let peers = config.peer_uids.unwrap_or(default.peers);
    // Behind a socket is a proxy of the operator's, and where that listens is not known here.
    let supervisors = match context.guests {
        Some(Listen::Tcp(address)) => Some(address),
        Some(Listen::Unix(_)) | None => None,
    };
    let agent = config.agent.unwrap_or(WhoseAgent::None);
    Ok(ExternalOptions { peers, agent, supervisors, deadlines, ..default })
}

/// Asks a driver what it is, on a thread of its own that may block: the connection is not kept.
fn greet(options: ExternalOptions) -> Result<Arc<Capabilities>, Error> {
    let asked = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::internal(format!("the runtime cannot start: {error}")))?;
        let looked = ExternalDriver::new(options);
        runtime.block_on(looked.greet())
    });
    asked.join().map_err(|_| Error::internal("the look at the driver ended early"))?
}

fn build(context: DriverContext) -> Result<BuiltDriver, Error> {
    let options = options(context)?;
    let agent = options.agent;
    // Not dialled here: recovery lists every driver, all at once, before anything else asks what this one can do.
    let driver = Arc::new(ExternalDriver::new(options));
    let agent_folder = (agent == WhoseAgent::Chiton).then(|| {
        let folders = Arc::clone(&driver);
        let of = move |id: &chiton_model::SandboxId| folders.agent_folder(id).unwrap_or_default();
        Arc::new(of) as Arc<AgentFolder>
    });
    Ok(BuiltDriver { driver, agent_folder })
}

/// Options to look at a driver with: any gateway will do.
fn for_a_look(config: &Value) -> Result<ExternalOptions, Error> {
    let (state_dir, run_dir) = folders();
    let (id, gateway) = (DriverId::new("external")?, GatewayId::new("doctor")?);
    options(DriverContext { id, gateway, state_dir, run_dir, guests: None, config: config.clone() })
}

fn doctor(config: &Value) -> Vec<Finding> {
    let Ok(mut looked) = for_a_look(config) else {
        // Nobody configured one.
        return Vec::new();
    };
    looked.state_dir = None;
    let socket = looked.socket.clone();
    let found = match greet(looked) {
        Ok(said) => {
            let detail = format!("{} {} at {}", said.kind, said.version, socket.display());
            Finding { check: "driver".to_owned(), ok: true, detail, cure: String::new() }
        }
        Err(error) => unusable(error),
    };
    vec![found]
}

/// There is nothing to look for: it is used when an operator names it.
fn probe(_: &Value) -> Result<String, Error> {
    Err(Error::unavailable("external", "an external driver is used by name only")
        .cure("configure its socket: [compute.driver.NAME] socket = \"/run/NAME.sock\""))
}
