//! What the operator decides about the driver.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use chiton_model::{DriverId, GatewayId, MemoryQuantity};
use ipnet::Ipv4Net;

/// Everything the driver needs to know. Nothing is read from the environment.
#[derive(Clone, Debug)]
pub struct OciOptions {
    /// The operator's id for this driver.
    pub id: DriverId,
    /// The installation that its sandboxes belong to.
    pub gateway: GatewayId,
    /// Where sandboxes' files are kept; absolute, on a file system that can be an overlay's upper layer. It must be
    /// this driver's alone and allow execution.
    pub state_dir: PathBuf,
    /// Where sockets are; absolute, best on a tmpfs. It must be this driver's alone.
    pub run_dir: PathBuf,
    /// The static agent binary, which is the monitor too.
    pub agent_binary: &'static [u8],
    /// Whether sandboxes carry the agent. Without it the main process is the request's command, and nothing of the
    /// gateway's is in the sandbox.
    pub agent: bool,
    /// Program and leading arguments by which this program's [`crate::launch::main`] is reached.
    pub launcher: Launcher,
    /// Whether the image `host` may be used.
    pub host_image: bool,
    /// Folders below which `dir:` images may be; `None` allows every folder but the driver's own.
    pub dir_roots: Option<Vec<PathBuf>>,
    /// How images are got and kept; its roots are [`OciOptions::dir_roots`].
    pub images: chiton_image::Policy,
    /// The first host id of the ranges that sandboxes' ids are mapped to. Each gets 65,536; the ranges up to
    /// 2^31 must not be used by anything else on the machine.
    pub first_id: u32,
    /// How long a main process may take to end by itself when a request says nothing.
    pub stop_grace: Duration,
    /// How large one of a sandbox's two log files may become, in bytes.
    pub log_bytes: u64,
    /// The most processes and threads of sandboxes whose request names no limit; `None` leaves these without. Not applied
    /// where nothing enforces it.
    pub default_pids: Option<u32>,
    /// The same of memory.
    pub default_memory: Option<MemoryQuantity>,
    /// The disk limit of sandboxes whose request names none; `None` leaves these without.
    pub default_disk: Option<MemoryQuantity>,
    /// The most bytes of a volume that is made without a size; `None` leaves these without a limit of their own.
    pub volume_size: Option<MemoryQuantity>,
    /// What sandboxes may have of the network.
    pub network: NetworkOptions,
}

/// What sandboxes may have of the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkOptions {
    /// Whether a sandbox may keep the host's network. It can then reach every service of the host that listens on the
    /// loopback interface or in the abstract namespace of Unix sockets. Default: no.
    pub host: bool,
    /// The bridge's own range, from /16 to /29, used by nothing else. Default: a free /20 of `10.128.0.0/9`, chosen once.
    pub subnet: Option<Ipv4Net>,
    /// Name servers of sandboxes whose request names none; their port 53 is open even if they are private. Default: the
    /// host's own servers that are public.
    pub dns: Vec<Ipv4Addr>,
    /// Private, link-local and host addresses that requests may ask for. Default: none.
    pub allow_private: Vec<Ipv4Net>,
    /// Whether the driver may set `net.ipv4.ip_forward`, which makes the host a router. Default: no.
    pub enable_forwarding: bool,
    /// How long the bridge stays after its last sandbox.
    pub idle: Duration,
}

impl Default for NetworkOptions {
    fn default() -> Self {
        Self {
            host: false,
            subnet: None,
            dns: Vec::new(),
            allow_private: Vec::new(),
            enable_forwarding: false,
            idle: Duration::from_mins(1),
        }
    }
}

/// How the launch child is reached.
#[derive(Clone, Debug)]
pub struct Launcher {
    /// The program; `/proc/self/exe` means the running one, also after its file was replaced.
    pub program: PathBuf,
    /// What comes before the driver's own arguments.
    pub arguments: Vec<OsString>,
}

impl OciOptions {
    /// The least memory in which the launch fits.
    pub const LEAST_MEMORY: u64 = 16 << 20;
    /// The fewest processes and threads in which it does.
    pub const LEAST_PIDS: u32 = 4;

    /// Options with defaults for all that may have one.
    pub fn new(
        id: DriverId,
        gateway: GatewayId,
        state_dir: PathBuf,
        run_dir: PathBuf,
        agent_binary: &'static [u8],
    ) -> Self {
        Self {
            id,
            gateway,
            state_dir,
            run_dir,
            agent_binary,
            agent: true,
            launcher: Launcher { program: "/proc/self/exe".into(), arguments: vec!["oci-launch".into()] },
            host_image: true,
            dir_roots: None,
            images: chiton_image::Policy::default(),
            first_id: 0x1000_0000,
            stop_grace: Duration::from_secs(10),
            log_bytes: 8 << 20,
            default_pids: Some(4096),
            default_memory: None,
            default_disk: None,
            volume_size: None,
            network: NetworkOptions::default(),
        }
    }
}
