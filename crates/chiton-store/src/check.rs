//! Whether what is stored is what was stored. Reads only: a store that is refused is left as it is, its write-ahead log
//! included, which the first writer would fold into the database.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use crate::error::{sql, unsound};
use crate::folder::io;
use crate::schema::{SCHEMA_VERSION, tables_of};
use crate::witness::{self, Note};
use crate::{StoreError, identity, sum};

/// The database of a store.
pub(crate) fn database_of(folder: &Path) -> PathBuf {
    folder.join("chiton.db")
}

/// Which file it is, as long as it stays where it is.
pub(crate) fn place_of(file: &Path) -> Result<String, StoreError> {
    let found = std::fs::metadata(file).map_err(io(file))?;
    Ok(format!("{}:{}", found.dev(), found.ino()))
}

/// Looks at the database of a folder before anything writes to it. Whether there is one.
pub(crate) fn look(folder: &Path) -> Result<bool, StoreError> {
    let file = database_of(folder);
    let size = match std::fs::metadata(&file) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => return Err(io(&file)(error)),
    };
    let note = witness::read(folder);
    if size == 0 {
        // A folder in which a store once lived is not taken for a new one.
        return match note {
            None => Ok(false),
            Some(_) => Err(StoreError::Damaged { file, what: "it is gone or empty, and it was not".to_owned() }),
        };
    }
    header(&file)?;
    // Noted of another file: the folder was copied, and its note may be older or newer than the copy.
    let place = place_of(&file)?;
    let note = note.filter(|note| note.file == place);
    let connection =
        Connection::open_with_flags(&file, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
            .map_err(sql(&file))?;
    connection.busy_timeout(std::time::Duration::from_secs(5)).map_err(sql(&file))?;
    sound(&connection, folder, &file, note.as_ref())?;
    Ok(true)
}

/// `SQLite` reads a database whose header names a format to come, and only then finds that it cannot write to it.
pub(crate) fn header(file: &Path) -> Result<(), StoreError> {
    let mut head = [0; 20];
    let read = std::fs::File::open(file).and_then(|mut file| file.read_exact(&mut head));
    match read {
        Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => Err(io(file)(error)),
        // Write and read version: rollback journal or write-ahead log, and both the same.
        Ok(()) if matches!(head[18..], [1, 1] | [2, 2]) => Ok(()),
        _ => Err(StoreError::Damaged { file: file.to_owned(), what: "its header is none of a database".to_owned() }),
    }
}

/// Looks at a database that is open.
pub(crate) fn sound(
    connection: &Connection,
    folder: &Path,
    file: &Path,
    note: Option<&Note>,
) -> Result<(), StoreError> {
    let damaged = |what: String| Err(StoreError::Damaged { file: file.to_owned(), what });
    let version: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(unsound(file))?;
    if version > SCHEMA_VERSION {
        return Err(StoreError::Newer { folder: folder.to_owned(), found: version, known: SCHEMA_VERSION });
    }
    let faults = faults(connection).map_err(unsound(file))?;
    if let Some(fault) = faults.first() {
        return damaged(format!("{fault}{}", if faults.len() > 1 { ", and more" } else { "" }));
    }
    if objects(connection).map_err(unsound(file))? != tables_of(version).map_err(unsound(file))? {
        return damaged(format!("its tables are not those of schema version {version}"));
    }
    if version >= 2
        && let Some(row) = sum::wrong(connection).map_err(unsound(file))?
    {
        return damaged(row);
    }
    let Some(note) = note else { return Ok(()) };
    let last = if version == 0 { None } else { identity::read(connection, "last_commit").map_err(unsound(file))? };
    let last = last.and_then(|text| text.parse().ok()).unwrap_or(0);
    if note.last_commit > last {
        return damaged(format!(
            "commit {} was made durable and the last one that is there is {last}: a part of its write-ahead log is gone or cannot be read",
            note.last_commit
        ));
    }
    let epoch = if version == 0 { None } else { identity::read(connection, "epoch").map_err(unsound(file))? };
    if epoch.as_deref() != Some(note.epoch.as_str()) {
        return damaged(format!(
            "its life {} was made durable and {} is there: a part of its write-ahead log is gone or cannot be read",
            note.epoch,
            epoch.as_deref().unwrap_or("none")
        ));
    }
    Ok(())
}

/// What `SQLite` itself finds wrong with pages, trees and indexes.
fn faults(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut query = connection.prepare("PRAGMA integrity_check(2)")?;
    let lines: Vec<String> = query.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    Ok(lines.into_iter().filter(|line| line != "ok").map(|line| line.replace('\n', "; ")).collect())
}

/// The definitions of its tables and indexes.
pub(crate) fn objects(connection: &Connection) -> rusqlite::Result<BTreeSet<(String, String)>> {
    connection
        .prepare("SELECT name, coalesce(sql, '') FROM sqlite_schema")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}
