//! The gateway's side of agent connections: a socket for each sandbox, the handshake, and what was said in it.
//!
//! A sandbox with an agent runs its main process only when its gateway has welcomed the agent, so every case needs this.

use std::collections::HashMap;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use chiton_agent_proto::frame;
use chiton_agent_proto::v1::{Hello, Welcome};
use chiton_model::SandboxId;
use parking_lot::Mutex;
use tokio::io::AsyncReadExt as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

const NAME: &str = "agent.sock";

/// What an agent said when it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Met {
    pub(crate) token: String,
    pub(crate) attempt: String,
}

/// The doors of one case's sandboxes.
#[derive(Default)]
pub(crate) struct Doors(Mutex<HashMap<SandboxId, Door>>);

struct Door {
    met: watch::Sender<Vec<Met>>,
    accepting: AbortOnDropHandle<()>,
}

impl Doors {
    /// Binds the socket of a sandbox anew; agents that came before are remembered.
    pub(crate) fn open(&self, id: &SandboxId, folder: &Path) -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        let listener = bind(folder)?;
        let mut doors = self.0.lock();
        let met = doors.remove(id).map_or_else(watch::Sender::default, |door| {
            door.accepting.abort();
            door.met
        });
        let accepting = AbortOnDropHandle::new(tokio::spawn(accept(listener, met.clone())));
        doors.insert(id.clone(), Door { met, accepting });
        Ok(())
    }

    /// Everybody who came to a sandbox's door, now and from now on.
    pub(crate) fn met(&self, id: &SandboxId) -> Option<watch::Receiver<Vec<Met>>> {
        self.0.lock().get(id).map(|door| door.met.subscribe())
    }
}

/// Bound beside its place and moved there: nobody meets a socket that may not be used yet. The path goes through the
/// folder's descriptor, because an address holds 107 bytes (unix(7)) and folders have long names.
fn bind(folder: &Path) -> std::io::Result<UnixListener> {
    let handle = std::fs::File::open(folder)?;
    let place = |name: &str| Path::new("/proc/self/fd").join(handle.as_raw_fd().to_string()).join(name);
    let new = place(".agent.sock.new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&new)?;
    // The sandbox's user is nobody on the host.
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o666))?;
    std::fs::rename(&new, place(NAME))?;
    Ok(listener)
}

async fn accept(listener: UnixListener, met: watch::Sender<Vec<Met>>) {
    let mut sessions = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        sessions.spawn(welcome(stream, met.clone()));
        while sessions.try_join_next().is_some() {}
    }
}

/// The handshake; then the connection is kept as long as the agent keeps it.
async fn welcome(mut stream: UnixStream, met: watch::Sender<Vec<Met>>) {
    let Ok(Hello { token, attempt, .. }) = frame::read::<Hello>(&mut stream).await else { return };
    // Told first: the agent acts on the answer, and whoever sees its acts may ask who came.
    met.send_modify(|all| all.push(Met { token, attempt }));
    if frame::write(&mut stream, &Welcome { error: String::new() }).await.is_ok() {
        let mut rest = [0; 64];
        while stream.read(&mut rest).await.is_ok_and(|count| count > 0) {}
    }
}

/// The doors of a case, shared by its lives.
pub(crate) type SharedDoors = Arc<Doors>;
