//! `supervisor`: the program of another gateway that a driver puts into its sandboxes.

use std::net::IpAddr;
use std::path::PathBuf;

use chiton_container_engine::{ClientTls, HostAddress, Injects, Supervisor, SupervisorOptions};
use chiton_driver::WhoseAgent;
use chiton_model::Error;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::builtin::checks::Issues;

/// The word that leaves the address of this machine to the engine.
const BY_ENGINE: &str = "host-gateway";

/// `supervisor`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct SupervisorConfig {
    /// Its program: the absolute path of a static program for Linux on this machine. This or `image`.
    bin: Option<PathBuf>,
    /// An image that has its program as `/openshell-sandbox`. This or `bin`.
    image: Option<String>,
    /// The gateway as sandboxes reach it, `https://HOST:PORT`. `host.openshell.internal` is this machine.
    endpoint: Option<String>,
    /// What it shows to its gateway. Default: nothing.
    tls: Option<TlsConfig>,
    /// The socket in the sandbox at which it takes its gateway's sessions. Default: `/run/openshell/ssh.sock`.
    ssh_socket: Option<String>,
    /// How much it says where a request does not say. Default: `info`.
    log_level: Option<String>,
    /// Whether it may report about its use. Default: no.
    telemetry: bool,
    /// The address by which sandboxes reach this machine, or `host-gateway` for the engine to find it out. Default: that of
    /// their network's gateway; with podman that of this machine's default route; with a rootless engine there is none.
    host_address: Option<String>,
    /// Whether sandboxes' tokens outlive a reboot, in files of the driver's state folder: for a gateway that hands them over
    /// when it creates a sandbox, and starts it later without. Default: no, except for `chiton driver serve`.
    keep_tokens: bool,
}

/// `supervisor.tls`: absolute paths of files of this machine.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TlsConfig {
    /// The authority that the gateway is checked against.
    ca: PathBuf,
    /// The certificate.
    cert: PathBuf,
    /// Its key.
    key: PathBuf,
}

fn endpoint(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let plain = |rest: &str| {
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        !host.is_empty() && !host.contains('@') && !rest.contains(|c: char| c.is_whitespace() || c.is_control())
    };
    rest.is_some_and(plain)
}

fn host_address(text: &str) -> Option<HostAddress> {
    if text == BY_ENGINE {
        return Some(HostAddress::Engine);
    }
    text.parse::<IpAddr>().ok().map(HostAddress::Fixed)
}

/// A plain path in a sandbox.
fn path_inside(path: &str) -> bool {
    path.starts_with('/')
        && path.len() > 1
        && path.split('/').skip(1).all(|part| !matches!(part, "" | "." | ".."))
        && !path.contains(char::is_control)
}

/// What is wrong with the table, and with its being there.
pub(super) fn check(agent: WhoseAgent, config: Option<&SupervisorConfig>, issues: &mut Issues) {
    let config = match (agent, config) {
        (WhoseAgent::Openshell, Some(config)) => config,
        (WhoseAgent::Openshell, None) => {
            let cure = "add the table supervisor with bin or image, and endpoint; or choose another agent";
            return issues.add("/agent", "nothing says which supervisor is put into sandboxes", cure);
        }
        (_, Some(_)) => {
            let message = format!("agent is {:?}, which has no supervisor", agent.as_str());
            return issues.add("/supervisor", message, "set agent = \"openshell\", or remove the table");
        }
        (_, None) => return,
    };
    match (&config.bin, &config.image) {
        (Some(bin), None) => issues.absolute("/supervisor/bin", bin),
        (None, Some(image)) if !image.trim().is_empty() => {}
        (None, Some(_)) => issues.add("/supervisor/image", "the image has no name", "name it as requests name images"),
        (Some(_), Some(_)) => {
            issues.add("/supervisor/image", "the supervisor is a file and an image", "keep one of bin and image");
        }
        (None, None) => issues.add("/supervisor", "the supervisor's program is missing", "set bin or image"),
    }
    match config.endpoint.as_deref() {
        Some(text) if endpoint(text) => {}
        Some(_) => issues.add(
            "/supervisor/endpoint",
            "this is not the address of a gateway",
            "write http://HOST:PORT or https://HOST:PORT",
        ),
        None => issues.add(
            "/supervisor",
            "the gateway's address is missing",
            "set endpoint, for example \"https://host.openshell.internal:17670\"",
        ),
    }
    if let Some(tls) = &config.tls {
        for (name, path) in [("ca", &tls.ca), ("cert", &tls.cert), ("key", &tls.key)] {
            issues.absolute(format!("/supervisor/tls/{name}"), path);
        }
    }
    if config.ssh_socket.as_deref().is_some_and(|path| !path_inside(path) || path.len() > 107) {
        let message = "this is not the path of a socket in a sandbox";
        issues.add("/supervisor/ssh_socket", message, "write an absolute path of at most 107 bytes without detours");
    }
    if config.host_address.as_deref().is_some_and(|text| host_address(text).is_none()) {
        let message = "this is neither an address nor \"host-gateway\"";
        issues.add("/supervisor/host_address", message, "write an address of this machine that sandboxes reach");
    }
}

/// What a checked config injects.
pub(super) fn injects(agent: WhoseAgent, config: Option<SupervisorConfig>) -> Result<Injects, Error> {
    let missing = |what: &str| Error::invalid("/supervisor", format!("{what} is missing")).cure("set it");
    match agent {
        WhoseAgent::Chiton => return Ok(Injects::Agent),
        WhoseAgent::None => return Ok(Injects::Nothing),
        WhoseAgent::Openshell => {}
    }
    let config = config.ok_or_else(|| missing("the supervisor"))?;
    let program = match (config.bin, config.image) {
        (Some(bin), _) => Supervisor::Bin(bin),
        (None, Some(image)) => Supervisor::Image(image),
        (None, None) => return Err(missing("bin or image")),
    };
    let mut options = SupervisorOptions::new(program, config.endpoint.ok_or_else(|| missing("endpoint"))?);
    options.tls = config.tls.map(|tls| ClientTls { ca: tls.ca, cert: tls.cert, key: tls.key });
    options.ssh_socket = config.ssh_socket.unwrap_or(options.ssh_socket);
    options.log_level = config.log_level.unwrap_or(options.log_level);
    options.telemetry = config.telemetry;
    options.keep_tokens = config.keep_tokens;
    options.host_address = config.host_address.as_deref().and_then(host_address);
    Ok(Injects::Supervisor(Box::new(options)))
}
