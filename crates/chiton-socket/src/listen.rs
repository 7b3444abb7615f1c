//! The side that waits.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use chiton_model::Error;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::Stream;
use tonic::transport::server::Connected;

use crate::Peer;

/// Who may come in, and how strictly the place is kept.
#[derive(Clone, Debug)]
pub struct Access {
    /// Who listens, for messages: `gateway`, `driver`.
    pub who: &'static str,
    /// What to do about a place that cannot be used.
    pub cure: &'static str,
    /// The users who may connect.
    pub allowed: Arc<BTreeSet<u32>>,
    /// Whether the folder has to be ours alone: owned by this user and writable by nobody else. One that is made is 0700;
    /// 0711 when other users are allowed, who have to pass it, as they have to pass every folder above.
    pub private: bool,
}

/// A socket that lets only some users in. Removes its file when dropped, unless systemd owns it.
#[derive(Debug)]
pub struct PeerListener {
    listener: UnixListener,
    /// Of a file that is ours to remove: where it is, and its device and inode.
    file: Option<(PathBuf, (u64, u64))>,
    allowed: Arc<BTreeSet<u32>>,
}

impl PeerListener {
    /// Binds a socket. A stale socket of somebody who is gone is replaced; one that answers, or a file that is no socket,
    /// is not. To be called on a tokio runtime.
    ///
    /// # Errors
    /// `unavailable` with the path, the reason and [`Access::cure`].
    pub fn bind(path: &Path, access: &Access) -> Result<Self, Error> {
        let refuse =
            |why: String| Error::unavailable(access.who, format!("cannot listen on {path:?}: {why}")).cure(access.cure);
        let own = rustix::process::geteuid().as_raw();
        let others: BTreeSet<u32> = access.allowed.iter().copied().filter(|uid| *uid != own && *uid != 0).collect();
        if let Some(parent) = path.parent() {
            folder(parent, access.private, &others).map_err(refuse)?;
        }
        if taken(path) {
            return Err(refuse(format!("another {} answers there", access.who)));
        }
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(refuse("a file that is no socket is there".to_owned()));
            }
            Ok(_) => fs::remove_file(path).map_err(|error| refuse(error.to_string()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(refuse(error.to_string())),
        }
        let listener = UnixListener::bind(path).map_err(|error| refuse(error.to_string()))?;
        // Who may call is decided by uid at accept; the file's mode only has to let the allowed ones connect.
        let mode = if others.is_empty() { 0o600 } else { 0o666 };
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(|error| refuse(error.to_string()))?;
        let found = fs::symlink_metadata(path).map_err(|error| refuse(error.to_string()))?;
        let file = Some((path.to_owned(), (found.dev(), found.ino())));
        Ok(Self { listener, file, allowed: Arc::clone(&access.allowed) })
    }

    /// The first socket that systemd handed to this process (`sd_listen_fds(3)`), if it handed one. Its mode is the
    /// unit's; who may call is decided here as ever. To be called on a tokio runtime, once.
    ///
    /// # Errors
    /// `invalid` when what was handed over is no Unix socket that listens.
    pub fn from_systemd(access: &Access) -> Result<Option<Self>, Error> {
        let refuse = |error: io::Error| {
            Error::invalid("LISTEN_FDS", format!("what systemd handed over cannot be listened on: {error}"))
                .cure("use ListenStream=/absolute/path in the socket unit")
        };
        let Some(listener) = listenfd::ListenFd::from_env().take_unix_listener(0).map_err(refuse)? else {
            return Ok(None);
        };
        listener.set_nonblocking(true).map_err(refuse)?;
        let listener = UnixListener::from_std(listener).map_err(refuse)?;
        Ok(Some(Self { listener, file: None, allowed: Arc::clone(&access.allowed) }))
    }

