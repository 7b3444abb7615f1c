//! From a layer as it is stored to a folder of files that an overlay can be stacked of.

pub(crate) mod frame;
mod limits;
pub(crate) mod parents;
mod place;
pub(crate) mod stream;

use std::io::Read;
use std::os::fd::OwnedFd;

pub use limits::{Limits, Owner};

use crate::error::{Doing, Result};
use crate::{Cancel, Digest};
use frame::Frames;
use parents::Parents;
use place::Placer;
use stream::Unpacked;

/// What a layer turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Of its bytes as they are stored.
    pub(crate) digest: Digest,
    /// Of its bytes as they are unpacked.
    pub(crate) diff_id: Digest,
    /// How many those are.
    pub(crate) bytes: u64,
    /// Files, folders and links.
    pub(crate) entries: u64,
}

/// Unpacks a layer into an empty folder that nobody else knows. What is in the folder afterwards is of use only if the
/// digests that come back are the wanted ones; after an error it is of no use.
pub(crate) fn layer(
    stored: impl Read,
    root: OwnedFd,
    parents: &Parents,
    owner: Owner,
    limits: &Limits,
    cancel: &Cancel,
) -> Result<Found> {
    let mut unpacked = Unpacked::new(stored, limits, cancel).doing("read the layer")?;
    let mut frames = Frames::new(&mut unpacked);
    let mut placer = Placer::new(root, parents, owner, limits);
    while let Some(entry) = frames.next()? {
        placer.take(&entry, &mut frames)?;
    }
    frames.finish()?;
    let entries = placer.made();
    placer.finish()?;
    let (digest, diff_id, bytes) = unpacked.finish().doing("read the layer's end")?;
    Ok(Found { digest, diff_id, bytes, entries })
}
