//! The store: blobs by digest, layers by chain id, and what is known of each image.
//!
//! ```text
//! blobs/<digest>            whole and checked: manifests, configs, and layers until they are unpacked
//! partial/<digest>          a download under way; taken up where it broke off
//! layers/<chain id>/fs      an unpacked layer; layer.json beside it says what it was made of
//! tmp/<random>              being unpacked, or being removed
//! images/<digest>.json      an image that is here whole; its time is when it was used last
//! ```
//! Nothing has its final name before it is whole, checked and on disk. What is under way holds a lock on its file or
//! folder, which the kernel drops with the process: what is in `tmp` without a lock is nobody's.

mod blobs;
mod export;
mod gc;
mod layers;
mod records;

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

pub use gc::{Freed, Use, Uses};
pub use records::Stored;

use crate::error::{Doing, ImageError, Result};
use crate::join::Joins;
use crate::manifest::ImageConfig;
use crate::source::archive::Archive;
use crate::source::layout::Layout;
use crate::source::registry::{Registries, Repository};
use crate::source::{Described, describe, verify};
use crate::{Cancel, Digest, Policy, Reference};

/// A layer as an image names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// Of its bytes as they are stored.
    pub digest: Digest,
    /// How many those are.
    pub size: u64,
    /// Of its bytes as they are unpacked.
    pub diff_id: Digest,
}

/// An image of which every byte is fixed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// Where it is, as the store writes it.
    pub reference: Reference,
    /// Of its manifest; of its config where it has no manifest (`docker save`).
    pub digest: Digest,
    /// Its layers, the lowest first.
    pub layers: Vec<Layer>,
}

impl Pinned {
    /// The chain ids of its layers, the lowest first.
    pub fn chains(&self) -> Vec<Digest> {
        let mut chains: Vec<Digest> = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            chains.push(Digest::chain(chains.last(), &layer.diff_id));
        }
        chains
    }
}

/// News of a pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Bytes of layers came, of so many that are missing.
    Fetched {
        /// So far.
        bytes: u64,
        /// In all.
        of: u64,
    },
    /// A layer was unpacked, or was there.
    Unpacked {
        /// So far.
        layers: usize,
        /// In all.
        of: usize,
    },
}

/// Listens to a pull.
pub type Listener<'a> = &'a (dyn Fn(Progress) + Sync);

/// How long after a pull its layers stay, for the sandbox that is being made of them.
const LEASE: Duration = Duration::from_mins(30);

/// An image that is being pulled or was pulled for a sandbox.
pub(crate) struct Lease {
    number: u64,
    digest: Digest,
    chains: Vec<Digest>,
    /// None while the pull runs.
    until: Option<Instant>,
}

/// The images of one driver.
#[derive(Clone)]
pub struct Images {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    policy: Policy,
    registries: Registries,
    joins: Joins,
    /// Held while leases change and while something is removed: see [`gc`].
    leases: Mutex<Vec<Lease>>,
}

impl Images {
    /// Opens the store in a folder of its own, makes it if it is not there, and removes what a killed process left.
    pub fn open(dir: &Path, policy: Policy) -> Result<Self> {
        for name in ["", "blobs", "partial", policy.owner.folder(), "tmp", "images"] {
            let path = dir.join(name);
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .doing(format!("make {}", path.display()))?;
        }
        let registries = Registries::new(policy.clone())?;
        let inner =
            Inner { dir: dir.to_owned(), policy, registries, joins: Joins::default(), leases: Mutex::default() };
        inner.sweep_tmp()?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What the operator decided.
    pub fn policy(&self) -> &Policy {
        &self.inner.policy
    }

    /// Reads a name, and checks it against what the operator allows.
    pub fn parse(&self, text: &str) -> Result<Reference> {
        let reference = Reference::parse(text, &self.inner.policy)?;
        self.inner.allow(text, reference)
    }

    /// Finds out what a name means now: the digests of everything, and how the image wants to be run. Fetches documents
    /// and no layers. Blocking; a runtime must be entered for references to registries.
    pub fn resolve(&self, text: &str, within: Duration) -> Result<(Pinned, ImageConfig)> {
        let reference = self.parse(text)?;
        let limits = &self.inner.policy.limits;
        let found = match &reference {
            Reference::Layout { path, tag } => Layout { path, reference: text }.describe(tag.as_deref(), limits)?,
            Reference::Archive { path, tag } => Archive::open(path, text)?.describe(tag.as_deref(), limits)?,
            Reference::Registry { registry, repository, tag, digest } => {
                let at = Repository { registry, name: repository };
                let name = digest.map_or_else(|| tag.clone().unwrap_or_default(), |digest| digest.to_string());
                self.inner.ask(at, &name, *digest, Instant::now() + within)?
            }
        };
        let Described { digest, layers, config, .. } = found;
        Ok((Pinned { reference, digest, layers }, config))
    }

    /// Brings everything of an image here and unpacks it; a second call for the same waits for the first and finds it
    /// done. The layers stay for half an hour, for [`Images::adopt`]. Returns whether anything was to be done.
    /// Blocking, as [`Images::resolve`].
    pub fn ensure(&self, image: &Pinned, cancel: &Cancel, tell: Listener<'_>) -> Result<bool> {
        let number = self.inner.lease(image);
        let worked = self.inner.ensure(image, cancel, tell);
        let mut leases = self.inner.leases.lock();
        match &worked {
            Ok(_) => {
                let until = Some(Instant::now() + LEASE);
                leases.iter_mut().filter(|lease| lease.number == number).for_each(|lease| lease.until = until);
            }
            Err(_) => leases.retain(|lease| lease.number != number),
        }
        worked
    }

    /// Ends the lease of one [`Images::ensure`] whose layers are not needed further.
    pub fn release(&self, digest: &Digest) {
        Inner::end_lease(&mut self.inner.leases.lock(), digest);
    }

    /// Hands an image over to a sandbox: while `record` makes its use durable nothing is removed, and from then on
    /// whoever removes finds it among the uses. Fails when a layer is not here.
    pub fn adopt<E: From<ImageError>>(
        &self,
        digest: &Digest,
        chains: &[Digest],
        record: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let mut leases = self.inner.leases.lock();
        self.layers(chains)?;
        record()?;
        Inner::end_lease(&mut leases, digest);
        Ok(())
    }

    /// The folders of unpacked layers, in the order of the chain ids. Fails when one is not here.
    pub fn layers(&self, chains: &[Digest]) -> Result<Vec<PathBuf>> {
        let find = |chain: &Digest| {
            let path = self.inner.layer(chain).join("fs");
            if path.is_dir() {
                return Ok(path);
            }
            Err(ImageError::Missing {
                reference: chain.to_string(),
                why: "this unpacked layer was removed; pull the image again".to_owned(),
            })
        };
        chains.iter().map(find).collect()
    }
}

impl Inner {
    fn layer(&self, chain: &Digest) -> PathBuf {
        self.dir.join(self.policy.owner.folder()).join(chain.hex())
    }

