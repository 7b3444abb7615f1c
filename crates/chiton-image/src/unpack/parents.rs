//! The layers below, as far as a layer needs to know them: what a folder that it only passes through looks like there.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat, openat, openat2, statat};
use rustix::io::Errno;

use super::limits::Owner;
use crate::error::{Doing, Result};

/// Whether this is the overlay's mark of a removed name.
pub(super) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// The layers below one, the nearest first.
pub(crate) struct Parents {
    layers: Vec<OwnedFd>,
    owner: Owner,
}

impl Parents {
    pub(crate) fn open<'p>(nearest_first: impl Iterator<Item = &'p Path>, owner: Owner) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let layers = nearest_first
            .map(|path| openat(CWD, path, flags, Mode::empty()).doing(format!("open the layer {}", path.display())))
            .collect::<Result<_>>()?;
        Ok(Self { layers, owner })
    }

    /// The folder of this name in what the layers below amount to; none when there is none.
    pub(super) fn folder(&self, parts: &[&[u8]]) -> Result<Option<Stat>> {
        let Some(found) = self.find(parts, OFlags::DIRECTORY)? else { return Ok(None) };
        rustix::fs::fstat(&found).map(Some).doing("look at a layer below")
    }

    /// The file of this name in what the layers amount to; none when there is none, or something else has the name.
    pub(crate) fn file(&self, parts: &[&[u8]]) -> Result<Option<OwnedFd>> {
        let Some(found) = self.find(parts, OFlags::NONBLOCK)? else { return Ok(None) };
        let stat = rustix::fs::fstat(&found).doing("look at a layer")?;
        Ok((FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile).then_some(found))
    }

    /// Links are not followed: where they lead would depend on layers further down.
    fn find(&self, parts: &[&[u8]], kind: OFlags) -> Result<Option<OwnedFd>> {
        for layer in &self.layers {
            let path = parts.join(&b'/');
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | kind;
            let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            match openat2(layer, path.as_slice(), flags, Mode::empty(), inside) {
                Ok(found) => return Ok(Some(found)),
                Err(Errno::NOENT) => {}
                // Something else has the name, or hides it.
                Err(_) => return Ok(None),
            }
            if self.hides(layer, parts)? {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// Whether a layer that does not have a name says that nothing below it has it either.
    fn hides(&self, layer: &OwnedFd, parts: &[&[u8]]) -> Result<bool> {
        for depth in 0..parts.len() {
            let path = parts[..=depth].join(&b'/');
            match statat(layer, path.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
                Err(_) => return Ok(false),
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Directory => return Ok(true),
                Ok(_) => {}
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let folder = openat(layer, path.as_slice(), flags, Mode::empty()).doing("look at a layer below")?;
            let mut value = [0_u8; 1];
            if matches!(rustix::fs::fgetxattr(&folder, self.owner.opaque(), &mut value), Ok(1)) && value == *b"y" {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
