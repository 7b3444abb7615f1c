//! The side that calls.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chiton_model::Error;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use crate::Peer;

/// `sun_path` has 108 bytes with its end mark (unix(7)).
const LONGEST_SOCKET_PATH: usize = 107;

/// Connects to a socket, however long its path is.
///
/// # Errors
/// What the system reports.
pub async fn connect_to(path: &Path) -> io::Result<UnixStream> {
    if path.as_os_str().as_bytes().len() <= LONGEST_SOCKET_PATH {
        return UnixStream::connect(path).await;
    }
    // A longer path is reached through a handle on the socket file, whose name under /proc is short.
    let handle =
        rustix::fs::open(path, rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty())?;
    UnixStream::connect(format!("/proc/self/fd/{}", handle.as_raw_fd())).await
}

/// The way to a process that an operator named by its socket.
#[derive(Clone, Debug)]
pub struct Dial {
    /// What is there, for messages: `driver "kyma"`.
    pub what: String,
    /// The socket.
    pub path: PathBuf,
    /// The users whose process may be there, and who may own the socket.
    pub peers: BTreeSet<u32>,
    /// How long a connection may take.
    pub limit: Duration,
}

impl Dial {
    /// Looks at the socket, connects, and looks at who answers.
    ///
    /// # Errors
    /// `unavailable` when nobody is there or in time, `refused` when somebody else may be. Each names the path.
    pub async fn connect(&self) -> Result<(UnixStream, Peer), Error> {
        self.look()?;
        let stream = match timeout(self.limit, connect_to(&self.path)).await {
            Ok(connected) => connected.map_err(|error| self.absent(&error))?,
            Err(_) => return Err(self.absent(&io::Error::new(io::ErrorKind::TimedOut, "it does not accept"))),
        };
        let found = stream.peer_cred().map_err(|error| self.absent(&error))?;
        let peer = Peer { uid: found.uid(), pid: found.pid() };
        if self.peers.contains(&peer.uid) {
            return Ok((stream, peer));
        }
        Err(self.refused(&format!("a process of uid {} answers there", peer.uid)))
    }

    /// A gRPC channel over one connection. It never dials again: whoever uses it connects anew and looks anew.
    ///
    /// # Errors
    /// As [`Dial::connect`], and `unavailable` when what answers speaks no HTTP/2.
    pub async fn channel(&self, endpoint: Endpoint) -> Result<(Channel, Peer), Error> {
        let (stream, peer) = self.connect().await?;
        let mut once = Some(TokioIo::new(stream));
        let connector = tower::service_fn(move |_| {
            let stream = once.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
            std::future::ready(stream)
        });
        match timeout(self.limit, endpoint.connect_with_connector(connector)).await {
            Ok(Ok(channel)) => Ok((channel, peer)),
            Ok(Err(error)) => Err(self.absent(&io::Error::other(format!("it speaks no HTTP/2: {error}")))),
            Err(_) => Err(self.absent(&io::Error::new(io::ErrorKind::TimedOut, "it does not greet"))),
        }
    }

    /// Whether a stranger could have put the socket there, or may come in where only we should.
    fn look(&self) -> Result<(), Error> {
        let found = fs::metadata(&self.path).map_err(|error| self.absent(&error))?;
        if !found.file_type().is_socket() {
            return Err(self.refused("it is no socket"));
        }
        if !self.peers.contains(&found.uid()) {
            return Err(self.refused(&format!("it belongs to uid {}", found.uid())));
        }
        // That others may connect, too, is no danger to who connects, and there is no other way to a socket of another user.
        // One of our own that is open to everybody, where nobody else was named, is a mistake: whoever else comes in there
        // has our sandboxes.
        let own = rustix::process::geteuid().as_raw();
        let alone = self.peers.iter().all(|uid| *uid == own || *uid == 0);
        if found.mode() & 0o002 != 0 && found.uid() == own && alone {
            let why = format!("it is our own, and everybody may write to it (mode {:04o})", found.mode() & 0o7777);
            return Err(self.refused(&why).cure("chmod 0600 it, or name who else is meant in peer_uids"));
        }
        self.look_around(&self.path)?;
        // Where the path is a link, what it leads to counts as well.
        let real = fs::canonicalize(&self.path).map_err(|error| self.absent(&error))?;
        if real == self.path { Ok(()) } else { self.look_around(&real) }
    }

    /// Whether somebody else could put another socket in its place.
    fn look_around(&self, path: &Path) -> Result<(), Error> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = fs::metadata(parent).map_err(|error| self.absent(&error))?;
        if folder.uid() != 0 && !self.peers.contains(&folder.uid()) {
            return Err(self.refused(&format!("its folder {parent:?} belongs to uid {}", folder.uid())));
        }
        // With the sticky bit only its owner replaces a file (inode(7)), and that one is trusted.
        let sticky = folder.mode() & 0o1000 != 0;
        let who = match folder.mode() & 0o022 {
            0 => return Ok(()),
            _ if sticky => return Ok(()),
            0o020 => "its group",
            _ => "everybody",
        };
        let mode = folder.mode() & 0o7777;
        let why = format!("{who} may write to its folder {parent:?} (mode {mode:04o})");
        Err(self.refused(&why).cure("chmod go-w the folder, or use one that only trusted users may write to"))
    }

    fn absent(&self, error: &io::Error) -> Error {
        let why = match error.kind() {
            io::ErrorKind::NotFound => "there is no such socket".to_owned(),
            io::ErrorKind::ConnectionRefused => "nobody listens there".to_owned(),
            io::ErrorKind::PermissionDenied => "this user may not connect to it".to_owned(),
            _ => error.to_string(),
        };
        Error::unavailable(&self.what, format!("{} at {:?} cannot be reached: {why}", self.what, self.path))
            .cure("start it, or correct its socket in the configuration")
    }

    fn refused(&self, why: &str) -> Error {
        let list: Vec<String> = self.peers.iter().map(ToString::to_string).collect();
        Error::refused("policy", format!("{} at {:?} is not trusted: {why}", self.what, self.path)).cure(format!(
            "trusted are processes and sockets of uid {}; if another one is right, name it in peer_uids",
            list.join(", ")
        ))
    }
}
