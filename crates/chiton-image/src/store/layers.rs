//! Unpacked layers, each made once.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{FlockOperation, Mode, OFlags, openat};
use serde::{Deserialize, Serialize};

use super::blobs::Meter;
use super::{Inner, Listener, Pinned, Progress};
use crate::error::{Doing, ImageError, Result};
use crate::source::archive::Archive;
use crate::source::layout::Layout;
use crate::source::registry::Repository;
use crate::unpack::parents::Parents;
use crate::{Cancel, Digest, Layer, Reference, unpack};

/// How many layers of one image are fetched at once.
const AT_ONCE: usize = 3;

/// What is known of an unpacked layer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LayerRecord {
    pub(super) version: u32,
    pub(super) diff_id: Digest,
    /// Unpacked, as the archive has them.
    pub(super) bytes: u64,
    pub(super) entries: u64,
}

impl LayerRecord {
    const VERSION: u32 = 1;

    pub(super) fn load(layer: &Path) -> Result<Option<Self>> {
        match fs::read(layer.join("layer.json")) {
            Ok(bytes) => {
                Ok(serde_json::from_slice::<Self>(&bytes).ok().filter(|record| record.version == Self::VERSION))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).doing("read what is known of a layer"),
        }
    }
}

/// A folder that is nobody else's while its lock is held, and is removed unless it gets a name.
pub(super) struct Scratch {
    pub(super) path: PathBuf,
    _lock: File,
    kept: bool,
}

impl Scratch {
    fn new(inner: &Inner) -> Result<Self> {
        let _unswept = inner.hold_tmp(FlockOperation::LockShared)?;
        let tmp = inner.dir.join("tmp");
        let path = tempfile::Builder::new().prefix("layer-").tempdir_in(tmp).doing("make a folder for a layer")?.keep();
        let lock = File::open(&path).doing("open a folder for a layer")?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).doing("lock a folder for a layer")?;
        Ok(Self { path, _lock: lock, kept: false })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = remove_tree(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "a half-unpacked layer was not removed; the next look removes it");
        }
    }
}

