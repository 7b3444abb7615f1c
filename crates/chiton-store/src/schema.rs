//! Tables and migrations. `PRAGMA user_version` is the schema's version; each migration takes it one further.

use std::collections::BTreeSet;
use std::path::Path;

use rusqlite::Connection;

use crate::StoreError;
use crate::error::sql;

/// The schema version that this build writes.
pub const SCHEMA_VERSION: u32 = 2;

const MIGRATIONS: [&str; 2] = ["
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE sandbox (
    id TEXT PRIMARY KEY, workspace TEXT NOT NULL, name TEXT NOT NULL, name_held INTEGER NOT NULL,
    number INTEGER NOT NULL, expires_at INTEGER, doc TEXT NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX sandbox_name ON sandbox (workspace, name) WHERE name_held = 1;
CREATE INDEX sandbox_named ON sandbox (workspace, name, number);
CREATE INDEX sandbox_expiry ON sandbox (expires_at) WHERE expires_at IS NOT NULL;
CREATE TABLE operation (
    id TEXT PRIMARY KEY, subject TEXT NOT NULL, sandbox TEXT, open INTEGER NOT NULL, number INTEGER NOT NULL,
    ended_at INTEGER, doc TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX operation_subject ON operation (subject, number);
CREATE INDEX operation_open ON operation (number) WHERE open = 1;
CREATE TABLE state (subject TEXT NOT NULL, extension TEXT NOT NULL, key TEXT NOT NULL, doc TEXT NOT NULL, PRIMARY KEY (subject, extension)) WITHOUT ROWID;
CREATE INDEX state_extension ON state (extension);
CREATE TABLE config (digest TEXT PRIMARY KEY, doc TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE obligation (id TEXT PRIMARY KEY, subject TEXT NOT NULL, opened_at INTEGER NOT NULL, doc TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE workspace (workspace TEXT NOT NULL, driver TEXT NOT NULL, ready INTEGER NOT NULL, doc TEXT NOT NULL, PRIMARY KEY (workspace, driver)) WITHOUT ROWID;
CREATE TABLE request (
    principal TEXT NOT NULL, method TEXT NOT NULL, request_id TEXT NOT NULL, expires_at INTEGER NOT NULL, doc TEXT NOT NULL,
    PRIMARY KEY (principal, method, request_id)
) WITHOUT ROWID;
CREATE INDEX request_expiry ON request (expires_at);
CREATE TABLE audit (number INTEGER PRIMARY KEY AUTOINCREMENT, doc TEXT NOT NULL);
", "
ALTER TABLE meta ADD COLUMN sum INTEGER;
ALTER TABLE sandbox ADD COLUMN sum INTEGER;
ALTER TABLE operation ADD COLUMN sum INTEGER;
ALTER TABLE state ADD COLUMN sum INTEGER;
ALTER TABLE config ADD COLUMN sum INTEGER;
ALTER TABLE obligation ADD COLUMN sum INTEGER;
ALTER TABLE workspace ADD COLUMN sum INTEGER;
ALTER TABLE request ADD COLUMN sum INTEGER;
ALTER TABLE audit ADD COLUMN sum INTEGER;
CREATE INDEX obligation_subject ON obligation (subject);
"];

/// Settings of every connection: readers do not wait for the writer, and a commit is on disk when it returns.
pub(crate) fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.pragma_update(None, "cell_size_check", "ON")?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// Brings the tables up to date. The store was looked at before: it is none of a newer version.
pub(crate) fn migrate(connection: &mut Connection, file: &Path) -> Result<(), StoreError> {
    let found: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(sql(file))?;
    if found >= SCHEMA_VERSION {
        return Ok(());
    }
    let transaction = connection.transaction().map_err(sql(file))?;
    for migration in &MIGRATIONS[usize::try_from(found).unwrap_or(0)..] {
        transaction.execute_batch(migration).map_err(sql(file))?;
    }
    if found == 1 {
        crate::sum::fill(&transaction).map_err(sql(file))?;
    }
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION).map_err(sql(file))?;
    transaction.commit().map_err(sql(file))
}

/// The definitions of a version's tables and indexes, as `SQLite` itself writes them down.
pub(crate) fn tables_of(version: u32) -> rusqlite::Result<BTreeSet<(String, String)>> {
    let connection = Connection::open_in_memory()?;
    for migration in MIGRATIONS.iter().take(usize::try_from(version).unwrap_or(0)) {
        connection.execute_batch(migration)?;
    }
    crate::check::objects(&connection)
}
