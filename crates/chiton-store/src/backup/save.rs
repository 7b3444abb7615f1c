//! From a store, open or not.

use std::fs::File;
use std::io::{Read, Seek as _, SeekFrom};
use std::path::Path;

use chiton_lifecycle::journal::AuditRecord;
use chiton_model::{GatewayId, StoreEpoch};
use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags};
use sha2::{Digest as _, Sha256};

use super::Manifest;
use crate::check::{self, database_of, sound};
use crate::error::sql;
use crate::folder::{COPY, DataFolder, io};
use crate::{SqliteStore, StoreError, identity, schema, sum};

/// One moment of a store: a file without a name, which goes when this is dropped.
pub struct Snapshot {
    /// What it is.
    pub manifest: Manifest,
    database: File,
}

impl Snapshot {
    /// The database's bytes, from the first on.
    pub fn into_database(self) -> File {
        self.database
    }
}

impl SqliteStore {
    /// Copies the store as it is at this moment; who commits meanwhile does not wait. Takes a time and room in the data
    /// folder that grow with the store, and blocks the thread.
    ///
    /// # Errors
    /// When the copy cannot be made, or is damaged.
    pub fn snapshot(&self) -> Result<Snapshot, StoreError> {
        snapshot(self.folder())
    }
}

fn snapshot(folder: &Path) -> Result<Snapshot, StoreError> {
    let file = database_of(folder);
    // Goes when it is dropped; what a killed process leaves of it goes at the next opening. Made with mode 0600.
    let copy = tempfile::Builder::new().prefix(COPY).tempfile_in(folder).map_err(io(folder))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let source = Connection::open_with_flags(&file, flags).map_err(sql(&file))?;
    source.busy_timeout(std::time::Duration::from_secs(5)).map_err(sql(&file))?;
    let path = copy
        .path()
        .to_str()
        .ok_or_else(|| io(folder)(std::io::Error::new(std::io::ErrorKind::InvalidInput, "its path is no UTF-8")))?;
    source.execute("VACUUM INTO ?1", [path]).map_err(sql(&file))?;
    drop(source);
    let copied = Connection::open_with_flags(copy.path(), flags).map_err(sql(&file))?;
    // A backup that turns out to be damaged on the day when it is needed is none.
    sound(&copied, folder, &file, None)?;
    let text = |key: &str| identity::read(&copied, key).map(Option::unwrap_or_default).map_err(sql(&file));
    let damaged = |error: chiton_model::Error| StoreError::Damaged { file: file.clone(), what: error.message };
    let gateway = GatewayId::new(text("gateway")?).map_err(damaged)?;
    let epoch = StoreEpoch::new(text("epoch")?).map_err(damaged)?;
    let last_commit = text("last_commit")?.parse().unwrap_or(0);
    let number = |query: &str| copied.query_row(query, [], |row| row.get::<_, u32>(0)).map_err(sql(&file));
    let (schema, sandboxes) = (number("PRAGMA user_version")?, number("SELECT COUNT(*) FROM sandbox")?);
    drop(copied);
    let mut database = copy.reopen().map_err(io(folder))?;
    let (mut sum, mut size, mut buffer) = (Sha256::new(), 0_u64, vec![0; 1 << 20]);
    loop {
        let read = database.read(&mut buffer).map_err(io(folder))?;
        if read == 0 {
            break;
        }
        sum.update(&buffer[..read]);
        size += u64::try_from(read).unwrap_or(u64::MAX);
    }
    database.seek(SeekFrom::Start(0)).map_err(io(folder))?;
    let manifest = Manifest {
        gateway,
        epoch,
        schema,
        last_commit,
        sandboxes: sandboxes.into(),
        made_at: Timestamp::now(),
        size,
        sha256: hex::encode(sum.finalize()),
    };
    Ok(Snapshot { manifest, database })
}

/// Copies a store that no gateway holds, and notes in it who did so.
///
/// # Errors
/// [`StoreError::Locked`] while a gateway holds it; else when it cannot be read or is damaged.
pub fn save_offline(folder: &Path, by: &str) -> Result<Snapshot, StoreError> {
    // Not made anew: a store is looked for, none is begun.
    if !database_of(folder).exists() {
        return Err(StoreError::Missing { folder: folder.to_owned() });
    }
    let held = DataFolder::open(folder)?;
    if !check::look(folder)? {
        return Err(StoreError::Missing { folder: folder.to_owned() });
    }
    let file = database_of(folder);
    let mut connection = Connection::open(&file).map_err(sql(&file))?;
    schema::configure(&connection).map_err(sql(&file))?;
    schema::migrate(&mut connection, &file)?;
    let taken = snapshot(folder)?;
    let message = format!("sha256 {}", taken.manifest.sha256);
    audit(&connection, "store.backup", taken.manifest.epoch.as_str(), by, message).map_err(sql(&file))?;
    drop(connection);
    drop(held);
    Ok(taken)
}

/// Appends to the audit trail of a store that no gateway holds.
pub(super) fn audit(
    connection: &Connection,
    action: &str,
    subject: &str,
    by: &str,
    message: String,
) -> rusqlite::Result<()> {
    let record = AuditRecord {
        at: Timestamp::now(),
        action: action.to_owned(),
        subject: subject.to_owned(),
        by: by.to_owned(),
        message,
    };
    let doc =
        serde_json::to_string(&record).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
    let sum = sum::of(rusqlite::params![doc])?;
    connection.execute("INSERT INTO audit (doc, sum) VALUES (?1, ?2)", rusqlite::params![doc, sum]).map(drop)
}
