//! Forgetting what is past its time.

use rusqlite::{Connection, params};

/// Operations of a sandbox that is gone are kept this long (microseconds), so that whoever waits for one still finds it.
const KEEP_OPERATIONS: i64 = 3600 * 1_000_000;
/// Operations that a live subject keeps: its timeline.
const MOST_OPERATIONS: i64 = 50;

/// Removes what is past its time (microseconds since 1970); returns the ids of the sandboxes whose rows went.
pub(crate) fn expire(connection: &Connection, now: i64) -> rusqlite::Result<Vec<String>> {
    let transaction = connection.unchecked_transaction()?;
    let gone: Vec<String> = transaction
        .prepare_cached(
            "SELECT id FROM sandbox WHERE expires_at <= ?1
             AND NOT EXISTS (SELECT 1 FROM obligation WHERE obligation.subject = sandbox.id
                             AND json_extract(obligation.doc, '$.status') = 'open')
             AND NOT EXISTS (SELECT 1 FROM operation WHERE operation.subject = sandbox.id AND operation.open = 1)",
        )?
        .query_map([now], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for id in &gone {
        transaction.execute("DELETE FROM sandbox WHERE id = ?1", [id])?;
        transaction.execute("DELETE FROM state WHERE subject = ?1", [id])?;
    }
    transaction.execute("DELETE FROM request WHERE expires_at <= ?1", [now])?;
    // A repeated request is answered with its operation, so that one stays as long as the request.
    transaction.execute(
        "DELETE FROM operation WHERE open = 0
         AND id NOT IN (SELECT json_extract(doc, '$.operation') FROM request WHERE json_extract(doc, '$.operation') IS NOT NULL)
         AND (ended_at <= ?1 AND sandbox IS NOT NULL AND sandbox NOT IN (SELECT id FROM sandbox)
             OR id IN (
                 SELECT id FROM (
                     SELECT id, ROW_NUMBER() OVER (PARTITION BY subject ORDER BY number DESC, id DESC) AS place
                     FROM operation)
                 WHERE place > ?2))",
        params![now - KEEP_OPERATIONS, MOST_OPERATIONS],
    )?;
    transaction.execute(
        "DELETE FROM config WHERE digest NOT IN (
             SELECT json_extract(entry.value, '$.config') FROM sandbox, json_each(sandbox.doc, '$.chain') AS entry
             UNION SELECT json_extract(entry.value, '$.config') FROM workspace, json_each(workspace.doc, '$.chain') AS entry)",
        [],
    )?;
    transaction.commit()?;
    Ok(gone)
}
