//! The data folder: ours alone, and locked.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::StoreError;

/// How long whoever is just ending may keep the lock. A gateway that is killed while it spawns a program leaves a child
/// that has it until that program is executed.
const DYING: Duration = Duration::from_secs(3);

/// The folder, locked as long as this lives.
pub(crate) struct DataFolder {
    pub(crate) path: PathBuf,
    _lock: File,
}

pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> StoreError + use<> {
    let path = path.to_owned();
    move |source| StoreError::Io { path, source }
}

impl DataFolder {
    /// Makes the folder if it is not there, and locks it.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_within(path, DYING)
    }

    fn open_within(path: &Path, patience: Duration) -> Result<Self, StoreError> {
        make(path)?;
        ours(path)?;
        make(&path.join("marks"))?;
        let lock = path.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock)
            .map_err(io(&lock))?;
        if let Err(error) = locked(&file, patience) {
            if error != Errno::WOULDBLOCK {
                return Err(io(&lock)(error.into()));
            }
            let mut holder = String::new();
            // Who has it is a courtesy; the lock is what counts.
            drop(file.read_to_string(&mut holder));
            return Err(StoreError::Locked { folder: path.to_owned(), holder: holder.trim().parse().ok() });
        }
        remove_leftovers(path);
        file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0)).map(drop)).map_err(io(&lock))?;
        file.write_all(std::process::id().to_string().as_bytes()).map_err(io(&lock))?;
        Ok(Self { path: path.to_owned(), _lock: file })
    }
}

fn locked(file: &File, patience: Duration) -> Result<(), Errno> {
    let end = Instant::now() + patience;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if Instant::now() < end => {
                #[expect(clippy::disallowed_methods, reason = "the kernel tells of a free lock by no event")]
                std::thread::sleep(Duration::from_millis(5));
            }
            ended => return ended,
        }
    }
}

/// Copies that a process was making when it was killed.
fn remove_leftovers(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_string_lossy().starts_with(COPY) {
            // One that stays takes room, and is tried again next time.
            drop(fs::remove_file(entry.path()));
        }
    }
}

/// How the names of copies begin that are being made.
pub(crate) const COPY: &str = "copy-";

/// Makes a file that nobody else can read, whatever the umask and the folder allow. `SQLite` gives its other files the
/// same mode.
pub(crate) fn private(path: &Path) -> Result<(), StoreError> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map(drop).map_err(io(path))
}

/// Whose it is, and who may change it: a folder that others can write to can make a gateway delete anything, and nobody
/// knows what was written so far. That others may look into it can be mended, and is.
fn ours(path: &Path) -> Result<(), StoreError> {
    let found = fs::metadata(path).map_err(io(path))?;
    let user = rustix::process::geteuid().as_raw();
    if found.uid() != user {
        return Err(StoreError::Foreign { folder: path.to_owned(), owner: found.uid(), user });
    }
    let mode = found.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(StoreError::Exposed { folder: path.to_owned(), mode });
    }
    if mode & 0o077 != 0 {
        tracing::warn!(folder = %path.display(), mode = %format_args!("{mode:04o}"), "the data folder was open to others: its mode is 0700 now");
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(io(path))?;
    }
    Ok(())
}

fn make(path: &Path) -> Result<(), StoreError> {
    if fs::metadata(path).is_ok_and(|found| found.is_dir()) {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io(path))
}

#[cfg(test)]
mod tests;
