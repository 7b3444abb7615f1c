//! System calls that no safe wrapper offers. The only module of this crate with `unsafe`.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};
use rustix::pipe::{PipeFlags, pipe_with};

pub(crate) mod loops;

/// What to change on a mount: `struct mount_attr` of `mount_setattr(2)`.
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Attributes of a mount.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Attributes {
    /// No writes.
    pub(crate) read_only: bool,
    /// Device nodes may be opened.
    pub(crate) devices: bool,
    /// Also on mounts below.
    pub(crate) recursive: bool,
}

/// Sets attributes of a mount that `mount` stands for; always `nosuid`. With `users`, files show with the ids of that
/// user namespace.
pub(crate) fn set_attributes(
    mount: BorrowedFd<'_>,
    attributes: Attributes,
    users: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut attr = MountAttr { set: libc::MOUNT_ATTR_NOSUID, ..MountAttr::default() };
    if attributes.read_only {
        attr.set |= libc::MOUNT_ATTR_RDONLY;
    }
    if !attributes.devices {
        attr.set |= libc::MOUNT_ATTR_NODEV;
    }
    if let Some(users) = users {
        attr.set |= libc::MOUNT_ATTR_IDMAP;
        attr.userns_fd = u64::try_from(users.as_raw_fd()).map_err(io::Error::other)?;
    }
    let mut flags = libc::AT_EMPTY_PATH;
    if attributes.recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the descriptors are borrowed and open for the call; the path is a NUL-terminated empty string; `attr` is
    // a live `struct mount_attr` whose true size is passed. The kernel only reads them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(&attr),
            size_of::<MountAttr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes a user namespace that maps 0…`count` to `first`…, for an idmapped mount, and returns a descriptor of it.
///
/// The namespace needs a process while its map is written, hence the fork. To be called by a single-threaded process.
pub(crate) fn user_namespace(first: u32, count: u32) -> io::Result<OwnedFd> {
    let (ready, ready_writer) = pipe_with(PipeFlags::CLOEXEC)?;
    let (done, done_writer) = pipe_with(PipeFlags::CLOEXEC)?;
    // SAFETY: the process has one thread (this runs in the launch child only), so that the child may do anything; it
    // makes three system calls and ends without running destructors or exit handlers of the parent's copy.
    let child = match unsafe { fork() }? {
        ForkResult::Child => {
            drop(done_writer);
            let code = i32::from(nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER).is_err());
            let _ = rustix::io::write(&ready_writer, &[u8::try_from(code).unwrap_or(1)]);
            let _ = rustix::io::read(&done, &mut [0; 1]);
            // SAFETY: ends this process; nothing of it is used afterwards.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => child,
    };
    drop((ready_writer, done));
    let opened = (|| {
        let mut code = [1];
        if rustix::io::read(&ready, &mut code)? != 1 || code != [0] {
            return Err(io::Error::other("a user namespace could not be made"));
        }
        let map = format!("0 {first} {count}");
        std::fs::write(format!("/proc/{child}/uid_map"), &map)?;
        std::fs::write(format!("/proc/{child}/gid_map"), &map)?;
        File::open(format!("/proc/{child}/ns/user"))
    })();
    drop(done_writer);
    waitpid(child, None)?;
    opened.map(OwnedFd::from)
}

/// Brings the loopback interface of the current network namespace up; a new namespace has it down.
pub(crate) fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: `ifreq` is plain old data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *place = libc::c_char::from_ne_bytes([*byte]);
    }
    let flags = libc::IFF_UP | libc::IFF_RUNNING;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
    // SAFETY: SIOCSIFFLAGS reads a `struct ifreq` (netdevice(7)); `request` is one, with a terminated name and its
    // flags set, and lives through the call.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCSIFFLAGS, std::ptr::from_ref(&request)) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Forks this process into a cgroup of the unified hierarchy, as another child of its parent. `Some` is the new
/// process's id, for the old one; `None` is returned in the new one.
///
/// A process that is *born* in a cgroup costs nothing; one that *moves* there by `cgroup.procs` takes a lock that waits
/// for a grace period of the whole machine (some 10 ms when it is idle). To be called by a single-threaded process.
pub(crate) fn fork_into(cgroup: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    // SAFETY: `clone_args` is plain old data for which all zeroes is a valid value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = u64::try_from(libc::CLONE_PARENT).map_err(io::Error::other)? | CLONE_INTO_CGROUP;
    args.cgroup = u64::try_from(cgroup.as_raw_fd()).map_err(io::Error::other)?;
    // SAFETY: without CLONE_VM and without a stack this is a fork: the new process goes on with a copy of this
    // process's memory. This process has one thread, so no lock is held by a thread that the copy lacks. `args` is a
    // live `struct clone_args` (clone(2)) whose true size is passed, and the descriptor is open for the call.
    let result = unsafe { libc::syscall(libc::SYS_clone3, std::ptr::from_ref(&args), size_of::<libc::clone_args>()) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => i32::try_from(pid).map(Some).map_err(io::Error::other),
    }
}

/// Gives the programs that this process executes every signal's default answer. What is ignored stays so across an
/// execution: Rust's start-up code ignores broken pipes, and who started the gateway may have ignored anything.
pub(crate) fn default_signals() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL installs no handler, so that no code of ours can run in signal context. Numbers that cannot
        // be set (SIGKILL, SIGSTOP, the C library's own) are refused by it without effect.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Leaves the session keyring of the gateway: who possesses it could read its keys from inside a sandbox.
pub(crate) fn leave_session_keyring() -> io::Result<()> {
    // SAFETY: KEYCTL_JOIN_SESSION_KEYRING with a null name makes an anonymous keyring and reads no memory (keyctl(2)).
    let result = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, 0_usize) };
    match io::Error::last_os_error() {
        _ if result >= 0 => Ok(()),
        // A kernel without keys has none to leak.
        error if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        error => Err(error),
    }
}

/// From `linux/sched.h`; beyond the range of libc's `c_int` constants.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Lets the runtime wait for an inotify descriptor.
pub(crate) fn register(descriptor: OwnedFd) -> io::Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` always gives the same descriptor, which stays open until it is dropped, and the `AsyncFd`
    // owns it and deregisters it first.
    Ok(unsafe { tokio::io::unix::AsyncFd::register(descriptor) }?)
}
