//! Images on the engine: what a name means, how an image comes there, and what goes again.
//!
//! [`resolve`] finds out what a name means, [`name`] refuses what no engine should see. [`bring`] gets an image to the
//! engine once for all who wait for it, by [`pull`] or by [`load`]. [`brought`] is the record of what this driver put
//! there, and [`store`] what operators see and remove: never anything that somebody else brought, unless they name it.

mod bring;
mod brought;
mod load;
mod name;
mod progress;
mod pull;
mod resolve;
mod store;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{OnceLock, Weak};
use std::time::{Duration, Instant};

use chiton_image::{ImageError, Policy};
use chiton_model::SandboxId;
use parking_lot::Mutex;
use tokio::sync::RwLock;

use bring::Work;
use brought::Brought;
pub(crate) use store::Store;

/// The name that images of files get on the engine; the tag is their digest.
const FILES: &str = "chiton.local/image";

/// How long an image stays that was brought for a sandbox which is not made yet.
const LEASE: Duration = Duration::from_mins(30);

/// An image that a sandbox in the making needs.
struct Lease {
    sandbox: SandboxId,
    /// The engine's id.
    image: String,
    until: Instant,
}

/// What the driver keeps about images.
pub(crate) struct Keep {
    folder: PathBuf,
    policy: Policy,
    documents: OnceLock<chiton_image::Images>,
    brought: Brought,
    /// Images that are on their way, by pin.
    works: Mutex<HashMap<String, Weak<Work>>>,
    leases: Mutex<Vec<Lease>>,
    /// Whoever sees that an image is there and leases it reads; whoever removes one writes.
    gate: RwLock<()>,
}

impl Keep {
    pub(crate) fn new(state_dir: &Path, policy: Policy) -> Self {
        Self {
            folder: state_dir.join("images"),
            policy,
            documents: OnceLock::new(),
            brought: Brought::new(state_dir.join("brought")),
            works: Mutex::default(),
            leases: Mutex::default(),
            gate: RwLock::default(),
        }
    }

    /// The store of documents, opened at its first use. Blocking.
    fn documents(&self) -> Result<&chiton_image::Images, ImageError> {
        if let Some(open) = self.documents.get() {
            return Ok(open);
        }
        let fresh = chiton_image::Images::open(&self.folder, self.policy.clone())?;
        Ok(self.documents.get_or_init(|| fresh))
    }

    fn lease(&self, sandbox: &SandboxId, image: &str) {
        let until = Instant::now() + LEASE;
        self.leases.lock().push(Lease { sandbox: sandbox.clone(), image: image.to_owned(), until });
    }

    /// The sandbox is made, and its container keeps the image; or it never will be.
    pub(crate) fn release(&self, sandbox: &SandboxId) {
        self.leases.lock().retain(|lease| lease.sandbox != *sandbox);
    }

    /// A sandbox in the making that needs this image.
    fn leased(&self, image: &str) -> Option<SandboxId> {
        let mut leases = self.leases.lock();
        let now = Instant::now();
        leases.retain(|lease| lease.until > now);
        leases.iter().find(|lease| lease.image == image).map(|lease| lease.sandbox.clone())
    }
}

/// Work on a thread that may wait.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, chiton_model::Error> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|error| chiton_model::Error::internal(format!("work on an image ended: {error}")))?;
    done.map_err(chiton_model::Error::from)
}
