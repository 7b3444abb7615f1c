//! The embedded driver, as a distribution registers it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use chiton_driver_oci::{OciDriver, OciOptions};
use chiton_gateway::{BuiltDriver, DriverContext, DriverKind, Finding};
use chiton_lifecycle::extension::{ConfigIssue, decode_config};
use chiton_model::{DriverId, Error, GatewayId, MemoryQuantity};
use ipnet::Ipv4Net;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

/// `[compute.driver.oci]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Config {
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
    /// The most processes and threads of a sandbox whose request names no limit. Default: 4096.
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

/// `[compute.driver.oci.images]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct ImagesConfig {
    /// The registry of names that have none. Default: none, and such names are refused.
    default_registry: Option<String>,
    /// The only registries that may be asked. Default: all.
    registries: Option<BTreeSet<String>>,
    /// Registries that are asked over plain HTTP. Those on the loopback interface always are.
    insecure_registries: BTreeSet<String>,
    /// Who the gateway is to a registry.
    login: BTreeMap<String, LoginConfig>,
    /// Names and digests of images that are never removed.
    pinned: BTreeSet<String>,
    /// Hours that an image stays that no sandbox uses. Default: 168.
    keep_hours: Option<u64>,
    /// Unpacked bytes of images that no sandbox uses and that may stay. Default: 20 GiB.
    keep_bytes: Option<u64>,
    /// Layers that an image may have, at most 300. Default: 128.
    max_layers: Option<usize>,
    /// Files, folders and links that a layer may have. Default: 1,000,000.
    max_entries: Option<u64>,
    /// Bytes that a layer may have, unpacked. Default: 32 GiB.
    max_layer_bytes: Option<u64>,
    /// Bytes that an image may have, as it is stored. Default: 32 GiB.
    max_image_bytes: Option<u64>,
    /// How many times its stored size a layer larger than 128 MiB may be unpacked. Default: 200.
    max_ratio: Option<u64>,
}

/// `[compute.driver.oci.images.login."HOST"]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LoginConfig {
    /// The user's name.
    username: String,
    /// Absolute path of a file with the password or token.
    password_file: PathBuf,
}

impl ImagesConfig {
    fn check(&self, mut issue: impl FnMut(&str, String, &str)) {
        let hosts = self.default_registry.iter().map(|host| ("/images/default_registry".to_owned(), host));
        let listed = |name: &'static str, hosts: Vec<String>| {
            hosts.into_iter().enumerate().map(move |(index, host)| (format!("/images/{name}/{index}"), host))
        };
        let hosts = hosts.map(|(pointer, host)| (pointer, host.clone()));
        let hosts = hosts
            .chain(listed("registries", self.registries.iter().flatten().cloned().collect()))
            .chain(listed("insecure_registries", self.insecure_registries.iter().cloned().collect()))
            .chain(self.login.keys().map(|host| ("/images/login".to_owned(), host.clone())));
        for (pointer, host) in hosts.filter(|(_, host)| !chiton_image::is_registry(host)) {
            issue(
                &pointer,
                format!("{host:?} is not HOST or HOST:PORT"),
                "write it as it stands before the first slash of an image",
            );
        }
        for (host, login) in self.login.iter().filter(|(_, login)| !login.password_file.is_absolute()) {
            let pointer = format!("/images/login/{}/password_file", host.replace('~', "~0").replace('/', "~1"));
            issue(&pointer, format!("{:?} is not an absolute path", login.password_file), "begin it with \"/\"");
        }
        if self.max_layers.is_some_and(|layers| layers == 0 || layers > 300) {
            issue(
                "/images/max_layers",
                "the names of more than 300 layers do not fit into one mount call".to_owned(),
                "use 1 to 300",
            );
        }
        if self.max_ratio == Some(0) {
            issue(
                "/images/max_ratio",
                "no layer is smaller unpacked than 0 times its size".to_owned(),
                "use at least 1",
            );
        }
    }

    fn policy(self) -> chiton_image::Policy {
        let default = chiton_image::Policy::default();
        let limits = chiton_image::Limits {
            layers: self.max_layers.unwrap_or(default.limits.layers),
            entries: self.max_entries.unwrap_or(default.limits.entries),
            layer_bytes: self.max_layer_bytes.unwrap_or(default.limits.layer_bytes),
            image_bytes: self.max_image_bytes.unwrap_or(default.limits.image_bytes),
            ratio: self.max_ratio.unwrap_or(default.limits.ratio),
            ..default.limits
        };
        let login = self.login.into_iter().map(|(host, login)| {
            (host, chiton_image::Credential { username: login.username, password_file: login.password_file })
        });
        chiton_image::Policy {
            default_registry: self.default_registry,
            registries: self.registries,
            insecure: self.insecure_registries,
            credentials: login.collect(),
            limits,
            pinned: self.pinned,
            keep: self.keep_hours.map_or(default.keep, |hours| Duration::from_secs(hours.saturating_mul(3600))),
            keep_bytes: self.keep_bytes.unwrap_or(default.keep_bytes),
            ..default
        }
    }
}

/// `[compute.driver.oci.bridge]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct BridgeConfig {
    /// The bridge's own IPv4 range, from /16 to /29, used by nothing else. Default: a free /20 of 10.128.0.0/9.
    subnet: Option<String>,
    /// Name servers of sandboxes whose request names none, at most three IPv4 addresses; their port 53 is open even if
    /// they are private. Default: the host's own servers that are public.
    dns: Vec<Ipv4Addr>,
    /// Private, link-local and host addresses that requests may ask for, as ranges. Default: none.
    allow_private: Vec<String>,
    /// Whether `net.ipv4.ip_forward` may be set, which makes this machine a router. Default: no.
    enable_forwarding: Option<bool>,
}

