//! New namespaces, and the namespaces of others.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

use crate::raw::Argument::{Null, Number};
use crate::raw::{call, clone};
use crate::{Attack, Tried, argument, failed};

pub(crate) const ATTACKS: &[(&str, Attack)] =
    &[("unshare", unshare), ("clone", cloned), ("clone3", cloned3), ("setns", setns), ("setns-pidfd", setns_pidfd)];

/// `CLONE_NEWTIME` of linux/sched.h, which shares its bit with an exit signal and works by `unshare` and `clone3` alone.
const CLONE_NEWTIME: i64 = 0x80;

fn flag(arguments: &[String]) -> io::Result<i64> {
    Ok(match argument(arguments, 0, "a namespace")? {
        "user" => libc::CLONE_NEWUSER.into(),
        "mnt" => libc::CLONE_NEWNS.into(),
        "pid" => libc::CLONE_NEWPID.into(),
        "net" => libc::CLONE_NEWNET.into(),
        "uts" => libc::CLONE_NEWUTS.into(),
        "ipc" => libc::CLONE_NEWIPC.into(),
        "cgroup" => libc::CLONE_NEWCGROUP.into(),
        "time" => CLONE_NEWTIME,
        other => return Err(failed(format!("no namespace {other}"))),
    })
}

fn unshare(arguments: &[String]) -> Tried {
    call(libc::SYS_unshare, [Number(flag(arguments)?)])?;
    Ok("a namespace".to_owned())
}

fn cloned(arguments: &[String]) -> Tried {
    clone(flag(arguments)?, false).map(|pid| format!("process {pid}"))
}

fn cloned3(arguments: &[String]) -> Tried {
    clone(flag(arguments)?, true).map(|pid| format!("process {pid}"))
}

/// KIND[,PID]: into a namespace of a process.
fn setns(arguments: &[String]) -> Tried {
    let kind = argument(arguments, 0, "a namespace")?;
    let pid = arguments.get(1).map_or("1", String::as_str);
    let namespace = File::open(format!("/proc/{pid}/ns/{kind}"))?;
    call(libc::SYS_setns, [Number(namespace.as_raw_fd().into()), Number(0)])?;
    Ok(format!("in {kind} of {pid}"))
}

/// [PID]: into all namespaces of a process at once.
fn setns_pidfd(arguments: &[String]) -> Tried {
    let pid = arguments.first().map_or(Ok(1), |pid| pid.parse().map_err(io::Error::other))?;
    let descriptor = call(libc::SYS_pidfd_open, [Number(pid), Number(0)])?;
    let flags = libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    call(libc::SYS_setns, [Number(descriptor), Number(flags.into()), Null])?;
    Ok("in all".to_owned())
}
