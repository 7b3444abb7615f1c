//! What the doctor says of a store, and that it changes nothing by looking.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use chiton_lifecycle::journal::Journal as _;
use chiton_store::{Level, SqliteStore, StoreFinding, StoreOptions, examine};
use common::child::{LOCKS, alone, may_mount, own_mounts, read_only, small_disk};
use common::dump::{files, lay};
use common::{begun, block_on, copy_store, put, put_operation, sandbox, store_all};
use rusqlite::Connection;

fn here(folder: &Path) -> SqliteStore {
    SqliteStore::open(StoreOptions::new(folder.to_owned()).unwrap()).unwrap()
}

/// A store of this machine with two sandboxes of its present life.
fn made(folder: &Path) -> PathBuf {
    let at = folder.join("store");
    let store = here(&at);
    let mine = |id: &str, named: &str| {
        let mut row = sandbox(id, named, 1);
        row.epoch = store.info().epoch;
        put(row)
    };
    let operation = begun(&store, "op-one", "s-one");
    store_all(&store, vec![put_operation(&operation), mine("s-one", "one"), mine("s-two", "two")]);
    at
}

/// What is there with the times of its last change: more than what is in it.
fn untouched(folder: &Path) -> Vec<(PathBuf, std::time::SystemTime, u64)> {
    let mut found: Vec<_> = [folder.to_owned(), folder.join("marks")]
        .iter()
        .flat_map(|part| fs::read_dir(part).unwrap())
        .map(|entry| {
            let path = entry.unwrap().path();
            let facts = fs::metadata(&path).unwrap();
            (path, facts.modified().unwrap(), facts.len())
        })
        .collect();
    found.sort();
    found
}

/// The finding of a check, and that looking changed nothing.
#[track_caller]
fn look(folder: &Path, check: &str) -> StoreFinding {
    let before = untouched(folder);
    let findings = examine(folder);
    assert_eq!(untouched(folder), before, "looking changed something");
    let found = findings.iter().find(|finding| finding.check == check);
    found.unwrap_or_else(|| panic!("nothing is said of {check}: {findings:#?}")).clone()
}

#[test]
fn a_sound_store_is_fine_in_everything() {
    let _nobody_starts_a_child = LOCKS.read();
    let folder = tempfile::tempdir().unwrap();
    let at = made(folder.path());
    let findings = examine(&at);
    assert!(findings.iter().all(|finding| finding.level == Level::Fine), "{findings:#?}");
    let database = look(&at, "database");
    assert!(database.detail.contains("2 sandboxes, 1 interrupted"), "{database:?}");
}

#[test]
fn without_a_store_that_is_said_and_none_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("store");
    let findings = examine(&at);
    assert_eq!((findings.len(), findings[0].state, findings[0].level), (1, "absent", Level::Note));
    assert!(!at.exists());
}

#[test]
fn a_store_that_a_gateway_holds_is_looked_at_and_its_holder_named() {
    let _nobody_starts_a_child = LOCKS.read();
    let folder = tempfile::tempdir().unwrap();
    let at = made(folder.path());
    let store = here(&at);
    let lock = look(&at, "lock");
    assert_eq!((lock.state, lock.level), ("locked", Level::Fine));
    assert!(lock.detail.contains(&std::process::id().to_string()), "{lock:?}");
    assert_eq!(look(&at, "database").level, Level::Fine);
    drop(store);
    assert_eq!(look(&at, "lock").state, "fine");
}

#[test]
fn what_a_killed_gateway_left_is_read_with_its_log() {
    let _nobody_starts_a_child = LOCKS.read();
    let folder = tempfile::tempdir().unwrap();
    let at = made(folder.path());
    let store = here(&at);
    let mut row = sandbox("s-late", "late", 9);
    row.epoch = store.info().epoch;
    store_all(&store, vec![put(row)]);
    let mut left = files(&at);
    drop(store);
    lay(&at, &left);
    assert!(look(&at, "database").detail.contains("3 sandboxes"));
    for (path, bytes) in &mut left {
        if path.ends_with("chiton.db-wal") {
            bytes.truncate(100);
        }
    }
    lay(&at, &left);
    let database = look(&at, "database");
    assert_eq!((database.state, database.level), ("damaged", Level::Bad));
    assert!(database.detail.contains("write-ahead log"), "{database:?}");
}

