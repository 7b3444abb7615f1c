//! A store of its own for each test, and looks into it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chiton_image::{Cancel, ImageError, Images, Limits, Owner, Pinned, Policy};
use serde_json::json;

use crate::build::{Layer, Packing, image};

pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
}

/// Root keeps owners; an ordinary user cannot.
pub(crate) fn policy() -> Policy {
    let owner = if rustix::process::geteuid().is_root() { Owner::Keep } else { Owner::Single };
    Policy { owner, ..Policy::default() }
}

pub(crate) fn root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED {test}: it gives files away, which needs root");
    }
    root
}

impl World {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::Builder::new().prefix("chiton-image-").tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.path("store")
    }

    pub(crate) fn images(&self) -> Images {
        Images::open(&self.store(), policy()).unwrap()
    }

    pub(crate) fn with(&self, limits: Limits) -> Images {
        Images::open(&self.store(), Policy { limits, ..policy() }).unwrap()
    }

    /// Everything in `tmp` and `partial`.
    pub(crate) fn leftovers(&self) -> Vec<PathBuf> {
        ["tmp", "partial"].iter().flat_map(|name| entries(&self.store().join(name))).collect()
    }

    pub(crate) fn layers(&self) -> Vec<PathBuf> {
        let folder = if policy().owner == Owner::Keep { "layers" } else { "layers-of-one-owner" };
        entries(&self.store().join(folder))
    }
}

pub(crate) fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}

pub(crate) fn pull(images: &Images, reference: &str) -> Result<Pinned, ImageError> {
    let (pinned, _) = images.resolve(reference, PATIENCE)?;
    images.ensure(&pinned, &Cancel::default(), &|_| ())?;
    Ok(pinned)
}

/// Unpacks layers, the lowest first, and returns their folders.
pub(crate) fn unpack(world: &World, images: &Images, layers: &[Layer]) -> Result<Vec<PathBuf>, ImageError> {
    let layers: Vec<(Layer, Packing)> = layers.iter().map(|layer| (layer.clone(), Packing::Plain)).collect();
    let made = image(&layers, &json!({}));
    let folder = world.path(&format!("layout-{}", made.digest().hex()));
    let layout = made.layout(&folder, "1");
    let pinned = pull(images, &format!("oci:{}", layout.display()))?;
    images.layers(&pinned.chains())
}

/// No test removes anything that somebody uses, unless it says so.
#[expect(clippy::unnecessary_wraps, reason = "the form of the question that the store asks")]
pub(crate) fn nobody() -> std::io::Result<Vec<chiton_image::Use>> {
    Ok(Vec::new())
}
