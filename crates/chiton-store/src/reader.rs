//! Look-ups: short, on connections of their own, which never wait for the writer.

use std::path::{Path, PathBuf};

use chiton_lifecycle::journal::JournalError;
use chiton_model::printable;
use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, Params, Row};
use serde::de::DeserializeOwned;

use crate::rows::failed;
use crate::schema::configure;

/// Idle connections that are kept.
const KEEP: usize = 8;

/// Connections for reading.
pub(crate) struct Readers {
    file: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(crate) fn new(file: &Path) -> Self {
        Self { file: file.to_owned(), idle: Mutex::default() }
    }

    fn with<T>(&self, look: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, JournalError> {
        let idle = self.idle.lock().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => self.open()?,
        };
        let found = look(&connection).map_err(|error| failed(&error));
        let mut idle = self.idle.lock();
        if idle.len() < KEEP {
            idle.push(connection);
        }
        found
    }

    /// Another connection. It cannot write, whatever it is told; it is opened for writing all the same, because only then
    /// does `SQLite` keep the shared memory of the write-ahead log in order.
    fn open(&self) -> Result<Connection, JournalError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Connection::open_with_flags(&self.file, flags)
            .and_then(|connection| {
                configure(&connection)?;
                connection.pragma_update(None, "query_only", "ON")?;
                Ok(connection)
            })
            .map_err(|error| match error.sqlite_error_code() {
                // It does not say why. As a rule no descriptor is left, and then another file cannot be opened either.
                Some(rusqlite::ErrorCode::CannotOpen) => match std::fs::File::open(&self.file) {
                    Err(why) => JournalError::Failed(format!("the database cannot be opened for reading: {why}")),
                    Ok(_) => failed(&error),
                },
                _ => failed(&error),
            })
    }

    /// All rows of a query.
    pub(crate) fn rows<T>(
        &self,
        sql: &str,
        values: impl Params,
        take: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, JournalError> {
        self.with(|connection| connection.prepare_cached(sql)?.query_map(values, take)?.collect())
    }

    /// Documents of a query whose first column is what the row is called, and whose second is the document.
    pub(crate) fn documents<T: DeserializeOwned>(
        &self,
        sql: &str,
        values: impl Params,
    ) -> Result<Vec<T>, JournalError> {
        let rows = self.rows(sql, values, |row| Ok((row.get::<_, String>(0)?, bytes(row, 1)?)))?;
        rows.into_iter().map(|(name, doc)| decode(&name, &doc)).collect()
    }

    /// The first of them.
    pub(crate) fn document<T: DeserializeOwned>(
        &self,
        sql: &str,
        values: impl Params,
    ) -> Result<Option<T>, JournalError> {
        Ok(self.documents(sql, values)?.into_iter().next())
    }
}

/// A document's bytes, also where damage has made them no text; what is no text at all is no document either.
pub(crate) fn bytes(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<u8>> {
    Ok(row.get_ref(column)?.as_bytes().map(<[u8]>::to_vec).unwrap_or_default())
}

/// A document as its record. One that does not fit is named, not skipped.
pub(crate) fn decode<T: DeserializeOwned>(name: &str, doc: &[u8]) -> Result<T, JournalError> {
    // The library quotes names of unknown fields as they are.
    serde_json::from_slice(doc)
        .map_err(|error| JournalError::Unreadable(format!("{name}: {}", printable(&error.to_string()))))
}
