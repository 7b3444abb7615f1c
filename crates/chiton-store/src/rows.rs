//! Commits as rows: encoded by the caller's thread, applied by the writer's.

use chiton_lifecycle::journal::{Check, Commit, JournalError, Subject, Write};
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::Serialize;

use crate::sum;

/// A change, encoded.
pub(crate) enum Row {
    Sandbox {
        id: String,
        workspace: String,
        name: String,
        held: bool,
        number: i64,
        expires_at: Option<i64>,
        doc: String,
    },
    NoSandbox {
        id: String,
        subject: String,
    },
    ReleaseName {
        id: String,
    },
    Config {
        digest: String,
        doc: String,
    },
    Operation {
        id: String,
        subject: String,
        sandbox: Option<String>,
        open: bool,
        number: i64,
        ended_at: Option<i64>,
        doc: String,
    },
    State {
        subject: String,
        extension: String,
        key: String,
        doc: String,
    },
    NoState {
        subject: String,
        extension: String,
    },
    Obligation {
        id: String,
        subject: String,
        opened_at: i64,
        doc: String,
    },
    NoObligation {
        id: String,
    },
    Workspace {
        workspace: String,
        driver: String,
        ready: bool,
        doc: String,
    },
    NoWorkspace {
        workspace: String,
        driver: String,
    },
    Request {
        principal: String,
        method: String,
        request_id: String,
        expires_at: i64,
        doc: String,
    },
    Audit {
        doc: String,
    },
}

/// `SQLite`'s integers are signed; commit numbers never come near the limit.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(crate) fn doc<T: Serialize>(value: &T) -> Result<String, JournalError> {
    serde_json::to_string(value)
        .map_err(|error| JournalError::Failed(format!("a record could not be encoded: {error}")))
}

/// Encodes a commit's changes.
pub(crate) fn encode(commit: &Commit) -> Result<Vec<Row>, JournalError> {
    commit.writes.iter().map(row).collect()
}

fn row(write: &Write) -> Result<Row, JournalError> {
    Ok(match write {
        Write::PutSandbox(record) => Row::Sandbox {
            id: record.id.to_string(),
            workspace: record.workspace.to_string(),
            name: record.name.to_string(),
            held: record.name_held,
            number: signed(record.commit),
            // A row that owes something is kept however old it is.
            expires_at: record.expires_at.filter(|_| record.debts.is_empty()).map(jiff::Timestamp::as_microsecond),
            doc: doc(record)?,
        },
        Write::RemoveSandbox(id) => {
            Row::NoSandbox { id: id.to_string(), subject: Subject::Sandbox(id.clone()).to_string() }
        }
        Write::ReleaseName(id) => Row::ReleaseName { id: id.to_string() },
        Write::PutConfig { digest, document } => Row::Config { digest: digest.clone(), doc: doc(document)? },
        Write::PutOperation(record) => Row::Operation {
            id: record.id.to_string(),
            subject: record.subject.to_string(),
            sandbox: record.subject.sandbox().map(ToString::to_string),
            open: record.outcome.is_none(),
            number: signed(record.commit),
            ended_at: record.ended_at.map(jiff::Timestamp::as_microsecond),
            doc: doc(record)?,
        },
        Write::PutState(subject, extension, state) => Row::State {
            subject: subject.to_string(),
            extension: extension.to_string(),
            key: doc(subject)?,
            doc: doc(state)?,
        },
        Write::RemoveState(subject, extension) => {
            Row::NoState { subject: subject.to_string(), extension: extension.to_string() }
        }
        Write::PutObligation(record) => Row::Obligation {
            id: record.id.clone(),
            subject: record.subject.to_string(),
            opened_at: record.opened_at.as_microsecond(),
            doc: doc(record)?,
        },
        Write::RemoveObligation(id) => Row::NoObligation { id: id.clone() },
        Write::PutWorkspace(record) => Row::Workspace {
            workspace: record.key.workspace.to_string(),
            driver: record.key.driver.to_string(),
            ready: record.ready,
            doc: doc(record)?,
        },
        Write::RemoveWorkspace(key) => {
            Row::NoWorkspace { workspace: key.workspace.to_string(), driver: key.driver.to_string() }
        }
        Write::PutRequest(record) => Row::Request {
            principal: record.key.principal.clone(),
            method: record.key.method.clone(),
            request_id: record.key.request_id.clone(),
            expires_at: record.expires_at.as_microsecond(),
            doc: doc(record)?,
        },
        Write::Audit(record) => Row::Audit { doc: doc(record)? },
    })
}

/// A failure of `SQLite` as the journal's.
pub(crate) fn failed(error: &rusqlite::Error) -> JournalError {
    if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull) {
        return JournalError::Full(error.to_string());
    }
    JournalError::Failed(error.to_string())
}

/// Why a commit is not stored.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Something that it asks for does not hold.
    Check(JournalError),
    /// `SQLite` failed.
    Sql(rusqlite::Error),
}

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

/// Applies checks and changes inside a transaction.
pub(crate) fn apply(connection: &Connection, checks: &[Check], rows: &[Row]) -> Result<(), Refusal> {
    // Names that the commit frees count as free for its own checks.
    for row in rows {
        if let Row::ReleaseName { id } = row {
            release_name(connection, id)?;
        }
    }
    for check in checks {
        verify(connection, check)?;
    }
    for row in rows {
        put(connection, row).or_else(|error| taken(connection, row, error))?;
    }
    Ok(())
}

/// A change that failed. A name that another row holds is told as such, also where no check asked for it: the index on
/// held names is the only constraint that a sandbox's row can break.
fn taken(connection: &Connection, row: &Row, error: rusqlite::Error) -> Result<(), Refusal> {
    if let Row::Sandbox { workspace, name, .. } = row
        && error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation)
    {
        free(connection, workspace, name)?;
    }
    Err(error.into())
}

