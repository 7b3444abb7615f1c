//! Into a data folder.

use std::fs::{self, DirBuilder, File};
use std::io::{BufReader, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use chiton_model::StoreEpoch;
use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use sha2::{Digest as _, Sha256};

use super::{Manifest, file};
use crate::check::{database_of, sound};
use crate::error::sql;
use crate::folder::{DataFolder, io, private};
use crate::{MachineFacts, StoreError, identity, schema};

/// What a restore made.
#[derive(Clone, Debug)]
pub struct Restored {
    /// What the backup says of itself.
    pub manifest: Manifest,
    /// The new life of the store. What the backup knows belongs to [`Manifest::epoch`] and is held.
    pub epoch: StoreEpoch,
    /// Where the store is that was there before.
    pub replaced: Option<PathBuf>,
}

/// Puts a backup back as the store in `folder`. The store that is there is refused, or with `replace` kept beside the new
/// one. The new store takes its place in one step, whole and on disk, or nothing changes.
///
/// # Errors
/// [`StoreError::Backup`] when the file is not what it says or is damaged, [`StoreError::Newer`] when this build cannot read
/// it, [`StoreError::Locked`] while a gateway holds the folder, [`StoreError::Occupied`] when there is a store.
pub fn restore(backup: &Path, folder: &Path, replace: bool, by: &str) -> Result<Restored, StoreError> {
    let machine = MachineFacts::read().map_err(io(Path::new("/proc/sys/kernel/random/boot_id")))?;
    let (manifest, bytes) = file::open(backup)?;
    let parent = match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    DirBuilder::new().recursive(true).mode(0o700).create(&parent).map_err(io(&parent))?;
    // Held until the end: no gateway begins on what is being replaced.
    let held = if folder.is_dir() { Some(DataFolder::open(folder)?) } else { None };
    let occupied = held.is_some() && (database_of(folder).exists() || folder.join("witness").exists());
    if occupied && !replace {
        return Err(StoreError::Occupied { folder: folder.to_owned() });
    }
    // Goes when this fails.
    let private = fs::Permissions::from_mode(0o700);
    let made = tempfile::Builder::new().prefix(".store-restore-").permissions(private).tempdir_in(&parent);
    let made = made.map_err(io(&parent))?;
    let new = DataFolder::open(made.path())?;
    let epoch = fill(backup, &manifest, bytes, made.path(), &machine, by)?;
    let replaced = take_place(made, folder, occupied)?;
    drop((new, held));
    Ok(Restored { manifest, epoch, replaced })
}

/// Makes the store of a backup in a new folder.
fn fill(
    backup: &Path,
    manifest: &Manifest,
    mut bytes: BufReader<File>,
    folder: &Path,
    machine: &MachineFacts,
    by: &str,
) -> Result<StoreEpoch, StoreError> {
    let unusable = |why: String| StoreError::Backup { file: backup.to_owned(), why };
    let target = database_of(folder);
    private(&target)?;
    let mut database = File::options().write(true).open(&target).map_err(io(&target))?;
    let (mut sum, mut size, mut buffer) = (Sha256::new(), 0_u64, vec![0; 1 << 20]);
    loop {
        let read = bytes.read(&mut buffer).map_err(io(backup))?;
        if read == 0 {
            break;
        }
        sum.update(&buffer[..read]);
        size += u64::try_from(read).unwrap_or(u64::MAX);
        database.write_all(&buffer[..read]).map_err(io(&target))?;
    }
    drop(database);
    if size != manifest.size {
        return Err(unusable(format!("it holds {size} bytes of a database of {}: it was cut off", manifest.size)));
    }
    let found = hex::encode(sum.finalize());
    if found != manifest.sha256 {
        return Err(unusable(format!("its sha256 is {found}, and was {} when it was made", manifest.sha256)));
    }
    let unsound = |error: StoreError| match error {
        StoreError::Damaged { what, .. } => unusable(what),
        other => other,
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let look = Connection::open_with_flags(&target, flags).map_err(sql(&target)).map_err(unsound)?;
    sound(&look, backup, &target, None).map_err(unsound)?;
    let text = |key: &str| identity::read(&look, key).map_err(sql(&target)).map_err(unsound);
    if text("gateway")?.as_deref() != Some(manifest.gateway.as_str())
        || text("epoch")?.as_deref() != Some(manifest.epoch.as_str())
    {
        return Err(unusable("its manifest is of another store".to_owned()));
    }
    drop(look);
    let mut connection = Connection::open(&target).map_err(sql(&target))?;
    schema::configure(&connection).map_err(sql(&target))?;
    schema::migrate(&mut connection, &target)?;
    let epoch = identity::fresh_epoch();
    let place = identity::place(&target, machine)?;
    let message = format!("from the backup of {} with sha256 {}", manifest.made_at, manifest.sha256);
    (|| {
        let transaction = connection.unchecked_transaction()?;
        identity::renew(&transaction, epoch.as_str())?;
        identity::write(&transaction, "place", &place)?;
        super::save::audit(&transaction, "store.restore", manifest.epoch.as_str(), by, message)?;
        transaction.commit()
    })()
    .map_err(sql(&target))?;
    connection.close().map_err(|(_, error)| sql(&target)(error))?;
    for path in [target.as_path(), &folder.join("marks"), folder] {
        File::open(path).and_then(|file| file.sync_all()).map_err(io(path))?;
    }
    Ok(epoch)
}

/// Puts the new folder in the place of the old one, in one step. Where the old one is.
fn take_place(made: tempfile::TempDir, folder: &Path, occupied: bool) -> Result<Option<PathBuf>, StoreError> {
    let parent = made.path().parent().unwrap_or(Path::new(".")).to_owned();
    if !folder.exists() {
        renameat_with(CWD, made.path(), CWD, folder, RenameFlags::NOREPLACE)
            .map_err(|error| io(folder)(error.into()))?;
        drop(made.keep());
        file::sync_folder(&parent)?;
        return Ok(None);
    }
    renameat_with(CWD, made.path(), CWD, folder, RenameFlags::EXCHANGE).map_err(|error| io(folder)(error.into()))?;
    // From here on what was made stands where it belongs, and its name is that of the old one.
    let old = made.keep();
    if !occupied {
        // A lock and an empty folder for marks.
        fs::remove_dir_all(&old).map_err(io(&old))?;
        file::sync_folder(&parent)?;
        return Ok(None);
    }
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let stamp = Timestamp::now().strftime("%Y%m%dT%H%M%S%.3fZ").to_string();
    let kept = parent.join(format!("{name}.replaced-{stamp}"));
    fs::rename(&old, &kept).map_err(io(&kept))?;
    file::sync_folder(&parent)?;
    Ok(Some(kept))
}
