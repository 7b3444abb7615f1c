//! Forgetting what is past its time.

use chiton_lifecycle::journal::JournalError;
use chiton_model::SandboxId;
use rusqlite::{Connection, params};

use crate::rows::failed;

/// Operations of a sandbox that is gone are kept this long, so that whoever waits for one still finds it.
const KEEP_OPERATIONS: i64 = 3600;
/// Operations that a live subject keeps: its timeline.
const MOST_OPERATIONS: i64 = 50;

/// Removes what is past its time; returns the sandboxes whose rows went.
pub(crate) fn expire(connection: &Connection, now: i64) -> Result<Vec<SandboxId>, JournalError> {
    let run = || -> rusqlite::Result<Vec<String>> {
        let transaction = connection.unchecked_transaction()?;
        let gone: Vec<String> = transaction
            .prepare_cached("SELECT id FROM sandbox WHERE expires_at <= ?1")?
            .query_map([now], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        for id in &gone {
            transaction.execute("DELETE FROM sandbox WHERE id = ?1", [id])?;
            transaction.execute("DELETE FROM state WHERE subject = ?1", [id])?;
        }
        transaction.execute("DELETE FROM request WHERE expires_at <= ?1", [now])?;
        transaction.execute(
            "DELETE FROM operation WHERE open = 0 AND sandbox IS NOT NULL AND ended_at <= ?1
             AND sandbox NOT IN (SELECT id FROM sandbox)",
            [now - KEEP_OPERATIONS],
        )?;
        transaction.execute(
            "DELETE FROM operation WHERE open = 0 AND id IN (
                 SELECT id FROM (SELECT id, ROW_NUMBER() OVER (PARTITION BY subject ORDER BY number DESC) AS place FROM operation)
                 WHERE place > ?1)",
            params![MOST_OPERATIONS],
        )?;
        transaction.execute(
            "DELETE FROM config WHERE digest NOT IN (
                 SELECT json_extract(entry.value, '$.config') FROM sandbox, json_each(sandbox.doc, '$.chain') AS entry
                 UNION SELECT json_extract(entry.value, '$.config') FROM workspace, json_each(workspace.doc, '$.chain') AS entry)",
            [],
        )?;
        transaction.commit()?;
        Ok(gone)
    };
    let gone = run().map_err(|error| failed(&error))?;
    gone.into_iter().map(|id| SandboxId::new(id).map_err(|error| JournalError::Unreadable(error.message))).collect()
}
