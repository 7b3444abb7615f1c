//! Leases as files.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chiton_model::SandboxId;

use crate::range::Range;

/// Why a lease could not be made or freed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LeaseError {
    /// Every address is leased.
    #[error("all {0} addresses of the range are leased")]
    Exhausted(u32),
    /// The folder cannot be used.
    #[error("the lease folder {path:?} cannot be used: {source}")]
    Folder {
        /// The folder, or the file in it.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A folder of leases.
#[derive(Clone, Debug)]
pub(crate) struct Leases {
    folder: Arc<Path>,
    range: Range,
}

impl Leases {
    pub(crate) fn new(folder: PathBuf, range: Range) -> Self {
        Self { folder: folder.into(), range }
    }

    fn broken(path: &Path) -> impl FnOnce(io::Error) -> LeaseError + use<> {
        let path = path.to_owned();
        move |source| LeaseError::Folder { path, source }
    }

    /// Leases an address to a sandbox: the one that it has, else a free one.
    pub(crate) fn take(&self, id: &SandboxId) -> Result<Ipv4Addr, LeaseError> {
        fs::create_dir_all(&self.folder).map_err(Self::broken(&self.folder))?;
        // The same sandbox begins its search at the same place every time, so that a repeat after a crash meets its own
        // lease, and sandboxes spread over the range instead of racing for its first address.
        let start = id.as_str().bytes().fold(0_u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(byte)));
        let held = self.entries()?;
        if let Some((address, _)) = held.iter().find(|(_, holder)| holder.as_ref() == Some(id)) {
            return Ok(*address);
        }
        for address in self.range.from(start) {
            if held.iter().any(|(leased, _)| *leased == address) {
                continue;
            }
            if self.create(address, id)? {
                return Ok(address);
            }
        }
        Err(LeaseError::Exhausted(self.range.len()))
    }

    /// Makes a lease whole or not at all: written under a name of its own, then linked to the address, which fails if
    /// somebody was faster. A crash leaves at most a file that no address names.
    fn create(&self, address: Ipv4Addr, id: &SandboxId) -> Result<bool, LeaseError> {
        let draft = self.folder.join(format!(".{id}"));
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).open(&draft).map_err(Self::broken(&draft))?;
        file.write_all(id.as_str().as_bytes()).map_err(Self::broken(&draft))?;
        let path = self.folder.join(address.to_string());
        let linked = fs::hard_link(&draft, &path);
        fs::remove_file(&draft).map_err(Self::broken(&draft))?;
        match linked {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(Self::broken(&path)(error)),
        }
    }

    /// Frees what a sandbox holds; nothing when it holds nothing.
    pub(crate) fn free(&self, id: &SandboxId) -> Result<(), LeaseError> {
        for (address, holder) in self.entries()? {
            if holder.as_ref() == Some(id) {
                Self::remove(&self.folder.join(address.to_string()))?;
            }
        }
        Self::remove(&self.folder.join(format!(".{id}")))
    }

    fn remove(path: &Path) -> Result<(), LeaseError> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Self::broken(path)(error)),
            _ => Ok(()),
        }
    }

    /// Who has an address.
    pub(crate) fn holder(&self, address: &str) -> Result<Option<SandboxId>, LeaseError> {
        let found = self.entries()?.into_iter().find(|(leased, _)| leased.to_string() == address);
        Ok(found.and_then(|(_, holder)| holder))
    }

    /// Everybody who has an address.
    pub(crate) fn held(&self) -> Result<Vec<SandboxId>, LeaseError> {
        Ok(self.entries()?.into_iter().filter_map(|(_, holder)| holder).collect())
    }

    /// All leases. A file that is not ours is an address that is taken by nobody we know.
    fn entries(&self) -> Result<Vec<(Ipv4Addr, Option<SandboxId>)>, LeaseError> {
        let listing = match fs::read_dir(&self.folder) {
            Ok(listing) => listing,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Self::broken(&self.folder)(error)),
        };
        let mut entries = Vec::new();
        for entry in listing {
            let path = entry.map_err(Self::broken(&self.folder))?.path();
            let Some(address) = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok())
            else {
                continue;
            };
            match fs::read_to_string(&path) {
                Ok(text) => entries.push((address, SandboxId::new(text).ok())),
                // Freed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Self::broken(&path)(error)),
            }
        }
        Ok(entries)
    }
}