#[test]
fn damage_is_named_with_its_place_and_cure() {
    let _nobody_starts_a_child = LOCKS.read();
    let folder = tempfile::tempdir().unwrap();
    let at = made(folder.path());
    let database = Connection::open(at.join("chiton.db")).unwrap();
    database.execute("UPDATE sandbox SET workspace = 'other' WHERE id = 's-two'", []).unwrap();
    drop(database);
    let found = look(&at, "database");
    assert_eq!((found.state, found.level), ("damaged", Level::Bad));
    assert!(found.detail.contains("s-two") && found.cure.contains("chiton restore"), "{found:?}");
    fs::write(at.join("chiton.db"), b"rubbish").unwrap();
    assert_eq!(look(&at, "database").state, "damaged");
    fs::write(at.join("chiton.db"), b"").unwrap();
    assert_eq!(look(&at, "database").state, "damaged");
}

#[test]
fn a_newer_schema_is_named() {
    let _nobody_starts_a_child = LOCKS.read();
    let folder = tempfile::tempdir().unwrap();
    let at = made(folder.path());
    let set = |version: u32| {
        Connection::open(at.join("chiton.db")).unwrap().pragma_update(None, "user_version", version).unwrap();
    };
    set(chiton_store::SCHEMA_VERSION + 3);
    let found = look(&at, "database");
    assert_eq!((found.state, found.level), ("newer", Level::Bad));
}

#[test]
fn a_damaged_mark_log_is_a_note_that_says_what_it_means() {
    let _nobody_starts_a_child = LOCKS.read();
    let folder = tempfile::tempdir().unwrap();
    let at = made(folder.path());
    let segment = fs::read_dir(at.join("marks")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&segment).unwrap();
    bytes[20] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let found = look(&at, "marks");
    assert_eq!((found.state, found.level), ("damaged_marks", Level::Note));
    assert!(found.detail.contains("as if each of their steps might have run"), "{found:?}");
}

#[test]
fn held_rows_are_counted_by_epoch_and_a_copy_is_known() {
    let _nobody_starts_a_child = LOCKS.read();
    let folder = tempfile::tempdir().unwrap();
    let at = made(folder.path());
    let store = here(&at);
    let old = store.info().epoch;
    block_on(store.renew_epoch()).unwrap();
    drop(store);
    let held = look(&at, "held");
    assert!(held.detail.starts_with("2 sandboxes") && held.cure.contains(&format!("--adopt-epoch {old}")), "{held:?}");
    let copy = folder.path().join("copy");
    copy_store(&at, &copy);
    let life = look(&copy, "life");
    assert_eq!((life.state, life.level), ("copied", Level::Note));
}

#[test]
fn folders_that_others_can_reach_are_named() {
    let _nobody_starts_a_child = LOCKS.read();
    let folder = tempfile::tempdir().unwrap();
    let at = made(folder.path());
    let set = |mode| fs::set_permissions(&at, fs::Permissions::from_mode(mode)).unwrap();
    set(0o755);
    assert_eq!((look(&at, "folder").state, look(&at, "folder").level), ("open_to_others", Level::Note));
    set(0o775);
    let found = look(&at, "folder");
    assert_eq!((found.state, found.level), ("exposed", Level::Bad));
    assert!(found.cure.contains("chmod 700"), "{found:?}");
}

#[test]
fn little_room_and_a_read_only_disk_are_named() {
    const TEST: &str = "little_room_and_a_read_only_disk_are_named";
    if !may_mount(TEST) {
        return;
    }
    alone(TEST, || {
        own_mounts();
        let folder = tempfile::tempdir().unwrap();
        small_disk(folder.path(), 4096);
        let at = made(folder.path());
        let room = look(&at, "room");
        assert_eq!((room.state, room.level), ("nearly_full", Level::Bad));
        read_only(&at);
        let room = look(&at, "room");
        assert_eq!((room.state, room.level), ("read_only", Level::Bad));
        assert!(room.cure.contains("writable"), "{room:?}");
        assert_eq!(look(&at, "database").level, Level::Fine, "it can still be looked at");
    });
}
