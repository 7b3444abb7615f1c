//! An agent's way to the gateway that asked for it: the agent dials a socket here, and what it says goes on to the gateway's.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chiton_driver::replace_file;
use chiton_gateway::sessions::{AgentSocket, bind_agent_socket};
use chiton_model::SandboxId;
use chiton_socket::{connect_to, own_and_root};
use parking_lot::Mutex;
use tokio::io::copy_bidirectional;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::task::AbortOnDropHandle;

/// How long a gateway may take to accept.
const CONNECT: Duration = Duration::from_secs(10);

/// Where a caller wants its agents. Whoever calls may name any path, and it is dialled with the driver's rights: what is
/// there must be the caller's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// The socket.
    pub(crate) socket: PathBuf,
    /// The caller's user.
    pub(crate) uid: u32,
}

impl Way {
    /// Connects, and looks at each time whose the socket is and who answers. That everybody may connect to it is as it
    /// should be: a gateway's socket for agents is, in a folder that only their sandbox is shown.
    async fn connect(&self) -> Result<UnixStream, Closed> {
        let trusted = own_and_root();
        // They can do whatever the driver can.
        let peers = if trusted.contains(&self.uid) { trusted } else { BTreeSet::from([self.uid]) };
        let found = fs::metadata(&self.socket)?;
        if !found.file_type().is_socket() || !peers.contains(&found.uid()) {
            return Err(Closed::Foreign(format!(
                "it is no socket of uid {} but a file of uid {}",
                self.uid,
                found.uid()
            )));
        }
        let stream = tokio::time::timeout(CONNECT, connect_to(&self.socket)).await.map_err(io::Error::from)??;
        match stream.peer_cred()?.uid() {
            uid if peers.contains(&uid) => Ok(stream),
            uid => Err(Closed::Foreign(format!("a process of uid {uid} answers there, not of uid {}", self.uid))),
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        [self.uid.to_string().as_bytes(), b"\n", self.socket.as_os_str().as_bytes()].concat()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let uid = std::str::from_utf8(&bytes[..end]).ok()?.parse().ok()?;
        Some(Self { socket: PathBuf::from(OsString::from_vec(bytes[end + 1..].to_vec())), uid })
    }
}

/// Why an agent is not joined.
enum Closed {
    /// Nobody is there.
    Absent(io::Error),
    /// Somebody else is, or may be.
    Foreign(String),
}

impl From<io::Error> for Closed {
    fn from(error: io::Error) -> Self {
        Self::Absent(error)
    }
}

/// The relays of all sandboxes. Where each leads is kept in a file, for after a restart: agents go on dialling.
pub(crate) struct Relays {
    folder: PathBuf,
    open: Mutex<HashMap<SandboxId, AbortOnDropHandle<()>>>,
}

impl Relays {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder, open: Mutex::default() }
    }

    /// Opens those again that an earlier life of this process had.
    pub(crate) fn resume(&self, folder_of: impl Fn(&SandboxId) -> PathBuf) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        for entry in entries.flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|name| SandboxId::new(name).ok()) else { continue };
            let kept = fs::read(entry.path());
            let opened = kept.and_then(|kept| {
                let way = Way::from_bytes(&kept);
                let way = way.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "its file says no way"))?;
                self.open(&id, &folder_of(&id), way)
            });
            if let Err(error) = opened {
                tracing::warn!(sandbox = %id, %error, "the way of its agent could not be opened again");
            }
        }
    }

    /// Binds `<folder>/agent.sock` and joins whoever comes with the gateway's socket. Done again, it begins anew.
    pub(crate) fn open(&self, id: &SandboxId, folder: &Path, way: Way) -> io::Result<()> {
        self.keep(id, &way)?;
        let mut relays = self.open.lock();
        fs::create_dir_all(folder)?;
        // In the place of an old one.
        let (listener, socket) = bind_agent_socket(folder)?;
        relays.insert(id.clone(), AbortOnDropHandle::new(tokio::spawn(relay(listener, socket, way))));
        Ok(())
    }

    /// Whole or not at all: a restart takes it as it is.
    fn keep(&self, id: &SandboxId, way: &Way) -> io::Result<()> {
        // No id has a dot, so what a crash leaves beside it is nobody's way.
        replace_file(&self.folder.join(id.as_str()), &way.to_bytes())
    }

    pub(crate) fn close(&self, id: &SandboxId) {
        self.open.lock().remove(id);
        // It may have had none.
        drop(fs::remove_file(self.folder.join(id.as_str())));
    }
}

/// The socket's file is there for as long as somebody accepts.
async fn relay(listener: UnixListener, _socket: AgentSocket, way: Way) {
    let mut joined = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = joined.join_next() => {}
            accepted = listener.accept() => {
                let Ok((inside, _)) = accepted else {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                joined.spawn(join(inside, way.clone()));
            }
        }
    }
}

/// A gateway that is away, and a socket that is not its, ends the agent's connection; the agent dials again by itself.
async fn join(mut inside: UnixStream, way: Way) {
    let socket = way.socket.display();
    match way.connect().await {
        Ok(mut outside) => drop(copy_bidirectional(&mut inside, &mut outside).await),
        Err(Closed::Absent(error)) => tracing::debug!(%socket, %error, "the agent's gateway is not there"),
        Err(Closed::Foreign(why)) => tracing::warn!(%socket, caller = way.uid, why, "an agent is not joined with it"),
    }
}

#[cfg(test)]
mod tests;
