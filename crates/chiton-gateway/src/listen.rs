//! Checked Unix sockets as the HTTP server wants them.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use chiton_model::Error;
use chiton_socket::{Access, PeerListener};
use tokio::net::UnixStream;

use crate::api::Peer;

/// A socket that lets only some users in.
pub(crate) struct Door(PeerListener);

impl Door {
    pub(crate) fn bind(path: &Path, allowed: &Arc<BTreeSet<u32>>) -> Result<Self, Error> {
        let cure = "choose another socket: --listen unix:PATH";
        let access = Access { who: "gateway", cure, allowed: Arc::clone(allowed), private: false };
        PeerListener::bind(path, &access).map(Self)
    }
}

impl Listener for Door {
    type Io = UnixStream;
    type Addr = Peer;

    async fn accept(&mut self) -> (UnixStream, Peer) {
        let accepted = self.0.accept().await;
        (accepted.stream, Peer { uid: accepted.peer.uid })
    }

    fn local_addr(&self) -> io::Result<Peer> {
        Ok(Peer { uid: rustix::process::getuid().as_raw() })
    }
}

impl Connected<IncomingStream<'_, Door>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        *stream.remote_addr()
    }
}