    /// The next connection of somebody who is allowed. Others are turned away with a line in the log.
    pub async fn accept(&self) -> PeerStream {
        loop {
            match self.next().await {
                Ok(Some(accepted)) => return accepted,
                Ok(None) => {}
                Err(error) => {
                    // Out of descriptors, as a rule: give others time to close theirs.
                    tracing::error!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// All connections, one after another, as a gRPC server wants them. The socket goes with the stream: when a server
    /// has ended, another may listen in its place.
    pub fn incoming(self) -> impl Stream<Item = io::Result<PeerStream>> {
        Incoming(Box::pin(one_more(self)))
    }

    async fn next(&self) -> io::Result<Option<PeerStream>> {
        let (stream, _) = self.listener.accept().await?;
        let found = stream.peer_cred()?;
        let peer = Peer { uid: found.uid(), pid: found.pid() };
        if self.allowed.contains(&peer.uid) {
            return Ok(Some(PeerStream { stream, peer }));
        }
        let path = self.file.as_ref().map(|(path, _)| path.display().to_string());
        tracing::warn!(uid = peer.uid, socket = path, "a user who is not allowed tried to connect");
        Ok(None)
    }
}

/// Connections of a listener, which waits for the next one.
struct Incoming(Pin<Box<dyn Future<Output = (PeerListener, PeerStream)> + Send>>);

async fn one_more(listener: PeerListener) -> (PeerListener, PeerStream) {
    let accepted = listener.accept().await;
    (listener, accepted)
}

impl Stream for Incoming {
    type Item = io::Result<PeerStream>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let (listener, accepted) = ready!(self.0.as_mut().poll(cx));
        self.0 = Box::pin(one_more(listener));
        Poll::Ready(Some(Ok(accepted)))
    }
}

impl Drop for PeerListener {
    fn drop(&mut self) {
        let Some((path, identity)) = &self.file else { return };
        // Another may have put its own in our place.
        if fs::symlink_metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == *identity) {
            drop(fs::remove_file(path));
        }
    }
}

/// How long the last children of a listener that died may have its socket open: those that it was just starting hold
/// what it had until they execute their own program.
const DYING: Duration = Duration::from_secs(5);

/// Whether somebody listens there; also one who is stopped, whose queue may be full: the probe does not wait for it.
fn taken(path: &Path) -> bool {
    let end = Instant::now() + DYING;
    loop {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // A path that is no address is told by whoever binds it.
        let Ok(address) = SocketAddrUnix::new(path) else { return false };
        let Ok(probe) = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None) else { return false };
        match rustix::net::connect(&probe, &address) {
            Ok(()) => {}
            Err(error) => return error == Errno::AGAIN,
        }
        let left = end.saturating_duration_since(Instant::now());
        let Ok(left) = Timespec::try_from(left) else { return true };
        if !listener_died(&probe) || left == Timespec::default() {
            return true;
        }
        // The connection breaks when the last one closes the socket.
        if !matches!(poll(&mut [PollFd::new(&probe, PollFlags::IN)], Some(&left)), Ok(1..)) {
            return true;
        }
    }
}

/// Whether the process that began to listen is gone, though somebody has the socket open.
fn listener_died(probe: &OwnedFd) -> bool {
    let Ok(who) = socket_peercred(probe) else { return false };
    // "PID (name) S …", where the name may hold anything.
    match fs::read_to_string(format!("/proc/{}/stat", who.pid.as_raw_nonzero())) {
        Ok(stat) => stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with(['Z', 'X'])),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Makes the folder, or looks at the one that is there. `others` are the users who have to pass it.
fn folder(path: &Path, private: bool, others: &BTreeSet<u32>) -> Result<(), String> {
    if path.as_os_str().is_empty() {
        return Ok(());
    }
    let missing: Vec<&Path> = path.ancestors().take_while(|folder| !folder.exists()).collect();
    let mut make = fs::DirBuilder::new();
    make.recursive(true);
    if private {
        make.mode(0o700);
    }
    make.create(path).map_err(|error| error.to_string())?;
    if !private {
        return Ok(());
    }
    if !others.is_empty() {
        // Whatever the umask: to be passed, and not to be listed.
        for made in missing {
            fs::set_permissions(made, fs::Permissions::from_mode(0o711)).map_err(|error| error.to_string())?;
        }
    }
    let found = fs::metadata(path).map_err(|error| error.to_string())?;
    let own = rustix::process::geteuid().as_raw();
    if found.uid() != own {
        return Err(format!("its folder belongs to uid {}, not to uid {own}", found.uid()));
    }
    if found.mode() & 0o022 != 0 {
        return Err(format!("others may write to its folder (mode {:04o}); chmod 0700 it", found.mode() & 0o7777));
    }
    let whole = fs::canonicalize(path).map_err(|error| error.to_string())?;
    for folder in whole.ancestors() {
        let found = fs::metadata(folder).map_err(|error| error.to_string())?;
        if let Some(uid) = others.iter().find(|uid| !may_pass(&found, **uid)) {
            return Err(format!(
                "uid {uid} is to be let in and cannot pass the folder {folder:?} (mode {:04o}); chmod o+x it, or choose \
                 another",
                found.mode() & 0o7777
            ));
        }
    }
    Ok(())
}

/// Whether a user may go through a folder. Who is in its group is not known here, so a group that may counts.
fn may_pass(folder: &fs::Metadata, uid: u32) -> bool {
    if folder.uid() == uid { folder.mode() & 0o100 != 0 } else { folder.mode() & 0o011 != 0 }
}

/// A connection whose peer is known and allowed.
#[derive(Debug)]
pub struct PeerStream {
    /// The connection.
    pub stream: UnixStream,
    /// Who is at its other end.
    pub peer: Peer,
}

impl Connected for PeerStream {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
