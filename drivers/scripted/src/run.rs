//! One run of a sandbox's main process, on a thread of its own: it outlives the server that began it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use chiton_compute_wire::v1::DriverSandboxSpec;
use chiton_model::MemoryQuantity;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::fault::{Fault, Faults};
use crate::platform::Platform;

/// Where a command without a path of its own is looked for when the request has no `PATH`.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// What is run, and how.
pub(crate) struct Run {
    pub(crate) id: String,
    /// Which start of the sandbox this is.
    pub(crate) generation: u64,
    /// Waited for before it starts; ends early when its sender goes.
    pub(crate) delay: (Duration, Receiver<()>),
    pub(crate) argv: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
}

/// The command as it is executed, and its environment.
pub(crate) fn prepared(spec: &DriverSandboxSpec, faults: &Faults) -> (Vec<String>, Vec<(String, String)>) {
    let template = spec.template.clone().unwrap_or_default();
    let mut environment = vec![("PATH".to_owned(), PATH.to_owned())];
    if !faults.has(Fault::LosesEnvironment) {
        environment.extend(template.environment);
        environment.extend(spec.environment.clone());
        environment.extend(spec.secret_environment.clone());
    }
    let mut argv = spec.command.clone();
    if faults.has(Fault::GarblesArguments) && argv.len() > 4 {
        let joined = argv.split_off(4).join(" ");
        argv.extend(joined.split(' ').map(ToOwned::to_owned));
    }
    let limit = template.resources.map(|resources| resources.memory_limit).unwrap_or_default();
    let limit = MemoryQuantity::parse("memory_limit", &limit).ok().filter(|_| !faults.has(Fault::IgnoresLimits));
    if let (Some(limit), false) = (limit, argv.is_empty()) {
        // The limit of an address space is the one that an ordinary user can set without any cgroup.
        let wrapper = ["/bin/sh", "-c", "ulimit -v \"$0\" || exit 126; exec \"$@\""].map(str::to_owned);
        let kib = (limit.bytes() / 1024).max(1).to_string();
        argv = wrapper.into_iter().chain([kib]).chain(argv).collect();
    }
    (argv, environment)
}

/// Begins a run.
pub(crate) fn begin(platform: &Arc<Platform>, run: Run) {
    // A platform that nobody uses any more ends its processes; this thread does not keep it.
    let platform = Arc::downgrade(platform);
    std::thread::spawn(move || {
        let (time, cancelled) = &run.delay;
        if !time.is_zero() && cancelled.recv_timeout(*time) != Err(RecvTimeoutError::Timeout) {
            return;
        }
        let Some(there) = platform.upgrade() else { return };
        let started = there.started(&run.id, run.generation, || match run.argv.split_first() {
            None => Ok(None),
            Some(_) => spawn(&run).map(Some),
        });
        drop(there);
        let Some(child) = started else { return };
        let pid = Pid::from_child(&child);
        let code = ended(pid);
        // What the main process started ends with it, and while it is not yet reaped its group is nobody else's.
        let _ = kill_process_group(pid, Signal::KILL);
        if let Some(platform) = platform.upgrade() {
            platform.exited(&run.id, run.generation, code);
        }
        reap(child);
    });
}

fn spawn(run: &Run) -> std::io::Result<Child> {
    let mut argv = run.argv.iter().map(OsString::from);
    Command::new(argv.next().unwrap_or_default())
        .args(argv)
        .env_clear()
        .envs(run.environment.iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
}

/// Waits for the end and leaves the process unreaped, so that its number stays its own. Its exit code, 128 and the number
/// after a signal, and whether it was a signal.
fn ended(pid: Pid) -> (i32, bool) {
    const UNKNOWN: (i32, bool) = (255, false);
    loop {
        match waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            Ok(Some(status)) => {
                let code = status.exit_status().map(|code| (code, false));
                let signal = status.terminating_signal().map(|signal| (128 + signal, true));
                return code.or(signal).unwrap_or(UNKNOWN);
            }
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return UNKNOWN,
        }
    }
}

fn reap(mut child: Child) {
    drop(child.wait());
}
