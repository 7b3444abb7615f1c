//! Small files that must be whole or absent, and sockets whose path may be longer than the kernel takes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// The marker that the container was created.
pub const CREATED: &str = "created";
/// The marker that its main process was executed.
pub const RUNNING: &str = "running";
/// What the launch child said of the container that it made.
pub const LAUNCHED: &str = "launched.json";
/// The monitor's socket in its folder.
pub const SOCKET: &str = "monitor.sock";

/// Replaces a file by a whole new one with mode 0600. With `durable` its content is on disk before it gets its name, so
/// that a power loss leaves the old file or the new one and nothing between.
pub fn replace(dir: &Path, name: &str, bytes: &[u8], durable: bool) -> io::Result<()> {
    let temporary = dir.join(format!(".{name}.new"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    if durable {
        file.sync_all()?;
    }
    fs::rename(&temporary, dir.join(name))
}

/// Makes an empty file. Its existence is the message, so that it cannot be read half-written.
pub fn mark(dir: &Path, name: &str) -> io::Result<()> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(dir.join(name)).map(drop)
}

/// Removes a file that may be absent.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A way to name `dir/name` in at most 107 bytes, which is all that a socket address holds. Valid while `dir` is open.
fn short(dir: &File, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))
}

/// Listens on `dir/name`, taking the place of what was there.
pub fn listen(dir: &Path, name: &str) -> io::Result<UnixListener> {
    remove(&dir.join(name))?;
    let opened = File::open(dir)?;
    UnixListener::bind(short(&opened, name))
}

/// Connects to `dir/name`.
pub fn connect(dir: &Path, name: &str) -> io::Result<UnixStream> {
    let opened = File::open(dir)?;
    UnixStream::connect(short(&opened, name))
}
