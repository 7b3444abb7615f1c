//! Whose store this is, and which life of it (design, rule 2a).

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use chiton_model::{GatewayId, StoreEpoch};
use rand::TryRngCore as _;
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::folder::io;
use crate::{MachineFacts, StoreError};

/// Commit numbers are reserved in blocks of this many, so that giving one costs no write.
pub(crate) const BLOCK: u64 = 1 << 16;
/// No store comes near it; a larger one is damage.
const LARGEST_NUMBER: u64 = 1 << 62;

/// Who the store is.
pub(crate) struct Identity {
    pub(crate) gateway: GatewayId,
    pub(crate) epoch: StoreEpoch,
    pub(crate) last_commit: u64,
    /// Every number up to this one may have been given in an earlier life of the process.
    pub(crate) given: u64,
}

fn entropy() -> [u8; 10] {
    let mut bytes = [0; 10];
    rand::rngs::OsRng.try_fill_bytes(&mut bytes).expect("the kernel gives entropy");
    bytes
}

fn millis() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}

/// A fresh life.
pub(crate) fn fresh_epoch() -> StoreEpoch {
    StoreEpoch::generate(millis(), entropy())
}

pub(crate) fn read(connection: &Connection, key: &str) -> rusqlite::Result<Option<String>> {
    connection.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0)).optional()
}

pub(crate) fn write(connection: &Connection, key: &str, value: &str) -> rusqlite::Result<()> {
    connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)", params![key, value]).map(drop)
}

/// Reads who the store is. A folder that was copied, or moved to another machine, begins a new life: objects of the old one
/// may be the original's.
pub(crate) fn establish(
    connection: &mut Connection,
    folder: &Path,
    file: &Path,
    machine: &MachineFacts,
) -> Result<Identity, StoreError> {
    let database = |message: String| StoreError::Database { folder: folder.to_owned(), message };
    let sql = |error: rusqlite::Error| database(error.to_string());
    let found = std::fs::metadata(file).map_err(io(file))?;
    let place = format!("{} {}:{}", machine.machine, found.dev(), found.ino());
    let transaction = connection.transaction().map_err(sql)?;
    let gateway = match read(&transaction, "gateway").map_err(sql)? {
        Some(text) => GatewayId::new(text).map_err(|error| database(error.to_string()))?,
        None => GatewayId::generate(millis(), entropy()),
    };
    let known_place = read(&transaction, "place").map_err(sql)?;
    let epoch = match read(&transaction, "epoch").map_err(sql)? {
        Some(text) if known_place.as_deref() == Some(&place) => {
            StoreEpoch::new(text).map_err(|error| database(error.to_string()))?
        }
        Some(old) => {
            tracing::warn!(%old, "the data folder was copied or moved: a new life of the store begins");
            fresh_epoch()
        }
        None => fresh_epoch(),
    };
    let number =
        |key: &str| match read(&transaction, key).map_err(sql)? {
            None => Ok(0),
            // A number that cannot be right must not let numbers be given twice.
            Some(text) => text.parse().ok().filter(|number| *number <= LARGEST_NUMBER).ok_or_else(|| {
                database(format!("its {key} is {text:?}, which is no number from 0 to {LARGEST_NUMBER}"))
            }),
        };
    let last_commit = number("last_commit")?;
    let given = number("reserved")?.max(last_commit);
    let reserved = (given + BLOCK).to_string();
    for (key, value) in
        [("gateway", gateway.as_str()), ("epoch", epoch.as_str()), ("place", &place), ("reserved", &reserved)]
    {
        write(&transaction, key, value).map_err(sql)?;
    }
    transaction.commit().map_err(sql)?;
    Ok(Identity { gateway, epoch, last_commit, given })
}
