//! The user namespace of an ordinary user's driver: made once, with all ids that the user has.
//!
//! Inside it the user's monitors and launch children are root over the user's own things. Sandboxes get user namespaces
//! of their own below it, so that a sandbox has no power here. It lives as long as this process holds it or a process
//! is in it; the next gateway makes another one, with the same map.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use chiton_oci_monitor::user::{ENTER, HOLD, REMOVE};

use crate::means::{Ids, Means};
use crate::program;

/// How long making the namespace may take.
const MAKE: Duration = Duration::from_secs(10);

/// A user namespace that this process holds.
#[derive(Debug)]
pub(crate) struct UserSpace {
    namespace: OwnedFd,
    agent: PathBuf,
}

/// Ends the process that lent the namespace, however this goes.
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl UserSpace {
    /// Makes the namespace. Where the granted ids cannot be mapped the user's own remains, and `means` says why.
    pub(crate) fn make(agent: &Path, means: &mut Means) -> io::Result<Self> {
        if let Ids::Ranges(_) = &means.ids {
            match Self::attempt(agent, means) {
                Ok(made) => return Ok(made),
                Err(error) => {
                    tracing::warn!(%error, "the granted ids cannot be mapped; sandboxes have the gateway's own id alone");
                    let cure = "see what newuidmap and newgidmap need (newuidmap(1)): they must be installed with \
                                their privileges, and nosuid and no_new_privs take these away";
                    means.ids = Ids::One { why: error.to_string(), cure: cure.to_owned() };
                }
            }
        }
        Self::attempt(agent, means)
    }

    fn attempt(agent: &Path, means: &Means) -> io::Result<Self> {
        let mut command = Command::new(agent);
        command.args(["monitor", HOLD]).env_clear().current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut holder = program::spawn(&mut command).map(Holder)?;
        let pid = holder.0.id();
        let Some(stdout) = holder.0.stdout.take() else { return Err(io::Error::other("no standard output")) };
        let said = within(move || {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).map(|_| line)
        })??;
        if said != "made\n" {
            let mut why = String::new();
            if let Some(stderr) = holder.0.stderr.take() {
                let _ = BufReader::new(stderr).read_line(&mut why);
            }
            return Err(io::Error::other(format!("a user namespace cannot be made: {}", why.trim())));
        }
        map(pid, means)?;
        let namespace = File::open(format!("/proc/{pid}/ns/user"))?.into();
        Ok(Self { namespace, agent: agent.to_owned() })
    }

    /// Where other processes of this user find it while this process lives.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd())
    }

    /// A command that spawns the monitor of a sandbox in the namespace, with the program of its launch child, and ends.
    pub(crate) fn monitor(&self, launcher: &str, id: &str) -> Command {
        let mut command = Command::new(&self.agent);
        command.args(["monitor", ENTER, &self.path(), launcher, id]);
        command
    }

    /// Removes folders whose files may belong to any of the user's ids.
    pub(crate) fn remove(&self, folders: &[&Path], patience: Duration) -> io::Result<()> {
        let mut command = Command::new(&self.agent);
        command.args(["monitor", REMOVE, &self.path()]).args(folders).env_clear().current_dir("/");
        let ended = program::run(command.stdin(Stdio::null()), patience)?;
        if ended.status.success() {
            return Ok(());
        }
        Err(io::Error::other(ended.complaint()))
    }
}

/// Writes the map of a process's user namespace: 0 is the user, 1 and up are the granted ids.
fn map(pid: u32, means: &Means) -> io::Result<()> {
    let (uid, gid) = (means.uid, rustix::process::getegid().as_raw());
    let ranges = match &means.ids {
        Ids::Ranges(ranges) => ranges,
        Ids::One { .. } | Ids::Any => {
            // Without it the group map may not be written (user_namespaces(7)).
            fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
            fs::write(format!("/proc/{pid}/uid_map"), format!("0 {uid} 1"))?;
            return fs::write(format!("/proc/{pid}/gid_map"), format!("0 {gid} 1"));
        }
    };
    for (mapper, own, granted) in [(&ranges.newuidmap, uid, &ranges.uids), (&ranges.newgidmap, gid, &ranges.gids)] {
        let mut command = Command::new(mapper);
        command.args([pid, 0, own, 1].map(|number| number.to_string()));
        let mut next = 1;
        for range in granted {
            command.args([next, range.first, range.count].map(|number| number.to_string()));
            next += range.count;
        }
        command.env_clear().env("LC_ALL", "C").current_dir("/");
        let ended = program::run(command.stdin(Stdio::null()), MAKE)?;
        if !ended.status.success() {
            return Err(io::Error::other(format!("{}: {}", mapper.display(), ended.complaint())));
        }
    }
    Ok(())
}

/// Runs blocking work with a deadline; what it waits for is ended by the caller.
fn within<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || drop(sender.send(work())));
    receiver.recv_timeout(MAKE).map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "a user namespace was not made"))
}
