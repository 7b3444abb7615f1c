//! A damaged database: it is refused by name, cause and cure and left as it is, or every row reads as it was written.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chiton_lifecycle::journal::{ExtensionState, Journal as _, JournalError, Subject, Write};
use chiton_model::Error;
use chiton_store::{SqliteStore, StoreError, StoreOptions};
use common::dump::{dump, files, lay};
use common::{
    begun, block_on, ended, machine, obligation, open, options, put, put_operation, request, sandbox, sandbox_id,
    store_all, workspace, writes,
};
use parking_lot::Mutex;
use proptest::prelude::*;
use rusqlite::Connection;

/// Some rows of every kind.
fn fill(store: &SqliteStore) {
    for number in 0..40 {
        let id = format!("s-{number:02}");
        let operation = begun(store, &format!("op-{number:02}"), &id);
        let state = ExtensionState { schema_version: 1, payload: serde_json::json!({"lease": number}) };
        let mut changes = vec![
            put(sandbox(&id, &format!("web-{number}"), number)),
            Write::PutState(Subject::Sandbox(sandbox_id(&id)), "lease".parse().unwrap(), state),
            put_operation(&if number % 8 == 0 { operation } else { ended(operation, 5) }),
        ];
        if number % 10 == 0 {
            changes.push(Write::PutObligation(Box::new(obligation(&format!("o-{number:02}"), &id))));
        }
        store_all(store, changes);
    }
    store_all(
        store,
        vec![
            Write::PutConfig { digest: "sha256:one".to_owned(), document: serde_json::json!({"a": 1}) },
            Write::PutWorkspace(Box::new(workspace(true))),
            Write::PutRequest(Box::new(request("r-one", "op-one", "s-00", 9))),
        ],
    );
}

/// A folder with a store as a killed process leaves it: part of it in the database, part in its write-ahead log.
struct Killed {
    folder: tempfile::TempDir,
    files: Vec<(PathBuf, Vec<u8>)>,
    rows: Vec<String>,
}

impl Killed {
    fn new(checkpointed: bool) -> Self {
        // In memory where there is some: what is looked at here is what is read, hundreds of times.
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let store = open(folder.path());
        fill(&store);
        if checkpointed {
            drop(store);
            // Opening writes a few rows, so that there is a log as well.
            let store = open(folder.path());
            store_all(&store, vec![put(sandbox("s-90", "late", 90))]);
            return Self::of(folder, store);
        }
        Self::of(folder, store)
    }

    fn of(folder: tempfile::TempDir, store: SqliteStore) -> Self {
        let rows = dump(&store).unwrap();
        let files = files(folder.path());
        drop(store);
        Self { folder, files, rows }
    }

    fn bytes(&self, name: &str) -> &[u8] {
        let path = self.folder.path().join(name);
        &self.files.iter().find(|(found, _)| *found == path).expect("the file").1
    }

    /// Opens it with one file changed. The rows when it opens.
    fn with(&self, name: &str, bytes: Option<Vec<u8>>) -> Result<Vec<String>, StoreError> {
        let path = self.folder.path().join(name);
        let mut changed: Vec<_> = self.files.iter().filter(|(found, _)| *found != path).cloned().collect();
        changed.extend(bytes.map(|bytes| (path, bytes)));
        changed.sort();
        lay(self.folder.path(), &changed);
        let before = files(self.folder.path());
        match SqliteStore::open(options(self.folder.path(), machine())) {
            Ok(store) => Ok(dump(&store).expect("what was opened can be read")),
            Err(error) => {
                let after = files(self.folder.path());
                let changed: Vec<_> = after.iter().filter(|file| !before.contains(file)).map(|file| &file.0).collect();
                let gone: Vec<_> = before.iter().filter(|file| !after.iter().any(|left| left.0 == file.0)).collect();
                assert!(changed.is_empty() && gone.is_empty(), "{error}: changed {changed:?}, {} are gone", gone.len());
                Err(error)
            }
        }
    }

    /// Every row is right, or it is refused as damaged.
    fn right_or_refused(&self, name: &str, bytes: Vec<u8>) -> bool {
        match self.with(name, Some(bytes)) {
            Ok(rows) => {
                assert_eq!(rows, self.rows, "a damaged {name} was read");
                true
            }
            // A flipped version looks like a newer one's.
            Err(StoreError::Damaged { .. } | StoreError::Newer { .. }) => false,
            Err(other) => panic!("a damaged {name} is reported as {other:?}"),
        }
    }
}

