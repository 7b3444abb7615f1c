//! A monitor of an ordinary user: it is the first process of a pid namespace of its own.
//!
//! Without root there may be no cgroup by which a sandbox's processes are found again, so the kernel is made to do it:
//! when the first process of a pid namespace ends, in whatever way, the kernel kills all others in it and in the
//! namespaces below, and the first one is not gone before they are. Making a pid namespace needs a user namespace. The
//! driver makes one, once, with all ids that the user has; it is held open by the gateway and by who is in it, and
//! inside of it the user's processes may do what root does elsewhere, with the user's own things only.
//!
//! Three small modes of this program belong to that: [`hold`], [`enter`] and [`remove`].

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use nix::sched::{CloneFlags, setns, unshare};
use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open};

use crate::wire::{self, State};

/// The word for [`hold`].
pub const HOLD: &str = "hold";
/// The word for [`enter`].
pub const ENTER: &str = "enter";
/// The word for [`remove`].
pub const REMOVE: &str = "remove";

/// Makes a user namespace, says so by one line, and stays until standard input ends, so that the driver can write its
/// map and open it.
pub(crate) fn hold() -> ExitCode {
    let held = unshare(CloneFlags::CLONE_NEWUSER).map_err(io::Error::from).and_then(|()| {
        io::stdout().write_all(b"made\n")?;
        io::stdin().read_to_end(&mut Vec::new())
    });
    ended("make a user namespace", held.map(drop))
}

/// Spawns the monitor as the first process of a pid namespace in the user namespace at `namespace`, with standard input
/// as its own, and ends: nothing needs this process then. `launcher` is opened for it, as its standard output: inside
/// the namespace nobody may look at the gateway, not even by `/proc/<pid>/exe`.
pub(crate) fn enter(namespace: &Path, launcher: &Path, id: &OsString) -> ExitCode {
    let spawned = File::open(launcher).map_err(|error| named(launcher, &error)).and_then(|program| {
        inside(namespace)?;
        unshare(CloneFlags::CLONE_NEWPID)?;
        Command::new("/proc/self/exe")
            .args(["monitor".as_ref(), id.as_os_str()])
            .env_clear()
            .stdin(Stdio::inherit())
            .stdout(Stdio::from(program))
            .stderr(Stdio::null())
            .spawn()
    });
    match spawned {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            let step = "enter the user namespace".to_owned();
            let failed = State::Failed { step, message: error.to_string(), tombstone: false };
            if let Ok(mut control) = crate::run::take_stdin() {
                let _ = wire::send(&mut control, &failed);
            }
            ExitCode::FAILURE
        }
    }
}

/// Removes folders and all in them, without following links, as the user namespace's root: what a sandbox left may
/// belong to other ids than the user's, and may be closed to its owner.
pub(crate) fn remove(namespace: &Path, folders: &[OsString]) -> ExitCode {
    let removed = inside(namespace).and_then(|()| {
        folders.iter().try_for_each(|folder| match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(named(folder.as_ref(), &error)),
            _ => Ok(()),
        })
    });
    ended("remove files", removed)
}

/// Joins a user namespace; this process has one thread, as that demands.
fn inside(namespace: &Path) -> io::Result<()> {
    let opened = File::open(namespace).map_err(|error| named(namespace, &error))?;
    Ok(setns(opened.as_fd(), CloneFlags::CLONE_NEWUSER)?)
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Takes the launch program off standard output, where [`enter`] put it.
pub(crate) fn take_launcher() -> io::Result<OwnedFd> {
    let program = rustix::stdio::stdout().try_clone_to_owned()?;
    let null = File::options().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(program)
}

fn ended(what: &str, result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{what}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether this process is the first of a pid namespace below that of `/proc`, and so may end everybody that it can
/// name.
pub(crate) fn is_first() -> bool {
    getpid().as_raw_nonzero().get() == 1 && own_pid().is_ok_and(|pid| pid != 1)
}

/// Kills everybody in this process's pid namespace but itself.
pub(crate) fn kill_others() {
    if is_first() {
        // -1 names everybody whom this process may signal (kill(2)); in a namespace of its own that is the sandbox.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(-1), nix::sys::signal::Signal::SIGKILL);
    }
}

/// This process's id as `/proc` and everybody outside knows it.
pub(crate) fn own_pid() -> io::Result<i32> {
    let link = fs::read_link("/proc/self")?;
    let pid = link.to_str().and_then(|text| text.parse().ok());
    pid.ok_or_else(|| io::Error::other(format!("/proc/self leads to {}", link.display())))
}

/// The id by which `/proc` knows a process that this one knows as `pid`: a descriptor of it says so (`proc_pid_fdinfo(5)`).
pub(crate) fn outer_pid(pid: i32) -> io::Result<i32> {
    let gone = || io::Error::from(io::ErrorKind::NotFound);
    let descriptor = pidfd_open(Pid::from_raw(pid).ok_or_else(gone)?, PidfdFlags::empty())?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", descriptor.as_raw_fd()))?;
    let outer = info.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse::<i32>().ok());
    outer.filter(|pid| *pid > 0).ok_or_else(gone)
}
