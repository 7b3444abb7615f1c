//! The socket of one sandbox.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, renameat, unlinkat};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use tokio::net::UnixListener;

/// The socket's name in its folder.
pub(super) const NAME: &str = "agent.sock";
/// Where it is made. Renamed when it is ready, so that an agent never meets a socket it may not connect to, and a stale
/// one is replaced in one step.
const NEW: &str = ".agent.sock.new";
/// Connections the kernel holds for us. Agents dial again when it is full.
const BACKLOG: i32 = 16;

/// A bound socket; removed when dropped.
pub struct Socket {
    folder: OwnedFd,
    /// The device and inode of our socket: another gateway may have put its own in its place.
    identity: (u64, u64),
}

/// Binds `agent.sock` in a folder, in the place of whatever socket has that name, for every user who sees the folder. To be
/// called on a tokio runtime.
///
/// # Errors
/// What the system reports.
pub fn bind_in(folder: &Path) -> io::Result<(UnixListener, Socket)> {
    let folder = openat(CWD, folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match unlinkat(&folder, NEW, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    // Through the descriptor, because an address holds 107 bytes and folders have long names.
    let name = |name: &str| format!("/proc/self/fd/{}/{name}", folder.as_raw_fd());
    bind(&listener, &SocketAddrUnix::new(name(NEW))?)?;
    let ready = || -> io::Result<Socket> {
        // The sandbox's user is not ours; only it sees the folder.
        rustix::fs::chmodat(&folder, NEW, Mode::from_raw_mode(0o666), AtFlags::empty())?;
        listen(&listener, BACKLOG)?;
        let found = rustix::fs::statat(&folder, NEW, AtFlags::SYMLINK_NOFOLLOW)?;
        renameat(&folder, NEW, &folder, NAME)?;
        Ok(Socket { identity: (found.st_dev, found.st_ino), folder: folder.try_clone()? })
    };
    let socket = ready().inspect_err(|_| {
        // The first error is the one to tell.
        let _ = unlinkat(&folder, NEW, AtFlags::empty());
    })?;
    Ok((UnixListener::from_std(listener.into())?, socket))
}

impl Drop for Socket {
    fn drop(&mut self) {
        let found = rustix::fs::statat(&self.folder, NAME, AtFlags::SYMLINK_NOFOLLOW);
        if found.is_ok_and(|found| (found.st_dev, found.st_ino) == self.identity) {
            // The folder may be going at the same time.
            let _ = unlinkat(&self.folder, NAME, AtFlags::empty());
        }
    }
}