/// An error when a row holds the name.
fn free(connection: &Connection, workspace: &str, name: &str) -> Result<(), Refusal> {
    let holder: Option<String> = connection
        .prepare_cached("SELECT id FROM sandbox WHERE workspace = ?1 AND name = ?2 AND name_held = 1")?
        .query_row([workspace, name], |row| row.get(0))
        .optional()?;
    match holder {
        None => Ok(()),
        Some(id) => Err(Refusal::Check(id.try_into().map_or_else(
            |error: chiton_model::Error| JournalError::Unreadable(error.message),
            |holder| JournalError::NameHeld { holder },
        ))),
    }
}

fn verify(connection: &Connection, check: &Check) -> Result<(), Refusal> {
    match check {
        Check::NameFree(workspace, name) => free(connection, workspace.as_str(), name.as_str()),
        Check::WorkspaceReady(key) => {
            let ready: Option<bool> = connection
                .prepare_cached("SELECT ready FROM workspace WHERE workspace = ?1 AND driver = ?2")?
                .query_row([key.workspace.as_str(), key.driver.as_str()], |row| row.get(0))
                .optional()?;
            if ready == Some(true) { Ok(()) } else { Err(Refusal::Check(JournalError::WorkspaceGone)) }
        }
        Check::WorkspaceUnused(workspace) => {
            let count: i64 = connection
                .prepare_cached("SELECT COUNT(*) FROM sandbox WHERE workspace = ?1")?
                .query_row([workspace.as_str()], |row| row.get(0))?;
            if count == 0 { Ok(()) } else { Err(Refusal::Check(JournalError::WorkspaceInUse(count.unsigned_abs()))) }
        }
    }
}

/// The row's column and its document let go of the name together.
fn release_name(connection: &Connection, id: &str) -> rusqlite::Result<()> {
    let sum = connection
        .prepare_cached(
            "UPDATE sandbox SET name_held = 0, doc = json_set(doc, '$.name_held', json('false')) WHERE id = ?1
             RETURNING id, workspace, name, name_held, number, expires_at, doc",
        )?
        .query_row([id], |row| sum::of_row(row, 7))
        .optional()?;
    let Some(sum) = sum else { return Ok(()) };
    connection.prepare_cached("UPDATE sandbox SET sum = ?1 WHERE id = ?2")?.execute(params![sum, id]).map(drop)
}

fn put(connection: &Connection, row: &Row) -> rusqlite::Result<()> {
    let run = |sql: &str, values: &[&dyn rusqlite::ToSql]| connection.prepare_cached(sql)?.execute(values).map(drop);
    // With its checksum as the last value.
    let insert = |sql: &str, values: &[&dyn rusqlite::ToSql]| {
        let sum = sum::of(values)?;
        let values: Vec<&dyn rusqlite::ToSql> = values.iter().copied().chain([&sum as &dyn rusqlite::ToSql]).collect();
        run(sql, &values)
    };
    match row {
        Row::Sandbox { id, workspace, name, held, number, expires_at, doc } => insert(
            // Not INSERT OR REPLACE: that would remove the row that holds the name.
            "INSERT INTO sandbox (id, workspace, name, name_held, number, expires_at, doc, sum) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT (id) DO UPDATE SET workspace = excluded.workspace, name = excluded.name, name_held = excluded.name_held,
                 number = excluded.number, expires_at = excluded.expires_at, doc = excluded.doc, sum = excluded.sum",
            params![id, workspace, name, held, number, expires_at, doc],
        ),
        Row::NoSandbox { id, subject } => {
            run("DELETE FROM sandbox WHERE id = ?1", params![id])?;
            run("DELETE FROM state WHERE subject = ?1", params![subject])
        }
        // Applied before the checks.
        Row::ReleaseName { .. } => Ok(()),
        Row::Config { digest, doc } => {
            insert("INSERT OR IGNORE INTO config (digest, doc, sum) VALUES (?1, ?2, ?3)", params![digest, doc])
        }
        Row::Operation { id, subject, sandbox, open, number, ended_at, doc } => insert(
            "INSERT OR REPLACE INTO operation (id, subject, sandbox, open, number, ended_at, doc, sum) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![id, subject, sandbox, open, number, ended_at, doc],
        ),
        Row::State { subject, extension, key, doc } => insert(
            "INSERT OR REPLACE INTO state (subject, extension, key, doc, sum) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![subject, extension, key, doc],
        ),
        Row::NoState { subject, extension } => {
            run("DELETE FROM state WHERE subject = ?1 AND extension = ?2", params![subject, extension])
        }
        Row::Obligation { id, subject, opened_at, doc } => insert(
            "INSERT OR REPLACE INTO obligation (id, subject, opened_at, doc, sum) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![id, subject, opened_at, doc],
        ),
        Row::NoObligation { id } => run("DELETE FROM obligation WHERE id = ?1", params![id]),
        Row::Workspace { workspace, driver, ready, doc } => insert(
            "INSERT OR REPLACE INTO workspace (workspace, driver, ready, doc, sum) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![workspace, driver, ready, doc],
        ),
        Row::NoWorkspace { workspace, driver } => {
            run("DELETE FROM workspace WHERE workspace = ?1 AND driver = ?2", params![workspace, driver])
        }
        Row::Request { principal, method, request_id, expires_at, doc } => insert(
            "INSERT OR REPLACE INTO request (principal, method, request_id, expires_at, doc, sum) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![principal, method, request_id, expires_at, doc],
        ),
        Row::Audit { doc } => insert("INSERT INTO audit (doc, sum) VALUES (?1, ?2)", params![doc]),
    }
}
