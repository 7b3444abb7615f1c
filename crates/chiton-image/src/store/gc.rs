//! What nobody needs any more is removed.
//!
//! Needed is what a sandbox uses, what a pull of the last half hour leased, and what the operator pinned. The lock on
//! the leases is held from the look at these until the last layer lost its name. A create holds the same lock while it
//! turns its lease into a use, so that it is seen as the one or as the other.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::FlockOperation;

use super::layers::remove_tree;
use super::{Images, Inner, Lease, Stored};
use crate::Digest;
use crate::error::{Doing, ImageError, Result};

/// How long documents and broken-off downloads stay that belong to no image that is here.
const LOOSE: Duration = Duration::from_hours(24);

/// What a sandbox needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// Who.
    pub by: String,
    /// The image.
    pub digest: Digest,
    /// Its layers.
    pub chains: Vec<Digest>,
}

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    /// Images that are no longer here.
    pub images: Vec<Stored>,
    /// How many layers went with them.
    pub layers: usize,
    /// The unpacked bytes of those.
    pub bytes: u64,
}

/// Finds out what sandboxes use. An error ends the removal: who does not know what is needed removes nothing.
pub type Uses<'a> = &'a dyn Fn() -> io::Result<Vec<Use>>;

impl Images {
    /// All images that are here whole, by name.
    pub fn list(&self) -> Result<Vec<Stored>> {
        self.inner.stored()
    }

    /// Whether the operator pinned an image.
    pub fn is_pinned(&self, image: &Stored) -> bool {
        self.inner.is_pinned(image)
    }

    /// Removes the image of this name or digest (or the beginning of one, at least 12 digits), unless it is needed.
    pub fn remove(&self, name: &str, uses: Uses<'_>) -> Result<Freed> {
        let mut leases = self.inner.leases.lock();
        let needs = Inner::needs(&mut leases, uses)?;
        let digits = name.strip_prefix("sha256:").unwrap_or(name);
        let canonical = self.parse(name).map(|reference| reference.to_string()).unwrap_or_default();
        let is = |image: &Stored| {
            (digits.len() >= 12 && image.digest.hex().starts_with(digits))
                || image.references.iter().any(|reference| reference == name || *reference == canonical)
        };
        let found: Vec<Stored> = self.inner.stored()?.into_iter().filter(is).collect();
        let [image] = found.as_slice() else {
            let why =
                if found.is_empty() { "it was not pulled" } else { "several images have this name; name its digest" };
            return Err(ImageError::Missing { reference: name.to_owned(), why: why.to_owned() });
        };
        if let Some(by) = self.inner.needed(&needs, image) {
            return Err(ImageError::InUse { image: image.digest.to_string(), by });
        }
        let freed = self.inner.drop_images(&needs, vec![image.clone()])?;
        drop(leases);
        self.inner.sweep_tmp()?;
        Ok(freed)
    }

    /// Removes images that nobody needs: those not used for so long, and when the rest is larger than `bytes` in all,
    /// those not used for longest.
    pub fn prune(&self, older: Duration, bytes: u64, uses: Uses<'_>) -> Result<Freed> {
        let mut leases = self.inner.leases.lock();
        let needs = Inner::needs(&mut leases, uses)?;
        let mut idle: Vec<Stored> = self.inner.stored()?;
        idle.retain(|image| self.inner.needed(&needs, image).is_none());
        idle.sort_by_key(|image| std::cmp::Reverse(image.used));
        let (now, mut kept) = (SystemTime::now(), 0_u64);
        idle.retain(|image| {
            let age = now.duration_since(image.used).unwrap_or_default();
            let goes = age >= older || kept.saturating_add(image.bytes) > bytes;
            if !goes {
                kept += image.bytes;
            }
            goes
        });
        let freed = self.inner.drop_images(&needs, idle)?;
        drop(leases);
        self.inner.sweep_tmp()?;
        self.inner.sweep_loose()?;
        Ok(freed)
    }
}

