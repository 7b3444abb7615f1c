//! A damaged database: a clear error or sound records, never a panic, and no business as usual.

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use chiton_lifecycle::journal::{Journal as _, JournalError, SandboxQuery};
use chiton_store::{SqliteStore, StoreOptions};
use common::{at, begun, block_on, machine, open, put, put_operation, sandbox, sandbox_id, store_all, writes};
use parking_lot::Mutex;
use proptest::prelude::*;
use rusqlite::Connection;

/// A closed store with some rows.
fn filled(folder: &Path) {
    let store = open(folder);
    let mut changes: Vec<_> =
        (0..60).map(|number| put(sandbox(&format!("s-{number:02}"), &format!("web-{number}"), number))).collect();
    changes.push(put_operation(&begun(&store, "op-one", "s-00")));
    store_all(&store, changes);
}

/// A store whose fatal failures are noted instead of ending the process.
fn noting(folder: &Path) -> (Result<SqliteStore, chiton_store::StoreError>, Arc<Mutex<Vec<String>>>) {
    let said = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&said);
    let fatal = Arc::new(move |why: &str| note.lock().push(why.to_owned()));
    let options = StoreOptions { folder: folder.to_owned(), machine: machine(), fatal };
    (SqliteStore::open(options), said)
}

/// Spoils every page of the sandboxes' table, and of nothing else.
fn spoil_sandboxes(folder: &Path) {
    let file = folder.join("chiton.db");
    let database = Connection::open(&file).unwrap();
    let number = |sql| {
        let number: u32 = database.query_row(sql, [], |row| row.get(0)).unwrap();
        usize::try_from(number).unwrap()
    };
    let root = number("SELECT rootpage FROM sqlite_schema WHERE name = 'sandbox'");
    let size = number("PRAGMA page_size");
    drop(database);
    let mut bytes = fs::read(&file).unwrap();
    bytes[(root - 1) * size..root * size].fill(0xee);
    fs::write(file, bytes).unwrap();
}

#[test]
fn damage_that_a_commit_meets_ends_the_store() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path());
    spoil_sandboxes(folder.path());
    let (store, said) = noting(folder.path());
    let store = store.unwrap();
    let failed = block_on(store.commit(writes(vec![put(sandbox("s-new", "new", 100))])));
    assert!(matches!(failed, Err(JournalError::Failed(_))), "{failed:?}");
    assert_eq!(said.lock().len(), 1, "the hook was called");
    assert!(said.lock()[0].contains("malformed"), "{:?}", said.lock());
    let after = block_on(store.commit(writes(Vec::new())));
    assert!(matches!(&after, Err(JournalError::Failed(why)) if why.contains("no longer be trusted")), "{after:?}");
    assert_eq!(said.lock().len(), 1, "it was called once");
}

#[test]
fn damage_that_a_reader_meets_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path());
    spoil_sandboxes(folder.path());
    let (store, _) = noting(folder.path());
    let found = block_on(store.unwrap().sandbox(&sandbox_id("s-01")));
    assert!(matches!(found, Err(JournalError::Failed(_))), "{found:?}");
}

/// Everything that can be asked; what it answers does not matter here.
fn use_all(store: &SqliteStore) {
    drop(block_on(store.open_operations()));
    drop(block_on(store.sandboxes(&SandboxQuery { all: true, ..SandboxQuery::default() })));
    drop(block_on(store.obligations()));
    drop(block_on(store.state_keys()));
    drop(block_on(store.workspaces()));
    drop(block_on(store.expire(at(1))));
    drop(block_on(store.commit(writes(vec![put(sandbox("s-new", "new", 100))]))));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_or_cut_database_never_panics(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 0..40),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let folder = tempfile::tempdir().unwrap();
        filled(folder.path());
        let file = folder.path().join("chiton.db");
        let mut bytes = fs::read(&file).unwrap();
        for (at, mask) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= mask;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        fs::write(&file, bytes).unwrap();
        let (store, _) = noting(folder.path());
        if let Ok(store) = store {
            use_all(&store);
            // A writer that had panicked would have dropped the answer.
            let last = block_on(store.commit(writes(Vec::new())));
            prop_assert!(!matches!(&last, Err(JournalError::Failed(why)) if why.contains("writer has ended")));
        }
    }
}