/// Removes a folder, also one whose folders its owner may not enter.
pub(super) fn remove_tree(path: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

impl Inner {
    pub(super) fn ensure(&self, image: &Pinned, cancel: &Cancel, tell: Listener<'_>) -> Result<bool> {
        let chains = image.chains();
        let missing: Vec<usize> = (0..chains.len()).filter(|index| !self.layer(&chains[*index]).exists()).collect();
        let remote = matches!(image.reference, Reference::Registry { .. });
        let of = if remote { missing.iter().map(|index| image.layers[*index].size).sum() } else { 0 };
        let meter = Meter::new(tell, of);
        let next = AtomicUsize::new(0);
        // The caller's runtime, for threads that wait for a registry.
        let runtime = tokio::runtime::Handle::try_current().ok();
        // When this thread fails, nobody waits for what the others fetch.
        let stop = Cancel::default();
        std::thread::scope(|scope| -> Result<()> {
            let helpers = if remote { missing.len().saturating_sub(1).min(AT_ONCE - 1) } else { 0 };
            let _stopped = stop.on_drop();
            for _ in 0..helpers {
                scope.spawn(|| {
                    let _entered = runtime.as_ref().map(tokio::runtime::Handle::enter);
                    while let Some(index) = missing.get(next.fetch_add(1, Ordering::SeqCst) + 1) {
                        if cancel.check().is_err() || self.fetch(image, *index, &stop, &meter).is_err() {
                            // Whoever needs the layer meets the same error, and reports it.
                            return;
                        }
                    }
                });
            }
            for (index, chain) in chains.iter().enumerate() {
                cancel.check()?;
                self.unpack(image, index, chain, &chains[..index], cancel, &meter)?;
                tell(Progress::Unpacked { layers: index + 1, of: chains.len() });
            }
            Ok(())
        })?;
        self.record(image, &chains)?;
        Ok(!missing.is_empty())
    }

    fn fetch(&self, image: &Pinned, index: usize, cancel: &Cancel, meter: &Meter<'_>) -> Result<Box<dyn Read>> {
        let layer = &image.layers[index];
        match &image.reference {
            Reference::Layout { path, .. } => {
                Ok(Box::new(Layout { path, reference: &image.reference.to_string() }.layer(layer)?))
            }
            Reference::Archive { path, tag } => {
                Ok(Box::new(Archive::open(path, &image.reference.to_string())?.layer(tag.as_deref(), index, layer)?))
            }
            Reference::Registry { registry, repository, .. } => {
                Ok(Box::new(self.blob(Repository { registry, name: repository }, layer, cancel, meter)?))
            }
        }
    }

    /// Makes one layer, unless it is here.
    fn unpack(
        &self,
        image: &Pinned,
        index: usize,
        chain: &Digest,
        below: &[Digest],
        cancel: &Cancel,
        meter: &Meter<'_>,
    ) -> Result<()> {
        let _turn = self.joins.turn(format!("layer {chain}"), cancel)?;
        let place = self.layer(chain);
        if place.exists() {
            return Ok(());
        }
        let stored = self.fetch(image, index, cancel, meter)?;
        let mut scratch = Scratch::new(self)?;
        let layer = image.layers[index];
        self.fill(stored, &scratch.path, &layer, below, cancel)?;
        match fs::rename(&scratch.path, &place) {
            Ok(()) => scratch.kept = true,
            // Another process was faster; what it made is the same.
            Err(_) if place.exists() => {}
            Err(error) => return Err(error).doing("name a layer"),
        }
        self.sync_folder(self.policy.owner.folder())?;
        if matches!(image.reference, Reference::Registry { .. }) {
            // From here on the unpacked form is the only one that is needed.
            let _ = fs::remove_file(self.blob_path(&layer.digest));
        }
        Ok(())
    }

    /// Unpacks into a scratch folder, checks what came and puts it on disk.
    fn fill(
        &self,
        stored: Box<dyn Read>,
        scratch: &Path,
        layer: &Layer,
        below: &[Digest],
        cancel: &Cancel,
    ) -> Result<()> {
        let root = scratch.join("fs");
        fs::DirBuilder::new().mode(0o755).create(&root).doing("make a layer's folder")?;
        // The umask of this process decides nothing.
        fs::set_permissions(&root, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .doing("open a layer's folder")?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened: OwnedFd = openat(rustix::fs::CWD, &root, flags, Mode::empty()).doing("open a layer's folder")?;
        let lower: Vec<PathBuf> = below.iter().rev().map(|chain| self.layer(chain).join("fs")).collect();
        let policy = &self.policy;
        let parents = Parents::open(lower.iter().map(PathBuf::as_path), policy.owner)?;
        let kept = opened.try_clone().doing("open a layer's folder")?;
        let found = unpack::layer(stored, opened, &parents, policy.owner, &policy.limits, cancel)?;
        if found.diff_id != layer.diff_id {
            let what = "a layer, unpacked,".to_owned();
            return Err(ImageError::Digest { what, wanted: layer.diff_id, found: found.diff_id });
        }
        // Where a source names no digest of the stored bytes, the one of the contents stands for it.
        if found.digest != layer.digest && layer.digest != layer.diff_id {
            return Err(ImageError::Digest { what: "a layer".to_owned(), wanted: layer.digest, found: found.digest });
        }
        let record = LayerRecord {
            version: LayerRecord::VERSION,
            diff_id: layer.diff_id,
            bytes: found.bytes,
            entries: found.entries,
        };
        let text = serde_json::to_vec(&record).map_err(std::io::Error::from).doing("write what is known of a layer")?;
        fs::write(scratch.join("layer.json"), text).doing("write what is known of a layer")?;
        // One call for the thousands of files that were made.
        rustix::fs::syncfs(&kept).doing("write a layer to disk")
    }
}
