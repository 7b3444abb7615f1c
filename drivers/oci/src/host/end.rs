//! Ending and removing: what works in any state, also on what a killed process left half-made.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use chiton_driver::{CallError, CallResult};
use chiton_model::{Error, SandboxId};
use chiton_oci_monitor::cgroup::{self, Hierarchy};
use chiton_oci_monitor::exit::{Cause, ExitRecord};
use chiton_oci_monitor::files;
use chiton_oci_monitor::lock::{self, Guard};
use chiton_oci_monitor::wire::Request;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{Doing, Host};
use crate::connection::Connection;
use crate::record::{Paths, Record};

/// How long a monitor that was asked to kill everything may take before it is killed itself.
const PATIENCE: Duration = Duration::from_secs(10);

impl Host {
    /// Removes the sandbox for ever.
    pub(crate) fn delete(&self, id: &SandboxId) -> CallResult<()> {
        let deadline = Instant::now() + super::ACT;
        self.ready()?;
        let paths = Paths::new(&self.options, id);
        let busy = self.busy(id);
        let _busy = busy.lock();
        let _lock = self.seize(id, &paths, deadline)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        fs::write(&paths.tombstone, format!("{now}\n")).failed("write the tombstone")?;
        self.remove(id, &paths)?;
        if let Err(error) = self.forget_tombstones() {
            tracing::warn!(%error, "old tombstones were not removed");
        }
        Ok(())
    }

    /// Removes what an interrupted create left, so that it can begin anew.
    pub(super) fn clear(&self, id: &SandboxId, deadline: Instant) -> CallResult<()> {
        let paths = Paths::new(&self.options, id);
        let _lock = self.seize(id, &paths, deadline)?;
        self.remove(id, &paths)
    }

