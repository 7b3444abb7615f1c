//! Unix sockets with checked peers.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::serve::{IncomingStream, Listener};
use chiton_model::Error;
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};

use crate::api::Peer;

/// A connection whose peer is known and allowed.
pub(crate) struct Accepted {
    stream: UnixStream,
    peer: Peer,
}

/// A socket that lets only some users in. Removes its file when dropped.
pub(crate) struct PeerListener {
    listener: UnixListener,
    path: PathBuf,
    allowed: Arc<BTreeSet<u32>>,
}

impl PeerListener {
    /// Binds a socket. A stale file of a gateway that is gone is replaced; a socket that answers is not.
    pub(crate) fn bind(path: &Path, allowed: Arc<BTreeSet<u32>>) -> Result<Self, Error> {
        let refuse = |why: String| {
            Error::unavailable("gateway", format!("cannot listen on {path:?}: {why}"))
                .cure("choose another socket: --listen unix:PATH")
        };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|error| refuse(error.to_string()))?;
        }
        if StdUnixStream::connect(path).is_ok() {
            return Err(refuse("another gateway answers there".to_owned()));
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(refuse(error.to_string())),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(|error| refuse(error.to_string()))?;
        // Who may call is decided by uid at accept; the file's mode only has to let the allowed ones connect.
        let mode = if allowed.len() > 1 { 0o666 } else { 0o600 };
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(|error| refuse(error.to_string()))?;
        Ok(Self { listener, path: path.to_owned(), allowed })
    }
}

impl Drop for PeerListener {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.path));
    }
}

impl Listener for PeerListener {
    type Io = UnixStream;
    type Addr = Peer;

    async fn accept(&mut self) -> (UnixStream, Peer) {
        loop {
            match self.next().await {
                Ok(Some(accepted)) => return (accepted.stream, accepted.peer),
                Ok(None) => {}
                Err(error) => {
                    // Out of descriptors, as a rule: give others time to close theirs.
                    tracing::error!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Peer> {
        Ok(Peer { uid: rustix::process::getuid().as_raw() })
    }
}

impl PeerListener {
    async fn next(&self) -> io::Result<Option<Accepted>> {
        let (stream, _): (UnixStream, SocketAddr) = self.listener.accept().await?;
        let uid = stream.peer_cred()?.uid();
        if self.allowed.contains(&uid) {
            return Ok(Some(Accepted { stream, peer: Peer { uid } }));
        }
        tracing::warn!(uid, socket = %self.path.display(), "a user who is not allowed tried to connect");
        Ok(None)
    }
}

impl axum::extract::connect_info::Connected<IncomingStream<'_, PeerListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, PeerListener>) -> Self {
        *stream.remote_addr()
    }
}