    /// Between making something in `tmp` and locking it nobody sweeps, another process neither.
    fn hold_tmp(&self, how: FlockOperation) -> Result<File> {
        let folder = File::open(self.dir.join("tmp")).doing("open the image store's folder for what is not whole")?;
        rustix::fs::flock(&folder, how).doing("lock the image store's folder for what is not whole")?;
        Ok(folder)
    }

    /// A file that gets its name when it is whole.
    fn temporary(&self) -> Result<NamedTempFile> {
        let _unswept = self.hold_tmp(FlockOperation::LockShared)?;
        let file = NamedTempFile::new_in(self.dir.join("tmp")).doing("make a file of the image store")?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive).doing("lock a file of the image store")?;
        Ok(file)
    }

    fn lease(&self, image: &Pinned) -> u64 {
        let mut leases = self.leases.lock();
        let number = leases.iter().map(|lease| lease.number + 1).max().unwrap_or(0);
        leases.push(Lease { number, digest: image.digest, chains: image.chains(), until: None });
        number
    }

    /// Ends the oldest lease of an image that is not being pulled.
    fn end_lease(leases: &mut Vec<Lease>, digest: &Digest) {
        if let Some(index) = leases.iter().position(|lease| lease.digest == *digest && lease.until.is_some()) {
            leases.remove(index);
        }
    }

    /// Layouts and archives may be where the operator says, registries are those that the operator says.
    fn allow(&self, text: &str, reference: Reference) -> Result<Reference> {
        let (path, tag, layout) = match reference {
            Reference::Registry { ref registry, .. } => {
                self.registries.allow(text, registry)?;
                return Ok(reference);
            }
            Reference::Layout { path, tag } => (path, tag, true),
            Reference::Archive { path, tag } => (path, tag, false),
        };
        let path = fs::canonicalize(&path)
            .map_err(|error| ImageError::Missing { reference: text.to_owned(), why: error.to_string() })?;
        if let Some(roots) = &self.policy.roots
            && !roots.iter().any(|root| path.starts_with(root))
        {
            return Err(ImageError::Refused {
                reference: text.to_owned(),
                why: "it is not below a folder that is allowed".to_owned(),
                cure: "move it below one of the driver's dir_roots, or let the operator extend them".to_owned(),
            });
        }
        Ok(if layout { Reference::Layout { path, tag } } else { Reference::Archive { path, tag } })
    }

    /// Asks a registry for manifest and config. What is asked for by digest and is here is not fetched again.
    fn ask(&self, at: Repository<'_>, name: &str, digest: Option<Digest>, deadline: Instant) -> Result<Described> {
        let fetch = |wanted: &str, digest: Option<Digest>, manifest: bool| -> Result<(Digest, Vec<u8>)> {
            if let Some(digest) = digest
                && let Some(bytes) = self.document(&digest)?
            {
                return Ok((digest, bytes));
            }
            let (found, bytes) = Self::wait(at, deadline, async {
                match (manifest, digest) {
                    (false, Some(digest)) => Ok((digest, self.registries.blob_document(at, &digest).await?)),
                    _ => self.registries.manifest(at, wanted).await,
                }
            })?;
            if let Some(digest) = digest {
                verify(&bytes, &digest, "what the registry sent")?;
            }
            self.keep_document(&found, &bytes)?;
            Ok((found, bytes))
        };
        let (digest, bytes) = fetch(name, digest, true)?;
        describe(digest, &bytes, &self.policy.limits, |wanted, manifest| {
            Ok(fetch(&wanted.digest.to_string(), Some(wanted.digest), manifest)?.1)
        })
    }

    /// Waits on this thread for a registry.
    fn wait<T>(at: Repository<'_>, deadline: Instant, work: impl Future<Output = Result<T>>) -> Result<T> {
        let failed =
            |why: &str| ImageError::Registry { registry: at.registry.to_owned(), why: why.to_owned(), transient: true };
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| failed("it was asked outside a runtime"))?;
        let left = deadline.saturating_duration_since(Instant::now());
        runtime.block_on(async {
            tokio::time::timeout(left, work)
                .await
                .map_err(|_| failed(&format!("no answer within {} s", left.as_secs().max(1))))?
        })
    }
}
