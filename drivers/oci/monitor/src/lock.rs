//! The lock of a sandbox and its tombstone.
//!
//! Whoever makes a sandbox holds `<id>.lock` (flock) from before its first effect: the monitor takes it, and the launch
//! child and the container's init inherit it until they execute something else. So "the lock is free" means that no
//! create step can land any more, which is what makes an unknown create decidable. A delete takes the lock, writes the
//! tombstone and only then deletes; a create looks for the tombstone once it holds the lock.
//!
//! Neither file is fsynced: they guard against processes of this boot, and a power loss ends those too.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

/// A held lock; released when the last copy of the descriptor is closed.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// A lock that this process holds alone. A child that another thread is spawning has copies of all descriptors until it
/// executes its program; a lock that is only closed would stay taken for as long, and the next monitor would find it so.
#[derive(Debug)]
pub struct Guard(Lock);

impl Guard {
    /// Takes the lock if it is free; `None` when somebody holds it.
    pub fn try_take(path: &Path) -> io::Result<Option<Self>> {
        Ok(Lock::try_take(path)?.map(Self))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Unlocking counts for every copy of the descriptor (flock(2)), closing only for the last. It cannot fail on one
        // that holds the lock.
        let _ = flock(&self.0.file, FlockOperation::Unlock);
    }
}

/// The process that wrote itself into a lock file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Process id.
    pub pid: i32,
    /// When it began, in clock ticks since boot: with the pid, a name that is never used twice.
    pub started: u64,
}

impl Lock {
    /// Takes the lock if it is free; `None` when somebody holds it.
    pub fn try_take(path: &Path) -> io::Result<Option<Self>> {
        loop {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            // The file may have been removed as an old one between open and flock; the lock of a file that nobody can
            // find any more excludes nobody.
            match std::fs::metadata(path) {
                Ok(now) if now.ino() == file.metadata()?.ino() => return Ok(Some(Self { file })),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes this process into the file, so that others can end it.
    pub fn sign(&mut self) -> io::Result<()> {
        // As others know this process, which may be in a pid namespace of its own.
        let pid = crate::user::own_pid()?;
        let started = started(pid)?.ok_or_else(|| io::Error::other("own process not found in /proc"))?;
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(format!("{pid} {started}\n").as_bytes())
    }

    /// Lets programs that this process spawns inherit the lock, or no longer.
    pub fn inherit(&self, inherit: bool) -> io::Result<()> {
        let flags = if inherit { rustix::io::FdFlags::empty() } else { rustix::io::FdFlags::CLOEXEC };
        Ok(rustix::io::fcntl_setfd(&self.file, flags)?)
    }
}

/// Who signed the lock file last, if that process still lives. One that ended and waits to be reaped does not; one that
/// ends and still has to end others, as the first process of a pid namespace does, lives.
pub fn holder(path: &Path) -> io::Result<Option<Holder>> {
    let mut text = String::new();
    match File::open(path) {
        Ok(mut file) => file.read_to_string(&mut text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut words = text.split_ascii_whitespace();
    let parsed = (words.next().and_then(|word| word.parse().ok()), words.next().and_then(|word| word.parse().ok()));
    let (Some(pid), Some(since)) = parsed else { return Ok(None) };
    Ok((started(pid)? == Some(since)).then_some(Holder { pid, started: since }))
}

/// When a process began, in clock ticks since boot (field 22 of `/proc/<pid>/stat`, proc(5)); `None` when it has ended. One
/// that nobody has waited for yet has ended, too: what inherits orphans may take seconds to do so.
fn started(pid: i32) -> io::Result<Option<u64>> {
    Ok(stat(pid)?.filter(|(state, _)| !matches!(state, b'Z' | b'X')).map(|(_, started)| started))
}

/// State and begin of a process.
fn stat(pid: i32) -> io::Result<Option<(u8, u64)>> {
    let stat = match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    // The name in parentheses may hold anything, also spaces and parentheses.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut words = after_name.split_ascii_whitespace();
    let state = words.next().and_then(|word| word.bytes().next());
    let ticks = words.nth(18).and_then(|word| word.parse().ok());
    let known = state.zip(ticks);
    known.map(Some).ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat has an unknown form")))
}

#[cfg(test)]
mod tests {
    use super::{Guard, Lock, started};

    #[test]
    fn a_process_that_ended_and_was_not_waited_for_has_ended() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().expect("a process");
        let pid = i32::try_from(child.id()).expect("a process id");
        assert!(started(pid).expect("a look").is_some());
        child.kill().expect("a signal");
        let id = rustix::process::WaitId::Pid(rustix::process::Pid::from_child(&child));
        let options = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        rustix::process::waitid(id, options).expect("a wait").expect("a status");
        assert_eq!(started(pid).expect("a look"), None);
        child.wait().expect("a status");
    }

    #[test]
    fn a_guard_that_ends_frees_the_lock_although_a_child_that_is_being_spawned_has_a_copy() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sandbox.lock");
        let guard = Guard::try_take(&path).expect("a file").expect("nobody holds it");
        let copy = guard.0.file.try_clone().expect("a copy, as fork(2) makes one");
        assert!(Guard::try_take(&path).expect("a file").is_none(), "it is held");
        drop(guard);
        assert!(Guard::try_take(&path).expect("a file").is_some(), "the copy does not hold it");
        drop(copy);
    }

    #[test]
    fn a_monitors_lock_is_held_by_every_copy_of_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sandbox.lock");
        let lock = Lock::try_take(&path).expect("a file").expect("nobody holds it");
        let copy = lock.file.try_clone().expect("a copy, as a launch child has one");
        drop(lock);
        assert!(Lock::try_take(&path).expect("a file").is_none(), "the copy holds it");
        drop(copy);
        // A neighbouring test's child has a copy of everything from its fork until its exec, moments later.
        let began = std::time::Instant::now();
        while Lock::try_take(&path).expect("a file").is_none() {
            assert!(began.elapsed() < std::time::Duration::from_secs(10), "nobody holds it");
            std::thread::yield_now();
        }
    }
}
