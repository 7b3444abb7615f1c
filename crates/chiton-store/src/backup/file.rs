//! The file.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use super::{LONGEST_MANIFEST, MAGIC, Manifest};
use crate::StoreError;
use crate::folder::io;

/// A backup that is being written: below another name until it is whole, checked and on disk.
pub struct BackupFile {
    target: PathBuf,
    file: NamedTempFile,
    manifest: Manifest,
    sum: Sha256,
    size: u64,
}

impl BackupFile {
    /// Begins one for the file `target`, or in the folder `target` below a name that tells its time. Nobody but the caller's
    /// user will be able to read it.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub fn begin(target: &Path, manifest: Manifest) -> Result<Self, StoreError> {
        let target = if target.is_dir() {
            target.join(format!("chiton-{}.backup", manifest.made_at.strftime("%Y%m%dT%H%M%SZ")))
        } else {
            target.to_owned()
        };
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        // Made with mode 0600.
        let mut file = NamedTempFile::with_prefix_in(".chiton-backup-", parent).map_err(io(parent))?;
        let text = serde_json::to_string(&manifest).map_err(|error| io(&target)(error.into()))?;
        file.write_all(format!("{MAGIC}{text}\n").as_bytes()).map_err(io(&target))?;
        Ok(Self { target, file, manifest, sum: Sha256::new(), size: 0 })
    }

    /// Appends a piece of the database.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.sum.update(bytes);
        self.size += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.file.write_all(bytes).map_err(io(&self.target))
    }

    /// Checks that it is what its manifest says, and makes it durable below its name. An older file of that name is
    /// replaced only now. Where it is.
    ///
    /// # Errors
    /// When a part is missing or changed, or it cannot be made durable; then nothing is left.
    pub fn finish(self) -> Result<PathBuf, StoreError> {
        let Self { target, file, manifest, sum, size } = self;
        if size != manifest.size || hex::encode(sum.finalize()) != manifest.sha256 {
            let why = format!("{size} of {} bytes came, or others than were sent", manifest.size);
            return Err(StoreError::Backup { file: target, why });
        }
        file.as_file().set_permissions(PermissionsExt::from_mode(0o600)).map_err(io(&target))?;
        file.as_file().sync_all().map_err(io(&target))?;
        let parent = file.path().parent().unwrap_or(Path::new(".")).to_owned();
        file.persist(&target).map_err(|error| io(&target)(error.error))?;
        sync_folder(&parent)?;
        Ok(target)
    }
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io(folder))
}

/// Opens a backup: what it says of itself, and the database's bytes.
pub(super) fn open(file: &Path) -> Result<(Manifest, BufReader<File>), StoreError> {
    let unusable = |why: String| StoreError::Backup { file: file.to_owned(), why };
    let opened = File::open(file).map_err(io(file))?;
    if opened.metadata().map_err(io(file))?.is_dir() {
        return Err(unusable("it is a folder".to_owned()));
    }
    let mut bytes = BufReader::with_capacity(1 << 20, opened);
    let mut magic = vec![0; MAGIC.len()];
    bytes.read_exact(&mut magic).map_err(|_| unusable("it is too short for one".to_owned()))?;
    if magic != MAGIC.as_bytes() {
        return Err(unusable(match magic.strip_prefix(b"chiton-backup ") {
            Some(_) => "it has a form of another version of Chiton".to_owned(),
            None => "it does not begin as one".to_owned(),
        }));
    }
    let mut text = Vec::new();
    let limit = u64::try_from(LONGEST_MANIFEST).unwrap_or(u64::MAX);
    bytes.by_ref().take(limit).read_until(b'\n', &mut text).map_err(io(file))?;
    let manifest = serde_json::from_slice(&text).map_err(|error| unusable(format!("its manifest: {error}")))?;
    Ok((manifest, bytes))
}
