//! What the fuzz targets call of the store.

use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::error::{Doing, Result};
use crate::unpack::parents::Parents;
use crate::{Cancel, Limits, Owner, unpack};

/// Unpacks a layer into an empty folder; how many entries and bytes it had.
pub fn unpack(folder: &Path, stored: &[u8], limits: &Limits) -> Result<(u64, u64)> {
    let owner = if rustix::process::geteuid().is_root() { Owner::Keep } else { Owner::Single };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, folder, flags, Mode::empty()).doing("open the folder")?;
    let parents = Parents::open(std::iter::empty(), owner)?;
    let found = unpack::layer(stored, root, &parents, owner, limits, &Cancel::default())?;
    Ok((found.entries, found.bytes))
}

/// Reads a manifest or an index, and a config; whether each was taken.
pub fn documents(bytes: &[u8]) -> (bool, bool) {
    (crate::manifest::Document::parse(bytes).is_ok(), crate::manifest::Config::parse(bytes).is_ok())
}