/// A store whose fatal failures are noted instead of ending the process.
fn noting(folder: &Path) -> (Result<SqliteStore, StoreError>, Arc<Mutex<Vec<String>>>) {
    let said = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&said);
    let fatal = Arc::new(move |why: &str| note.lock().push(why.to_owned()));
    let options = StoreOptions { folder: folder.to_owned(), machine: machine(), fatal };
    (SqliteStore::open(options), said)
}

/// Spoils the first page of the sandboxes' table, and nothing else.
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
fn damage_is_refused_with_file_place_and_cure() {
    let folder = tempfile::tempdir().unwrap();
    fill(&open(folder.path()));
    spoil_sandboxes(folder.path());
    let before = files(folder.path());
    let refused = SqliteStore::open(options(folder.path(), machine())).map(drop).unwrap_err();
    let error = Error::from(refused);
    let file = folder.path().join("chiton.db").display().to_string();
    assert!(error.message.contains(&file) && error.message.contains("page"), "{error:?}");
    assert!(error.cure.as_deref().unwrap_or_default().contains("chiton restore"), "{error:?}");
    assert!(files(folder.path()) == before, "the damaged store is as it was");
}

#[test]
fn damage_that_a_commit_meets_ends_the_store() {
    let folder = tempfile::tempdir().unwrap();
    fill(&open(folder.path()));
    let (store, said) = noting(folder.path());
    let store = store.unwrap();
    // It rots while it is open.
    spoil_sandboxes(folder.path());
    let failed = block_on(store.commit(writes(vec![put(sandbox("s-new", "new", 100))])));
    assert!(matches!(failed, Err(JournalError::Failed(_))), "{failed:?}");
    assert_eq!(said.lock().len(), 1, "the hook was called");
    assert!(said.lock()[0].contains("malformed"), "{:?}", said.lock());
    let after = block_on(store.commit(writes(Vec::new())));
    assert!(matches!(&after, Err(JournalError::Failed(why)) if why.contains("no longer be trusted")), "{after:?}");
    assert_eq!(said.lock().len(), 1, "it was called once");
    let read = block_on(store.sandbox(&sandbox_id("s-01")));
    assert!(matches!(read, Err(JournalError::Failed(_))), "{read:?}");
}

#[test]
fn a_changed_value_is_found_in_every_table() {
    let changes = [
        ("meta", "UPDATE meta SET value = value || '0' WHERE key = 'reserved'"),
        ("sandbox", "UPDATE sandbox SET doc = replace(doc, '\"restart\":false', '\"restart\":true') WHERE id = 's-03'"),
        ("operation", "UPDATE operation SET open = 0 WHERE id = 'op-08'"),
        ("state", "UPDATE state SET doc = replace(doc, '3', '4') WHERE doc LIKE '%3%'"),
        ("config", "UPDATE config SET doc = '{\"a\":2}'"),
        ("obligation", "UPDATE obligation SET opened_at = 7 WHERE id = 'o-10'"),
        ("workspace", "UPDATE workspace SET ready = 0"),
        ("request", "UPDATE request SET expires_at = 1"),
        ("audit", "INSERT INTO audit (doc) VALUES ('{}')"),
    ];
    for (table, change) in changes {
        let folder = tempfile::tempdir().unwrap();
        fill(&open(folder.path()));
        let rows = Connection::open(folder.path().join("chiton.db")).unwrap().execute(change, []).unwrap();
        assert_ne!(rows, 0, "{change}");
        match SqliteStore::open(options(folder.path(), machine())) {
            Err(StoreError::Damaged { what, .. }) => assert!(what.contains(&format!("of table {table}")), "{what}"),
            other => panic!("{change}: {:?}", other.map(drop)),
        }
    }
}

#[test]
fn a_name_let_go_keeps_its_row_sound() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    fill(&store);
    store_all(&store, vec![Write::ReleaseName(sandbox_id("s-03"))]);
    drop(store);
    let row = block_on(open(folder.path()).sandbox(&sandbox_id("s-03"))).unwrap().unwrap();
    assert!(!row.name_held);
}

#[test]
fn a_database_that_is_gone_or_empty_is_not_taken_for_a_new_one() {
    let killed = Killed::new(true);
    for bytes in [None, Some(Vec::new())] {
        let refused = killed.with("chiton.db", bytes).unwrap_err();
        assert!(matches!(&refused, StoreError::Damaged { what, .. } if what.contains("gone or empty")), "{refused:?}");
    }
}

