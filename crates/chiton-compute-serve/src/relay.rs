//! An agent's way to the gateway that asked for it: the agent dials a socket here, and what it says goes on to the gateway's.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use chiton_model::SandboxId;
use parking_lot::Mutex;
use tokio::io::copy_bidirectional;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::task::AbortOnDropHandle;

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
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return };
        for entry in entries.flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|name| SandboxId::new(name).ok()) else { continue };
            let Ok(target) = std::fs::read(entry.path()) else { continue };
            if let Err(error) = self.open(&id, &folder_of(&id), PathBuf::from(OsString::from_vec(target))) {
                tracing::warn!(sandbox = %id, %error, "the way of its agent could not be opened again");
            }
        }
    }

    /// Binds `<folder>/agent.sock` and joins whoever comes with the gateway's socket. Done again, it begins anew.
    pub(crate) fn open(&self, id: &SandboxId, folder: &Path, gateway: PathBuf) -> io::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        std::fs::write(self.folder.join(id.as_str()), gateway.as_os_str().as_bytes())?;
        let mut relays = self.open.lock();
        // First the old one goes: it has the file.
        relays.remove(id);
        std::fs::create_dir_all(folder)?;
        let path = folder.join("agent.sock");
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        // The sandbox's user is not ours; only it sees the folder.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
        relays.insert(id.clone(), AbortOnDropHandle::new(tokio::spawn(relay(listener, gateway))));
        Ok(())
    }

    pub(crate) fn close(&self, id: &SandboxId) {
        self.open.lock().remove(id);
        // It may have had none.
        drop(std::fs::remove_file(self.folder.join(id.as_str())));
    }
}

async fn relay(listener: UnixListener, gateway: PathBuf) {
    let mut joined = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = joined.join_next() => {}
            accepted = listener.accept() => {
                let Ok((inside, _)) = accepted else {
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                };
                joined.spawn(join(inside, gateway.clone()));
            }
        }
    }
}

/// A gateway that is away ends the agent's connection; the agent dials again by itself.
async fn join(mut inside: UnixStream, gateway: PathBuf) {
    match chiton_socket::connect_to(&gateway).await {
        Ok(mut outside) => drop(copy_bidirectional(&mut inside, &mut outside).await),
        Err(error) => tracing::debug!(socket = %gateway.display(), %error, "the agent's gateway is not there"),
    }
}
