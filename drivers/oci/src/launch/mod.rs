//! The launch child: a short-lived, single-threaded run of our own binary that makes one container.
//!
//! libcontainer forks and changes its own process (namespaces, dumpability, working folder), so it gets a process of
//! its own. That process does in order what costs least and leaks nothing: it dies with its monitor; it moves itself
//! into the sandbox's cgroups, which libcontainer is then not bothered with; and it makes every mount in a mount
//! namespace of its own, so that the host never sees one and the kernel removes them with the last process. It stays
//! until the container is to start and ends when the main process was executed.
//!
//! The namespace is the launch child's and not the monitor's, because a monitor that lives as long as its sandbox
//! would keep a copy of every host mount busy for that long.

mod container;
mod layer;
mod raw;
mod stage;
mod steps;
mod user;
mod volumes;

use std::ffi::OsString;
use std::io::{self, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use chiton_confine::{Confinement, Enforced};
use chiton_oci_monitor::wire::{self, LaunchOrder, LaunchReport};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::network::join::NetworkDocument;
use crate::sys;

pub(crate) use layer::Layer;
pub use raw::{RawTiming, raw_create_start};
use steps::Watch;
pub(crate) use steps::{Steps, now};
pub(crate) use volumes::VolumeBind;

/// What the launch child is told, by way of the monitor. It holds secrets (the environment): never written to disk.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LaunchDocument {
    /// When the driver began, in microseconds of the monotonic clock.
    pub(crate) begun: u64,
    /// The container's id.
    pub(crate) id: String,
    /// The runtime specification, without root.
    pub(crate) spec: Value,
    /// Files to write `0` to, to enter cgroups of version one.
    pub(crate) attach: Vec<PathBuf>,
    /// The cgroup of the unified hierarchy.
    pub(crate) enter: Option<PathBuf>,
    /// What the root file system is made of.
    pub(crate) root: RootDocument,
    /// The network.
    pub(crate) network: NetworkDocument,
    /// What the container's init applies to itself before it waits for its start.
    pub(crate) confinement: Confinement,
    /// Whether this is an ordinary user's, in its user namespace.
    pub(crate) user: bool,
}

/// What the root file system is made of.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RootDocument {
    /// Host folders below what the sandbox writes, the highest first, shown with the sandbox's ids.
    pub(crate) lowers: Vec<PathBuf>,
    /// Where what the sandbox writes is kept.
    pub(crate) layer: Layer,
    /// The host id that the sandbox's 0 is mapped to.
    pub(crate) first_id: u32,
    /// How many ids are mapped.
    pub(crate) ids: u32,
    /// Folders, files and links that exist where the image has none.
    pub(crate) skeleton: Vec<Entry>,
    /// Host paths shown in the sandbox, in this order.
    pub(crate) binds: Vec<Bind>,
    /// Named volumes, shown after them.
    pub(crate) volumes: Vec<VolumeBind>,
}

/// One thing in the bottom layer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Entry {
    /// A folder with a mode.
    Folder(String, u32),
    /// A file with its text.
    File(String, String),
    /// A link and what it points to.
    Link(String, String),
    /// Whose an earlier folder is: user and group in the sandbox.
    Owner(String, u32, u32),
}

/// One host path shown in the sandbox.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bind {
    pub(crate) source: PathBuf,
    pub(crate) target: String,
    pub(crate) read_only: bool,
    /// Whether it is a device node, which must stay usable.
    pub(crate) device: bool,
}

/// What is known of a container that was made; kept in the sandbox's folder.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Launched {
    /// What its init enforced on itself.
    pub(crate) enforced: Enforced,
    /// Where the time went.
    pub(crate) steps: Steps,
}

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {message}")]
pub(crate) struct LaunchError {
    step: &'static str,
    message: String,
}

/// Names the step of an error, with all its causes.
pub(crate) trait Step<T> {
    fn step(self, step: &'static str) -> Result<T, LaunchError>;
}

impl<T, E: std::error::Error> Step<T> for Result<T, E> {
    fn step(self, step: &'static str) -> Result<T, LaunchError> {
        self.map_err(|error| {
            let mut message = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                let text = cause.to_string();
                if !message.contains(&text) {
                    message = format!("{message}: {text}");
                }
                source = cause.source();
            }
            LaunchError { step, message }
        })
    }
}

/// How long the monitor may take to hand over the document.
const DOCUMENT_DEADLINE: Duration = Duration::from_secs(30);

