//! Whose store this is, and which life of it (design, rule 2a).

use std::path::Path;

use chiton_model::{GatewayId, StoreEpoch};
use rand::TryRngCore as _;
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::check::place_of;
use crate::error::sql;
use crate::{MachineFacts, StoreError, sum};

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
    connection
        .prepare_cached("INSERT OR REPLACE INTO meta (key, value, sum) VALUES (?1, ?2, ?3)")?
        .execute(params![key, value, sum::of(params![key, value])?])
        .map(drop)
}

/// Where a store is: another machine or another file is another life of it.
pub(crate) fn place(file: &Path, machine: &MachineFacts) -> Result<String, StoreError> {
    Ok(format!("{} {}", machine.machine, place_of(file)?))
}

/// Notes that a life has ended.
pub(crate) fn retire(connection: &Connection, old: &str) -> rusqlite::Result<()> {
    let mut epochs = earlier(connection)?;
    if !epochs.iter().any(|known| known == old) {
        epochs.push(old.to_owned());
    }
    write(connection, "earlier_epochs", &epochs.join(" "))
}

/// The lives that have ended, oldest first.
pub(crate) fn earlier(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let text = read(connection, "earlier_epochs")?.unwrap_or_default();
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

/// Begins a new life in place of the present one.
pub(crate) fn renew(connection: &Connection, epoch: &str) -> rusqlite::Result<()> {
    if let Some(old) = read(connection, "epoch")? {
        retire(connection, &old)?;
    }
    write(connection, "epoch", epoch)
}

/// Reads who the store is. A folder that was copied, or moved to another machine, begins a new life: objects of the old one
/// may be the original's.
pub(crate) fn establish(
    connection: &mut Connection,
    file: &Path,
    machine: &MachineFacts,
) -> Result<Identity, StoreError> {
    // Every row has the checksum that it was written with: what is wrong here was written wrong.
    let damaged = |what: String| StoreError::Damaged { file: file.to_owned(), what };
    let sql = |error: rusqlite::Error| sql(file)(error);
    let place = place(file, machine)?;
    let transaction = connection.transaction().map_err(sql)?;
    let gateway = match read(&transaction, "gateway").map_err(sql)? {
        Some(text) => GatewayId::new(text).map_err(|error| damaged(error.to_string()))?,
        None => GatewayId::generate(millis(), entropy()),
    };
    let known_place = read(&transaction, "place").map_err(sql)?;
    let epoch = match read(&transaction, "epoch").map_err(sql)? {
        Some(text) if known_place.as_deref() == Some(&place) => {
            StoreEpoch::new(text).map_err(|error| damaged(error.to_string()))?
        }
        Some(old) => {
            tracing::warn!(%old, "the data folder was copied or moved: a new life of the store begins");
            retire(&transaction, &old).map_err(sql)?;
            fresh_epoch()
        }
        None => fresh_epoch(),
    };
    let number =
        |key: &str| match read(&transaction, key).map_err(sql)? {
            None => Ok(0),
            // A number that cannot be right must not let numbers be given twice.
            Some(text) => text.parse().ok().filter(|number| *number <= LARGEST_NUMBER).ok_or_else(|| {
                damaged(format!("its {key} is {text:?}, which is no number from 0 to {LARGEST_NUMBER}"))
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