impl BridgeConfig {
    fn range(text: &str) -> Option<Ipv4Net> {
        text.parse::<Ipv4Net>().ok().filter(|range| range.trunc() == *range)
    }

    fn check(&self, issue: &mut dyn FnMut(&str, String, &str)) {
        if let Some(text) = &self.subnet {
            let fits = Self::range(text).filter(|range| (16..=29).contains(&range.prefix_len()));
            if fits.is_none() {
                issue(
                    "/bridge/subnet",
                    format!("{text:?} is not an IPv4 range from /16 to /29 without host bits"),
                    "write a range that nothing else uses, for example \"10.200.0.0/20\"",
                );
            }
        }
        for (index, text) in self.allow_private.iter().enumerate().filter(|(_, text)| Self::range(text).is_none()) {
            issue(
                &format!("/bridge/allow_private/{index}"),
                format!("{text:?} is not an IPv4 range without host bits"),
                "write a range such as \"10.1.0.0/16\" or \"10.1.2.3/32\"",
            );
        }
        if self.dns.len() > 3 {
            issue("/bridge/dns", "resolvers read at most three name servers".to_owned(), "name at most three");
        }
        let unusable = |server: &Ipv4Addr| server.is_loopback() || server.is_multicast() || server.is_unspecified();
        for (index, server) in self.dns.iter().enumerate().filter(|(_, server)| unusable(server)) {
            issue(
                &format!("/bridge/dns/{index}"),
                format!("name server {server} cannot be reached from a sandbox"),
                "name a server that other machines reach too",
            );
        }
    }
}

/// The `oci` driver: containers run directly, without a daemon.
#[must_use]
pub fn oci() -> DriverKind {
    DriverKind { kind: "oci", early, check, build, doctor }
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
    let mut issues = Vec::new();
    let mut issue = |pointer: &str, message: String, cure: &str| {
        issues.push(ConfigIssue { pointer: pointer.to_owned(), message, cure: Some(cure.to_owned()) });
    };
    for (index, root) in config.dir_roots.iter().flatten().enumerate().filter(|(_, root)| !root.is_absolute()) {
        issue(&format!("/dir_roots/{index}"), format!("{root:?} is not an absolute path"), "begin it with \"/\"");
    }
    config.images.check(&mut issue);
    if config.stop_grace_seconds.is_some_and(|seconds| seconds > 45) {
        issue(
            "/stop_grace_seconds",
            "more than 45 seconds do not fit into the deadline of a stop".to_owned(),
            "use at most 45",
        );
    }
    if config.first_id.is_some_and(|id| id < 65_536) {
        issue(
            "/first_id",
            "ids below 65536 belong to this machine's own users".to_owned(),
            "use a range that nothing else uses",
        );
    }
    if config.log_bytes.is_some_and(|bytes| bytes < 4096) {
        issue("/log_bytes", "a log of less than 4096 bytes holds no output".to_owned(), "use at least 4096");
    }
    for (pointer, size) in [("/disk", &config.disk), ("/volume_size", &config.volume_size)] {
        if size.as_ref().is_some_and(|size| size.bytes() < 8 << 20) {
            issue(pointer, "less than 8 MiB hold no file system".to_owned(), "use at least \"8Mi\"");
        }
    }
    config.bridge.check(&mut issue);
    issues
}

fn options(context: DriverContext) -> Result<OciOptions, Error> {
    let config: Config =
        decode_config(&context.config).map_err(|issue| Error::invalid(issue.pointer, issue.message))?;
    let mut options =
        OciOptions::new(context.id, context.gateway, context.state_dir, context.run_dir, chiton_agent_binary::AGENT);
    options.host_image = config.host_image.unwrap_or(options.host_image);
    options.dir_roots = config.dir_roots;
    options.images = config.images.policy();
    options.first_id = config.first_id.unwrap_or(options.first_id);
    options.stop_grace = config.stop_grace_seconds.map_or(options.stop_grace, Duration::from_secs);
    options.log_bytes = config.log_bytes.unwrap_or(options.log_bytes);
    options.default_pids = config.pids.or(options.default_pids);
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

/// Half of the machine's memory, so that no single sandbox can take all of it; none where the kernel does not say.
fn half_of_memory() -> Option<MemoryQuantity> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let total: u64 =
        text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.split_whitespace().next()?.parse().ok()?;
    format!("{}Mi", total / 2 / 1024).parse().ok()
}

fn build(context: DriverContext) -> Result<BuiltDriver, Error> {
    let driver = Arc::new(OciDriver::new(options(context)?));
    let folders: Arc<OciDriver> = Arc::clone(&driver);
    Ok(BuiltDriver { driver, agent_folder: Some(Arc::new(move |id| folders.agent_folder(id))) })
}

/// Where a gateway of this user that is told nothing keeps its things.
fn folders() -> (PathBuf, PathBuf) {
    if rustix::process::geteuid().is_root() {
        return (PathBuf::from("/var/lib/chiton"), PathBuf::from("/run/chiton"));
    }
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|folder| folder.is_absolute());
    let data = folder("XDG_DATA_HOME").or_else(|| Some(folder("HOME")?.join(".local/share")));
    let socket = chiton_client::default_socket();
    let run = socket.and_then(|socket| Some(socket.parent()?.to_path_buf()));
    (data.unwrap_or_default().join("chiton"), run.unwrap_or_default())
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
        Err(error) => vec![Finding {
            check: "config".to_owned(),
            ok: false,
            detail: error.message,
            cure: error.cure.unwrap_or_default(),
        }],
    }
}