/// Runs the launch child. The main binary calls this before it makes any thread, for its hidden subcommand; the last
/// argument is the monitor's process id. With `raw BUNDLE STATE ID` it measures the container library alone instead
/// (see [`raw_create_start`]) and prints a JSON object of microseconds.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    if let [word, bundle, state, id] = args.as_slice()
        && word == "raw"
    {
        return raw::main(bundle.as_ref(), state.as_ref(), &id.to_string_lossy());
    }
    let parent = args.last().and_then(|text| text.to_str()).and_then(|text| text.parse::<i32>().ok());
    let (Some(parent), Ok(mut monitor)) = (parent, take_stdin()) else {
        eprintln!("this subcommand is run by the oci driver's monitor only");
        return ExitCode::from(2);
    };
    match launch(parent, &mut monitor) {
        Ok(()) => ExitCode::SUCCESS,
        Err(LaunchError { step, message }) => {
            let _ = wire::send(&mut monitor, &LaunchReport::Failed { step: step.to_owned(), message });
            ExitCode::FAILURE
        }
    }
}

fn launch(parent: i32, monitor: &mut UnixStream) -> Result<(), LaunchError> {
    let begun = now();
    bind(parent)?;
    // What the gateway was started with is not the sandbox's to inherit.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    // The monitor blocks what it reads by signalfd, and a spawned process starts with the spawner's mask.
    nix::sys::signal::SigSet::empty().thread_set_mask().step("unblock signals")?;
    sys::leave_session_keyring().step("leave the session keyring")?;
    monitor.set_read_timeout(Some(DOCUMENT_DEADLINE)).step("read the launch document")?;
    let mut reader = BufReader::new(monitor.try_clone().step("read the launch document")?);
    let document: LaunchDocument = wire::receive(&mut reader)
        .step("read the launch document")?
        .ok_or_else(|| LaunchError { step: "read the launch document", message: "nothing came".to_owned() })?;
    let mut watch = Watch::from(document.begun);
    watch.at("monitor and launch child begin", begun);
    watch.done("read the launch document");
    monitor.set_read_timeout(None).step("wait for the order to start")?;
    for file in &document.attach {
        attach(file).step("enter the cgroups")?;
    }
    if let Some(cgroup) = &document.enter {
        let opened = std::fs::File::open(cgroup).step("open the unified cgroup")?;
        match sys::fork_into(opened.as_fd()).step("enter the unified cgroup")? {
            // The lock, the socket and the output pipes are the new process's too.
            Some(pid) => return wire::send(monitor, &LaunchReport::Moved { pid }).step("report"),
            None => bind(parent)?,
        }
    }
    watch.done("enter the cgroups");
    if document.user {
        user::prepare(&document.root)?;
    } else {
        stage::separate()?;
    }
    watch.done("make a mount namespace");
    stage::make(&document.root, document.user, &mut watch)?;
    let mut container =
        container::create(&document.id, document.spec, document.confinement, &document.network, &mut watch)?;
    let launched = Launched { enforced: container.enforced(), steps: watch.steps };
    let launched = serde_json::to_string(&launched).step("report")?;
    let created = LaunchReport::Created { pid: container.pid(), launched };
    wire::send(monitor, &created).step("report")?;
    match wire::receive(&mut reader).step("wait for the order to start")? {
        Some(LaunchOrder::Start) => container.start()?,
        None => return Ok(()),
    }
    wire::send(monitor, &LaunchReport::Running).step("report")
}

/// Makes this process die with the monitor: without it nobody would own what is made here. The signal is lost when the
/// parent ended before it was asked for, hence the look afterwards.
fn bind(parent: i32) -> Result<(), LaunchError> {
    set_parent_process_death_signal(Some(Signal::KILL)).step("bind to the monitor's life")?;
    if getppid().map(rustix::process::Pid::as_raw_pid) == Some(parent) {
        return Ok(());
    }
    Err(LaunchError { step: "bind to the monitor's life", message: "the monitor is gone".to_owned() })
}

/// Moves this process into a cgroup. `0` names the writer; the file is never made.
fn attach(file: &std::path::Path) -> io::Result<()> {
    let opened = std::fs::OpenOptions::new().write(true).open(file);
    opened
        .and_then(|mut opened| io::Write::write_all(&mut opened, b"0"))
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))
}

/// Takes the monitor's socket off descriptor 0, so that the container does not inherit it.
fn take_stdin() -> io::Result<UnixStream> {
    let stdin: OwnedFd = rustix::stdio::stdin().try_clone_to_owned()?;
    let stat = rustix::fs::fstat(&stdin)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Socket {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(null.as_fd())?;
    Ok(UnixStream::from(stdin))
}