    /// Makes sure that nothing of the sandbox runs. An end that nobody saw is recorded as such.
    pub(crate) fn end(&self, id: &SandboxId, deadline: Instant) -> CallResult<()> {
        self.ready()?;
        let paths = Paths::new(&self.options, id);
        let Some(record) = Record::load(&paths.dir).not_run("read the sandbox's record")? else { return Ok(()) };
        let _lock = self.seize(id, &paths, deadline)?;
        if ExitRecord::load(&paths.dir).failed("read the exit record")?.is_none() {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis());
            let (cause, lost) = if record.is_of_this_boot() {
                (Cause::MonitorLost, "its monitor did not live to see the end")
            } else {
                (Cause::HostRestarted, "the machine was restarted while it ran")
            };
            let exit = ExitRecord {
                at_ms: u64::try_from(now).unwrap_or(u64::MAX),
                attempt: record.attempt,
                lost: Some(lost.to_owned()),
                cause: Some(cause),
                ..ExitRecord::default()
            };
            exit.store(&paths.dir, true).failed("write the exit record")?;
        }
        Ok(())
    }

    /// Ends an orphan: a sandbox whose monitor is gone without an exit record. Does nothing while a monitor lives.
    pub(crate) fn bury(&self, id: &SandboxId) -> CallResult<()> {
        let paths = Paths::new(&self.options, id);
        let busy = self.busy(id);
        let _busy = busy.lock();
        let recorded = ExitRecord::load(&paths.dir).failed("read the exit record")?.is_some();
        let made = [files::CREATED, files::RUNNING].iter().any(|mark| paths.dir.join(mark).exists());
        // Last: the monitor of a new start signs the lock before it removes the record of the start before it.
        let lives = lock::holder(&paths.lock).failed("read the lock")?.is_some();
        // What was never made stays half-made, for the engine to undo.
        if lives || recorded || !made { Ok(()) } else { self.end(id, Instant::now() + super::ACT) }
    }

    /// Waits for the end of a monitor that hung up. One of an ordinary user ends its sandbox by ending, so that the
    /// connection is gone a moment before it is.
    pub(crate) fn await_end(&self, id: &SandboxId) -> CallResult<()> {
        let paths = Paths::new(&self.options, id);
        let Some(holder) = lock::holder(&paths.lock).failed("read the lock")? else { return Ok(()) };
        let Some(Ok(descriptor)) = Pid::from_raw(holder.pid).map(|pid| pidfd_open(pid, PidfdFlags::empty())) else {
            return Ok(());
        };
        if lock::holder(&paths.lock).failed("read the lock")? == Some(holder) {
            gone(&descriptor, Instant::now() + PATIENCE).failed("wait for the end of the monitor")?;
        }
        Ok(())
    }

    /// Ends who holds the sandbox's lock and everything in its cgroups, and takes the lock.
    fn seize(&self, id: &SandboxId, paths: &Paths, deadline: Instant) -> CallResult<Guard> {
        let mut cgroups = self.cgroups(id)?;
        if let Some(record) = Record::load(&paths.dir).failed("read the sandbox's record")? {
            let known: Vec<Hierarchy> = cgroups.clone();
            cgroups.extend(record.cgroups.into_iter().filter(|cgroup| !known.contains(cgroup)));
        }
        let mut pause = Duration::from_micros(100);
        loop {
            Self::end_monitor(paths, deadline)?;
            let left = deadline.saturating_duration_since(Instant::now());
            cgroup::destroy(&cgroups, left).failed("end the sandbox's processes")?;
            if let Some(lock) = Guard::try_take(&paths.lock).failed("take the sandbox's lock")? {
                // Somebody may have entered between the two steps above; now nobody can any more.
                cgroup::destroy(&cgroups, left).failed("remove the sandbox's cgroups")?;
                return Ok(lock);
            }
            if Instant::now() >= deadline {
                return Err(CallError::Unknown(Error::deadline(format!(
                    "sandbox {id}: a process that makes it does not end"
                ))));
            }
            // The holder is ending; there is no event for a lock that becomes free.
            #[expect(clippy::disallowed_methods, reason = "the kernel tells of this by no event")]
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// Asks the monitor to kill everything and end; kills it when it does not.
    fn end_monitor(paths: &Paths, deadline: Instant) -> CallResult<()> {
        let patience = deadline.min(Instant::now() + PATIENCE);
        if let Some(mut connection) = Connection::open(&paths.run).failed("connect to the monitor")? {
            let asked = connection.ask(&Request::Kill);
            while asked.is_ok() && matches!(connection.next(patience), Ok(Some(_))) {}
        }
        let Some(holder) = lock::holder(&paths.lock).failed("read the lock")? else { return Ok(()) };
        let Some(pid) = Pid::from_raw(holder.pid) else { return Ok(()) };
        let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(()) };
        // The descriptor names one process for ever; that it is the right one is checked after it was opened.
        if lock::holder(&paths.lock).failed("read the lock")? == Some(holder) {
            let _ = pidfd_send_signal(&descriptor, Signal::KILL);
            // Its lock is free before it is gone; an ordinary user's takes the sandbox with it, and is gone last.
            gone(&descriptor, deadline).failed("wait for the end of the monitor")?;
        }
        Ok(())
    }

    /// Removes a sandbox's files. Under its lock.
    fn remove(&self, id: &SandboxId, paths: &Paths) -> CallResult<()> {
        let ready = self.ready()?;
        let record = Record::load(&paths.dir).ok().flatten();
        let range = record.as_ref().map(|record| record.first_id);
        // While there is a record to say what it had.
        self.network.release(id, record.and_then(|record| record.network).as_ref())?;
        if let Some(user) = &ready.user
            && paths.dir.exists()
        {
            user.remove(&[&paths.upper, &paths.work], super::ACT).failed("remove the sandbox's files")?;
        }
        remove_folder(&paths.run).failed("remove the monitor's folder")?;
        remove_folder(&paths.agent).failed("remove the agent's folder")?;
        remove_folder(&paths.dir).failed("remove the sandbox's folder")?;
        if let Some(first) = range {
            self.free_range(first);
        }
        Ok(())
    }
}

/// Waits until a process has ended.
fn gone(descriptor: &OwnedFd, deadline: Instant) -> io::Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout =
            Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(descriptor, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::TimedOut)),
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Removes a folder and all in it without following links; absent is fine.
fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
