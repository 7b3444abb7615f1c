//! The process beside each sandbox: it outlives the driver, runs the main process and writes down how it ended.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::Mode;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process_group, nice, setrlimit, setsid, umask};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};

use crate::asked::Asked;
use crate::files::{load, save};

/// The word by which this program is a keeper.
pub(crate) const KEEP: &str = "--keep";
/// The word by which it becomes a main process.
pub(crate) const ENTER: &str = "--enter";

/// Where programs are looked for, unless the request says otherwise.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// One start of a sandbox, and how it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    /// The keeper.
    pub(crate) keeper: Identity,
    /// The start's name, as the gateway gave it.
    pub(crate) attempt: String,
    /// Why it ended; none while it did not.
    pub(crate) reason: Option<String>,
    /// The exit code, 128 + n after signal n.
    pub(crate) code: Option<i32>,
    /// More of that, for people.
    pub(crate) message: String,
    /// Whether it was to end.
    pub(crate) stopped: bool,
}

/// Tells a process from a later one of its number: by its start, in ticks since this boot (proc(5)).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) pid: u32,
    start: String,
    boot: String,
}

impl Identity {
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        let line = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let after_name = line.rsplit_once(')').map_or("", |(_, rest)| rest);
        let start = after_name.split_whitespace().nth(19).unwrap_or_default().to_owned();
        Ok(Self { pid, start, boot: fs::read_to_string("/proc/sys/kernel/random/boot_id")? })
    }

    pub(crate) fn is_of_this_boot(&self) -> io::Result<bool> {
        Ok(Self::of(std::process::id())?.boot == self.boot)
    }
}

/// Keeps the sandbox in this folder, once the driver says so over standard input.
#[tokio::main(flavor = "current_thread")]
pub(crate) async fn keep(folder: &Path) -> io::Result<()> {
    setsid()?;
    let mut driver = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    if driver.read(&mut [0])? == 0 {
        // The driver died before it wrote down who we are: nobody would ever find what we run.
        return Ok(());
    }
    // A stop is sent to all of the group. It is meant for the others: this one only must not end by it.
    let _handled = signal(SignalKind::terminate())?;
    let output = File::create(folder.join("output"))?;
    let mut main = Command::new("/proc/self/exe");
    main.arg(ENTER).arg(folder).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let mut main = main.spawn()?;
    // The driver may be gone by now.
    drop(driver.write_all(b"+"));
    let ended = main.wait()?;
    let mut run: Run = load(&folder.join("run.json"))?.unwrap_or_default();
    if run.reason.is_none() {
        run.reason = Some(if ended.signal().is_some() { "Signaled" } else { "Exited" }.to_owned());
        run.code = ended.code().or_else(|| ended.signal().map(|number| 128 + number));
        save(&folder.join("run.json"), &run)?;
    }
    // With the main process ends what it left behind.
    Ok(kill_process_group(rustix::process::getpid(), Signal::KILL)?)
}

/// Becomes the main process, or writes down why it cannot.
pub(crate) fn enter(folder: &Path) -> io::Result<()> {
    let asked: Asked = load(&folder.join("sandbox.json"))?.ok_or(io::ErrorKind::NotFound)?;
    umask(Mode::from_raw_mode(0o022));
    nice(asked.niceness)?;
    let mut command = Command::new(&asked.command[0]);
    command.args(&asked.command[1..]).current_dir(folder.join("files")).env_clear();
    command.env("PATH", PATH).env("HOME", folder.join("files")).envs(&asked.environment);
    command.env("SANDBOX_TOKEN_FILE", folder.join("token"));
    if asked.memory > 0 {
        let limit = Some(asked.memory);
        setrlimit(Resource::As, Rlimit { current: limit, maximum: limit })?;
    }
    let error = command.exec();
    let mut run: Run = load(&folder.join("run.json"))?.unwrap_or_default();
    run.reason = Some("Exited".to_owned());
    run.code = Some(if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 });
    run.message = format!("{:?} cannot be run: {error}", asked.command[0]);
    save(&folder.join("run.json"), &run)
}

/// A number of a process as the system's calls have it.
pub(crate) fn pid(number: u32) -> io::Result<Pid> {
    i32::try_from(number).ok().and_then(Pid::from_raw).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}
