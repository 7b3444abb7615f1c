//! News: one task per live monitor reads its socket and tells everybody who watches.

use std::collections::BTreeSet;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chiton_driver::{DriverEvent, Observed};
use chiton_model::SandboxId;
use chiton_oci_monitor::wire::State;
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::broadcast;

use crate::connection::Connection;
use crate::host::Host;

/// How many events a slow watcher may lag behind before it is given a new snapshot.
const LAG: usize = 4096;

/// Who is watched and who listens.
pub(crate) struct Board {
    host: Arc<Host>,
    followed: Mutex<BTreeSet<SandboxId>>,
    news: broadcast::Sender<DriverEvent>,
    /// Bytes of output that monitors could not write.
    lost: AtomicU64,
}

impl Board {
    pub(crate) fn new(host: Arc<Host>) -> Arc<Self> {
        Arc::new(Self { host, followed: Mutex::default(), news: broadcast::channel(LAG).0, lost: AtomicU64::new(0) })
    }

    pub(crate) fn listen(&self) -> broadcast::Receiver<DriverEvent> {
        self.news.subscribe()
    }

    /// Bytes of output that could not be written, as far as this process was told.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Tells everybody. Nobody listening is fine.
    pub(crate) fn tell(&self, event: DriverEvent) {
        let _ = self.news.send(event);
    }

    /// Follows every monitor that is not followed yet, and ends what a dead one left.
    pub(crate) async fn adopt(self: &Arc<Self>) {
        let host = Arc::clone(&self.host);
        let found = tokio::task::spawn_blocking(move || host.monitors()).await;
        let Ok(Ok(found)) = found else {
            tracing::warn!("the oci driver cannot look for monitors of an earlier gateway");
            return;
        };
        for (id, connection) in found {
            if self.followed.lock().contains(&id) {
                continue;
            }
            match connection {
                Some(connection) => self.follow(id, connection, None),
                None => self.settle(&id).await,
            }
        }
    }

    /// Reads a monitor's connection until it ends. `child` is reaped then.
    pub(crate) fn follow(self: &Arc<Self>, id: SandboxId, connection: Connection, child: Option<Child>) {
        self.followed.lock().insert(id.clone());
        let board = Arc::clone(self);
        tokio::spawn(async move {
            let said_last = board.read(&id, connection).await;
            if let Some(mut child) = child {
                let _ = tokio::task::spawn_blocking(move || child.wait()).await;
            }
            if !said_last {
                let (host, of) = (Arc::clone(&board.host), id.clone());
                let _ = tokio::task::spawn_blocking(move || host.await_end(&of)).await;
            }
            board.followed.lock().remove(&id);
            if !said_last {
                board.settle(&id).await;
            }
        });
    }

    /// Whether the monitor said its last word before it ended.
    async fn read(&self, id: &SandboxId, connection: Connection) -> bool {
        let (stream, rest) = connection.into_parts();
        if stream.set_nonblocking(true).is_err() {
            return false;
        }
        let Ok(stream) = UnixStream::from_std(stream) else { return false };
        let mut lines = BufReader::new(rest.as_slice().chain(stream)).lines();
        let (mut last, mut counted) = (false, 0_u64);
        while let Ok(Some(line)) = lines.next_line().await {
            let Ok(state) = serde_json::from_str::<State>(&line) else { break };
            if let State::Dropped { bytes, records } = state {
                let new = bytes.saturating_sub(counted);
                counted = counted.max(bytes);
                self.lost.fetch_add(new, Ordering::Relaxed);
                tracing::warn!(sandbox = %id, bytes, records, "output of it could not be written and was dropped");
                continue;
            }
            last = matches!(state, State::Exited { .. } | State::Failed { .. });
            let (host, of) = (Arc::clone(&self.host), id.clone());
            let observed = tokio::task::spawn_blocking(move || host.interpret(&of, state)).await;
            if let Ok(Ok(Some(observed))) = observed {
                self.tell(DriverEvent::Changed(observed));
            }
        }
        last
    }

    /// Ends an orphan and tells how the sandbox stands.
    async fn settle(&self, id: &SandboxId) {
        let (host, of) = (Arc::clone(&self.host), id.clone());
        let observed = tokio::task::spawn_blocking(move || -> chiton_driver::CallResult<Option<Observed>> {
            host.bury(&of)?;
            host.observe(&of)
        });
        match observed.await {
            Ok(Ok(Some(observed))) => self.tell(DriverEvent::Changed(observed)),
            Ok(Ok(None)) => {}
            Ok(Err(error)) => tracing::warn!(sandbox = %id, %error, "a sandbox whose monitor is gone was not ended"),
            Err(error) => tracing::warn!(sandbox = %id, %error, "a sandbox whose monitor is gone was not looked at"),
        }
    }
}
