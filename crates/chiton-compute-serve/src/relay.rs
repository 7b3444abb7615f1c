//! An agent's way to the gateway that asked for it: the agent dials a socket here, and what it says goes on to the gateway's.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chiton_gateway::sessions::{AgentSocket, bind_agent_socket};
use chiton_model::{ErrorKind, SandboxId};
use chiton_socket::{Dial, own_and_root};
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
    /// Looks at each connect whose it is.
    fn dial(&self) -> Dial {
        let trusted = own_and_root();
        // They can do whatever the driver can.
        let peers = if trusted.contains(&self.uid) { trusted } else { BTreeSet::from([self.uid]) };
        Dial { what: "the agent's gateway".to_owned(), path: self.socket.clone(), peers, limit: CONNECT }
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
        fs::create_dir_all(&self.folder)?;
        // No id has a dot.
        let new = self.folder.join(format!("{id}.new"));
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&way.to_bytes())?;
        file.sync_data()?;
        fs::rename(new, self.folder.join(id.as_str()))
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
    match way.dial().connect().await {
        Ok((mut outside, _)) => drop(copy_bidirectional(&mut inside, &mut outside).await),
        Err(error) if matches!(error.kind, ErrorKind::Refused { .. }) => {
            tracing::warn!(socket = %way.socket.display(), caller = way.uid, %error, "an agent is not joined with it");
        }
        Err(error) => tracing::debug!(socket = %way.socket.display(), %error, "the agent's gateway is not there"),
    }
}

#[cfg(test)]
mod tests;
