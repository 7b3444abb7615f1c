//! A checksum in every row.
//!
//! `SQLite` notices a page that is no page, and not a bit that is another: a name, a number or a state of an extension
//! would be read wrong and acted upon. Each row therefore carries a checksum of its values, and all of them are looked at
//! when the store is opened.

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Row, ToSql};

use crate::reader::bytes;

/// A table: its name, what names a row, and the columns below its checksum, in the order of its `INSERT`.
pub(crate) struct Table {
    pub(crate) name: &'static str,
    key: &'static str,
    columns: &'static str,
    count: usize,
}

const fn table(name: &'static str, key: &'static str, columns: &'static str, count: usize) -> Table {
    Table { name, key, columns, count }
}

/// Every table.
pub(crate) const TABLES: [Table; 9] = [
    table("meta", "key", "key, value", 2),
    table("sandbox", "id", "id, workspace, name, name_held, number, expires_at, doc", 7),
    table("operation", "id", "id, subject, sandbox, open, number, ended_at, doc", 7),
    table("state", "subject || ' ' || extension", "subject, extension, key, doc", 4),
    table("config", "digest", "digest, doc", 2),
    table("obligation", "id", "id, subject, opened_at, doc", 4),
    table("workspace", "workspace || '/' || driver", "workspace, driver, ready, doc", 4),
    table("request", "request_id", "principal, method, request_id, expires_at, doc", 5),
    table("audit", "number", "doc", 1),
];

fn add(sum: &mut crc32fast::Hasher, value: ValueRef<'_>) {
    // Type and length first: no two rows of different values give the same bytes.
    let (tag, bytes): (u8, &[u8]) = match value {
        ValueRef::Null => (0, &[]),
        ValueRef::Integer(number) => {
            sum.update(&[1]);
            sum.update(&number.to_le_bytes());
            return;
        }
        ValueRef::Real(number) => {
            sum.update(&[2]);
            sum.update(&number.to_le_bytes());
            return;
        }
        ValueRef::Text(bytes) => (3, bytes),
        ValueRef::Blob(bytes) => (4, bytes),
    };
    sum.update(&[tag]);
    sum.update(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_le_bytes());
    sum.update(bytes);
}

/// The checksum of the values that a row is written with.
pub(crate) fn of(values: &[&dyn ToSql]) -> rusqlite::Result<u32> {
    let mut sum = crc32fast::Hasher::new();
    for value in values {
        match value.to_sql()? {
            ToSqlOutput::Borrowed(value) => add(&mut sum, value),
            ToSqlOutput::Owned(value) => add(&mut sum, (&value).into()),
            _ => return Err(rusqlite::Error::ToSqlConversionFailure("a value of a kind that no row has".into())),
        }
    }
    Ok(sum.finalize())
}

/// The checksum of the first so many columns of a row that is read.
pub(crate) fn of_row(row: &Row<'_>, columns: usize) -> rusqlite::Result<u32> {
    let mut sum = crc32fast::Hasher::new();
    for column in 0..columns {
        add(&mut sum, row.get_ref(column)?);
    }
    Ok(sum.finalize())
}

/// The first row whose values are not those that were written, by name.
pub(crate) fn wrong(connection: &Connection) -> rusqlite::Result<Option<String>> {
    for Table { name, key, columns, count } in &TABLES {
        let mut query = connection.prepare(&format!("SELECT {columns}, sum, CAST({key} AS BLOB) FROM {name}"))?;
        let mut found = query.query([])?;
        while let Some(row) = found.next()? {
            let stored: Option<u32> = row.get(*count).unwrap_or_default();
            if stored != Some(of_row(row, *count)?) {
                let key = String::from_utf8_lossy(&bytes(row, count + 1)?).into_owned();
                return Ok(Some(format!("row {key:?} of table {name} is not as it was written")));
            }
        }
    }
    Ok(None)
}

/// Gives every row its checksum: for a store of before there were any.
pub(crate) fn fill(connection: &Connection) -> rusqlite::Result<()> {
    for Table { name, columns, count, .. } in &TABLES {
        let key = match *name {
            "meta" => "key = ?1",
            "sandbox" | "operation" | "obligation" => "id = ?1",
            "state" => "subject = ?1 AND extension = ?2",
            "config" => "digest = ?1",
            "workspace" => "workspace = ?1 AND driver = ?2",
            "request" => "principal = ?1 AND method = ?2 AND request_id = ?3",
            _ => "number = ?1",
        };
        let keys = key.matches('?').count();
        // The audit's key is no part of its sum: it comes from a column further.
        let first = usize::from(*name == "audit");
        let mut query =
            connection.prepare(&format!("SELECT {columns}{} FROM {name}", if first == 1 { ", number" } else { "" }))?;
        let sums: Vec<(Vec<rusqlite::types::Value>, u32)> = query
            .query_map([], |row| {
                let key = (first..first + keys).map(|column| row.get(column)).collect::<rusqlite::Result<_>>()?;
                Ok((key, of_row(row, *count)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        let mut update = connection.prepare(&format!("UPDATE {name} SET sum = ?{} WHERE {key}", keys + 1))?;
        for (mut values, sum) in sums {
            values.push(i64::from(sum).into());
            update.execute(rusqlite::params_from_iter(values))?;
        }
    }
    Ok(())
}
