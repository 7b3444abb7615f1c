//! Spawning a monitor for one launch of a sandbox.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use chiton_driver::{AgentLaunch, CallError, CallResult};
use chiton_model::{Error, WorkspaceName};
use chiton_oci_monitor::cgroup::Hierarchy;
use chiton_oci_monitor::wire::{Config, State};

use super::{Doing, Host, make_folder};
use crate::connection::Connection;
use crate::disk;
use crate::launch::{self, LaunchDocument};
use crate::plan::{DiskMeans, NetworkMode, OciPlan};
use crate::program;
use crate::record::{Paths, Record};
use crate::spec;

/// How long the monitor may take to read its config.
const HAND_OVER: Duration = Duration::from_secs(10);
/// How long each half of a launch may take.
const LAUNCH_MILLIS: u64 = 45_000;

/// A spawned monitor, our child until this process ends.
pub(crate) struct Monitor {
    pub(crate) child: Child,
    pub(crate) connection: Connection,
}

impl Host {
    /// Makes the folders of a sandbox; all may be there already.
    pub(super) fn make_folders(paths: &Paths, first_id: u32, agent: bool) -> io::Result<()> {
        make_folder(&paths.dir)?;
        make_folder(&paths.work)?;
        make_folder(&paths.run)?;
        if agent {
            open_folder(&paths.agent)?;
        }
        // An ordinary user's launch child does it where the ids exist.
        if open_folder(&paths.upper)? && rustix::process::geteuid().is_root() {
            chown(&paths.upper, Some(first_id), Some(first_id))?;
        }
        Ok(())
    }

    /// Makes the image of a writable layer that is limited by one. It is there from create to delete.
    pub(super) fn make_disk(&self, plan: &OciPlan, paths: &Paths) -> CallResult<()> {
        if plan.resources.disk_by != Some(DiskMeans::Image) || !plan.resources.limits_disk() {
            return Ok(());
        }
        let geometry = disk::Geometry::of(&plan.resources).map_err(CallError::NotRun)?;
        let mkfs = self.disk_means().image.as_ref();
        let mkfs = mkfs.map_err(|lacking| {
            CallError::NotRun(Error::refused("driver", format!("the writable layer cannot be limited: {lacking}")))
        })?;
        disk::prepare(&self.options.state_dir.join("disks"), mkfs, geometry, &paths.disk)
            .failed("make the sandbox's disk")
    }

    pub(super) fn spawn(
        &self,
        plan: &OciPlan,
        record: &Record,
        paths: &Paths,
        agent: Option<&AgentLaunch>,
        start: bool,
    ) -> CallResult<Monitor> {
        let begun = launch::now();
        let ready = self.ready()?;
        let workspace = WorkspaceName::new(plan.sandbox.workspace.as_str()).map_err(CallError::NotRun)?;
        let volumes = self.volume_binds(plan, &workspace)?;
        let program = agent.map(|_| ready.agent_program.as_path());
        let image = self.unpacked(plan, record.ids.min(plan.security.mapped_ids))?;
        let document = LaunchDocument {
            begun,
            id: record.id.to_string(),
            spec: spec::runtime(plan, record, agent, &ready.means, image.user.as_ref()),
            attach: record.cgroups.iter().filter_map(Hierarchy::tasks).collect(),
            enter: record.cgroups.iter().find(|cgroup| cgroup.unified).map(|cgroup| cgroup.dir.clone()),
            root: spec::root(plan, record, paths, program, volumes, &image),
            network: self.network.document(&record.id, &plan.network, record.network.as_ref()),
            confinement: self.confinement(plan)?,
            user: !ready.means.root(),
        };
        let launch = serde_json::to_string(&document).map_err(io::Error::from).not_run("write the launch document")?;
        let config = Config {
            id: record.id.to_string(),
            attempt: record.attempt.clone(),
            dir: paths.dir.clone(),
            run_dir: paths.run.clone(),
            lock: paths.lock.clone(),
            tombstone: paths.tombstone.clone(),
            cgroups: record.cgroups.clone(),
            limits: spec::limits(plan, &ready.means),
            launcher: self.launcher()?,
            launch,
            root_uid: record.first_id,
            host_network: plan.network.mode == NetworkMode::Host,
            start,
            log_bytes: self.options.log_bytes,
            launch_deadline_ms: LAUNCH_MILLIS,
        };
        let (ours, theirs) = UnixStream::pair().not_run("make a socket pair")?;
        let mut command = if let Some(user) = &ready.user {
            user.monitor(config.launcher.first().map_or("", String::as_str), record.id.as_str())
        } else {
            let mut command = Command::new(&ready.agent_program);
            command.args(["monitor", record.id.as_str()]);
            command
        };
        command.env_clear().current_dir("/").stdin(Stdio::from(OwnedFd::from(theirs)));
        let child = program::spawn(command.stdout(Stdio::null()).stderr(Stdio::null())).not_run("spawn the monitor")?;
        // It has the other end of the socket pair, which would not end with the monitor.
        drop(command);
        let mut monitor = Monitor { child, connection: Connection::new(ours) };
        let handed = monitor.connection.hand_over(&config, HAND_OVER);
        if handed.is_err() {
            let _ = monitor.child.wait();
        }
        handed.failed("hand the config to the monitor")?;
        Ok(monitor)
    }

    /// `/proc/self/exe` would be the monitor's own program in the monitor.
    fn launcher(&self) -> CallResult<Vec<String>> {
        let program = if self.options.launcher.program == Path::new("/proc/self/exe") {
            format!("/proc/{}/exe", std::process::id()).into()
        } else {
            self.options.launcher.program.clone()
        };
        let words = std::iter::once(OsString::from(program)).chain(self.options.launcher.arguments.iter().cloned());
        let words: Result<Vec<String>, OsString> = words.map(OsString::into_string).collect();
        words.map_err(|word| {
            CallError::NotRun(Error::internal(format!("launch program {} is not UTF-8", word.to_string_lossy())))
        })
    }
}

/// Makes a folder that everybody may enter; its parent is closed. Returns whether it was made now.
fn open_folder(path: &Path) -> io::Result<bool> {
    match fs::DirBuilder::new().mode(0o755).create(path) {
        Ok(()) => {
            // The file mode mask of the process does not decide this.
            fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Waits until a monitor says what is wanted, or its last word.
pub(super) fn await_state(
    connection: &mut Connection,
    wanted: &State,
    deadline: Instant,
    doing: &str,
) -> CallResult<State> {
    loop {
        match connection.next(deadline).failed(doing)? {
            Some(state) if state == *wanted => return Ok(state),
            Some(State::Failed { tombstone: true, message, .. }) => {
                return Err(CallError::NotRun(Error::refused("driver", message)));
            }
            Some(State::Failed { step, message, .. }) => {
                return Err(CallError::Failed(Error::internal(format!("{doing} failed at \"{step}\": {message}"))));
            }
            Some(state @ State::Exited { .. }) => return Ok(state),
            Some(_) => {}
            None => {
                return Err(CallError::Unknown(Error::internal(format!(
                    "{doing}: the sandbox's monitor ended without a word"
                ))));
            }
        }
    }
}