#[test]
fn a_lost_write_ahead_log_is_noticed() {
    let killed = Killed::new(false);
    for bytes in [None, Some(Vec::new())] {
        let refused = killed.with("chiton.db-wal", bytes).unwrap_err();
        assert!(
            matches!(&refused, StoreError::Damaged { what, .. } if what.contains("write-ahead log")),
            "{refused:?}"
        );
    }
    assert_eq!(killed.with("none", None).unwrap(), killed.rows, "undamaged it opens");
}

#[test]
fn an_older_database_in_the_same_place_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    fill(&open(folder.path()));
    let older = fs::read(folder.path().join("chiton.db")).unwrap();
    let store = open(folder.path());
    store_all(&store, vec![put(sandbox("s-90", "late", 90))]);
    drop(store);
    fs::write(folder.path().join("chiton.db"), older).unwrap();
    let refused = SqliteStore::open(options(folder.path(), machine())).map(drop).unwrap_err();
    assert!(matches!(&refused, StoreError::Damaged { what, .. } if what.contains("was made durable")), "{refused:?}");
}

#[test]
fn a_lost_renewal_of_the_epoch_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store_all(&store, vec![put(sandbox("s-90", "late", 90))]);
    drop(store);
    let store = open(folder.path());
    let wal_before = fs::read(folder.path().join("chiton.db-wal")).unwrap();
    block_on(store.renew_epoch()).unwrap();
    let mut after = files(folder.path());
    drop(store);
    for (path, bytes) in &mut after {
        if path.ends_with("chiton.db-wal") {
            bytes.truncate(wal_before.len());
        }
    }
    lay(folder.path(), &after);
    let refused = SqliteStore::open(options(folder.path(), machine())).map(drop).unwrap_err();
    assert!(matches!(&refused, StoreError::Damaged { what, .. } if what.contains("its life")), "{refused:?}");
}

#[test]
fn a_spoilt_note_costs_nothing_but_the_look_at_it() {
    let killed = Killed::new(false);
    for bytes in [None, Some(Vec::new()), Some(vec![b'x'; 512])] {
        assert_eq!(killed.with("witness", bytes).unwrap(), killed.rows);
    }
}

/// Flips and cuts at chosen places.
fn spoilt(bytes: &[u8], flips: Vec<(prop::sample::Index, u8)>, cut: Option<prop::sample::Index>) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for (at, mask) in flips {
        let at = at.index(bytes.len());
        bytes[at] ^= mask;
    }
    if let Some(cut) = cut {
        bytes.truncate(cut.index(bytes.len()));
    }
    bytes
}

fn flips(most: usize) -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    prop::collection::vec((any::<prop::sample::Index>(), (0..8_u32).prop_map(|bit| 1 << bit)), 1..=most)
}

/// Runs the same folder through many damages: making it anew each time would take most of the time.
fn cases(damages: u32, checkpointed: bool, name: &str) {
    let killed = Killed::new(checkpointed);
    let config = ProptestConfig { cases: damages, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let opened = std::cell::Cell::new(0);
    let strategy = (flips(3), prop::option::weighted(0.2, any::<prop::sample::Index>()));
    runner
        .run(&strategy, |(flips, cut)| {
            let bytes = spoilt(killed.bytes(name), flips, cut);
            opened.set(opened.get() + u32::from(killed.right_or_refused(name, bytes)));
            Ok(())
        })
        .unwrap();
    println!("{name}: {damages} damages, {} of them where nothing is stored, the others refused", opened.get());
    assert!(opened.get() < damages, "nothing was noticed");
}

#[test]
fn a_spoilt_database_is_refused_or_reads_right() {
    cases(160, true, "chiton.db");
}

#[test]
fn a_spoilt_write_ahead_log_is_refused_or_reads_right() {
    cases(160, false, "chiton.db-wal");
}

#[test]
fn every_byte_of_the_header_is_looked_after() {
    let killed = Killed::new(true);
    // Of the formats' and the encoding's bytes each bit, of the others one.
    let bits = (0..100 * 8).filter(|bit| [18, 19, 59].contains(&(bit / 8)) || bit % 8 == bit / 8 % 8);
    for bit in bits {
        let mut bytes = killed.bytes("chiton.db").to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        killed.right_or_refused("chiton.db", bytes);
    }
}