impl Inner {
    fn is_pinned(&self, image: &Stored) -> bool {
        let pinned = &self.policy.pinned;
        pinned.contains(&image.digest.to_string())
            || image.references.iter().any(|reference| pinned.contains(reference))
    }

    fn needs(leases: &mut Vec<Lease>, uses: Uses<'_>) -> Result<Vec<Use>> {
        let now = Instant::now();
        leases.retain(|lease| lease.until.is_none_or(|until| until > now));
        let mut needs = uses().doing("find out which images sandboxes use")?;
        needs.extend(leases.iter().map(|lease| Use {
            by: "a sandbox that is being made, or a pull".to_owned(),
            digest: lease.digest,
            chains: lease.chains.clone(),
        }));
        Ok(needs)
    }

    fn needed(&self, needs: &[Use], image: &Stored) -> Option<String> {
        let used = needs.iter().find(|used| used.digest == image.digest).map(|used| used.by.clone());
        used.or_else(|| self.is_pinned(image).then(|| "the operator's pins".to_owned()))
    }

    /// Forgets images and takes their names from layers that nobody else has.
    fn drop_images(&self, needs: &[Use], images: Vec<Stored>) -> Result<Freed> {
        for image in &images {
            self.forget(&image.digest)?;
        }
        let mut keep: BTreeSet<Digest> = needs.iter().flat_map(|used| used.chains.iter().copied()).collect();
        keep.extend(self.stored()?.into_iter().flat_map(|image| image.chains));
        let names: BTreeSet<String> = keep.iter().map(Digest::hex).collect();
        let _unswept = self.hold_tmp(FlockOperation::LockShared)?;
        let mut freed = Freed { images, ..Freed::default() };
        for entry in fs::read_dir(self.dir.join(self.policy.owner.folder())).doing("list the layers")? {
            let entry = entry.doing("list the layers")?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if names.contains(&name) {
                continue;
            }
            let bytes = super::layers::LayerRecord::load(&entry.path())?.map_or(0, |layer| layer.bytes);
            let trash = tempfile::Builder::new()
                .prefix("gone-")
                .tempdir_in(self.dir.join("tmp"))
                .doing("remove a layer")?
                .keep();
            fs::rename(entry.path(), trash.join("layer")).doing("remove a layer")?;
            freed.layers += 1;
            freed.bytes += bytes;
        }
        Ok(freed)
    }

    /// Removes what is in `tmp` and nobody holds.
    pub(super) fn sweep_tmp(&self) -> Result<()> {
        let _alone = self.hold_tmp(FlockOperation::LockExclusive)?;
        for path in entries(&self.dir.join("tmp"))? {
            let Ok(file) = File::open(&path) else { continue };
            if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                let removed = if path.is_dir() { remove_tree(&path) } else { fs::remove_file(&path) };
                if let Err(error) = removed {
                    tracing::warn!(%error, path = %path.display(), "left over from an image and not removed");
                }
            }
        }
        Ok(())
    }

    /// Removes documents and broken-off downloads that are old and belong to nothing.
    fn sweep_loose(&self) -> Result<()> {
        let known: BTreeSet<String> = self.stored()?.iter().map(|image| image.digest.hex()).collect();
        let now = SystemTime::now();
        for folder in ["blobs", "partial"] {
            for path in entries(&self.dir.join(folder))? {
                let named = path.file_name().is_some_and(|name| known.contains(&*name.to_string_lossy()));
                let Ok(file) = File::open(&path) else { continue };
                let used = file.metadata().and_then(|metadata| metadata.modified()).doing("look at a blob")?;
                let old = now.duration_since(used).is_ok_and(|age| age > LOOSE);
                if !named && old && rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                    fs::remove_file(&path).doing("remove a blob")?;
                }
            }
        }
        Ok(())
    }
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let found: io::Result<Vec<PathBuf>> =
        fs::read_dir(folder).and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect());
    found.doing(format!("list {}", folder.display()))
}
