//! A store as one file, and back.

mod common;

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use chiton_lifecycle::journal::Journal as _;
use chiton_store::{BackupFile, Manifest, Snapshot, SqliteStore, StoreError, StoreOptions, restore, save_offline};
use common::dump::dump;
use common::{begun, block_on, open, put, put_operation, sandbox, sandbox_id, store_all};

/// Writes a snapshot as a backup.
fn write(snapshot: Snapshot, target: &Path) -> (Manifest, PathBuf) {
    let manifest = snapshot.manifest.clone();
    let mut bytes = Vec::new();
    snapshot.into_database().read_to_end(&mut bytes).unwrap();
    let mut file = BackupFile::begin(target, manifest.clone()).unwrap();
    // In pieces, as it comes.
    bytes.chunks(1000).for_each(|piece| file.write(piece).unwrap());
    (manifest, file.finish().unwrap())
}

/// A store with two sandboxes and an open operation, and a backup of it.
fn saved(folder: &Path) -> (SqliteStore, Manifest, PathBuf) {
    let store = open(&folder.join("store"));
    let operation = begun(&store, "op-one", "s-one");
    store_all(
        &store,
        vec![put_operation(&operation), put(sandbox("s-one", "one", 1)), put(sandbox("s-two", "two", 1))],
    );
    let (manifest, file) = write(store.snapshot().unwrap(), &folder.join("saved"));
    (store, manifest, file)
}

/// Opens a store on this very machine, as a gateway does.
fn here(folder: &Path) -> SqliteStore {
    SqliteStore::open(StoreOptions::new(folder.to_owned()).unwrap()).unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_restored_store_has_every_row_of_its_moment_and_a_life_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (store, manifest, file) = saved(folder.path());
    let rows = dump(&store).unwrap();
    let before = store.info();
    store_all(&store, vec![put(sandbox("s-late", "late", 9))]);
    drop(store);
    assert_eq!((&manifest.gateway, &manifest.epoch), (&before.gateway, &before.epoch));
    assert_eq!((manifest.sandboxes, manifest.last_commit), (2, before.last_commit));
    let target = folder.path().join("new/store");
    let restored = restore(&file, &target, false, "uid:0").unwrap();
    assert_eq!(restored.replaced, None);
    assert_ne!(restored.epoch, before.epoch);
    let again = here(&target);
    assert_eq!(again.info().gateway, before.gateway);
    assert_eq!(again.info().epoch, restored.epoch, "opening it does not begin yet another life");
    assert_eq!(block_on(again.epochs()).unwrap(), [before.epoch]);
    assert_eq!(dump(&again).unwrap(), rows);
    assert_eq!(block_on(again.open_operations()).unwrap()[0].marks, None, "no mark of another life is trusted");
    assert!(again.next_commit() > manifest.last_commit, "numbers go on");
}

#[test]
fn a_backup_is_for_its_owner_only_and_whole_or_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let (store, manifest, file) = saved(folder.path());
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(names(folder.path()), ["saved", "store"]);
    let before = fs::read(&file).unwrap();
    // One that broke off leaves the older one as it is.
    let mut broken = BackupFile::begin(&file, manifest.clone()).unwrap();
    broken.write(b"a part").unwrap();
    assert!(matches!(broken.finish(), Err(StoreError::Backup { .. })));
    drop(BackupFile::begin(&file, manifest.clone()).unwrap());
    assert!(fs::read(&file).unwrap() == before);
    assert_eq!(names(folder.path()), ["saved", "store"]);
    // Into a folder, below a name of its time.
    let (_, named) = write(store.snapshot().unwrap(), folder.path());
    assert!(named.file_name().unwrap().to_str().unwrap().starts_with("chiton-2"), "{named:?}");
    assert!(!names(&folder.path().join("store")).iter().any(|name| name.starts_with("copy-")));
}

#[test]
fn a_store_that_is_held_is_neither_saved_offline_nor_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _, file) = saved(folder.path());
    let at = folder.path().join("store");
    assert!(matches!(save_offline(&at, "uid:0").map(drop), Err(StoreError::Locked { holder: Some(_), .. })));
    assert!(matches!(restore(&file, &at, true, "uid:0"), Err(StoreError::Locked { .. })));
    drop(store);
    assert!(matches!(restore(&file, &at, false, "uid:0"), Err(StoreError::Occupied { .. })));
    let missing = folder.path().join("nowhere");
    assert!(matches!(save_offline(&missing, "uid:0").map(drop), Err(StoreError::Missing { .. })));
    assert!(!missing.exists(), "looking for a store makes none");
}

#[test]
fn a_store_that_nobody_holds_is_saved_with_what_a_killed_process_left_in_its_log() {
    let folder = tempfile::tempdir().unwrap();
    let (store, ..) = saved(folder.path());
    let rows = dump(&store).unwrap();
    let left = common::dump::files(&folder.path().join("store"));
    drop(store);
    common::dump::lay(&folder.path().join("store"), &left);
    let (manifest, file) =
        write(save_offline(&folder.path().join("store"), "uid:7").unwrap(), &folder.path().join("off"));
    assert_eq!(manifest.sandboxes, 2);
    let target = folder.path().join("other/store");
    restore(&file, &target, false, "uid:0").unwrap();
    assert_eq!(dump(&here(&target)).unwrap(), rows);
}

#[test]
fn what_is_replaced_is_kept_and_both_are_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _, file) = saved(folder.path());
    let gateway = store.info().gateway;
    store_all(&store, vec![put(sandbox("s-late", "late", 9))]);
    drop(store);
    let at = folder.path().join("store");
    let kept = restore(&file, &at, true, "uid:0").unwrap().replaced.unwrap();
    let restored = here(&at);
    assert!(block_on(restored.sandbox(&sandbox_id("s-late"))).unwrap().is_none());
    let old = open(&kept);
    assert!(block_on(old.sandbox(&sandbox_id("s-late"))).unwrap().is_some());
    assert_eq!((restored.info().gateway, old.info().gateway), (gateway.clone(), gateway));
    let parts = names(folder.path());
    assert_eq!(parts.len(), 3, "{parts:?}");
}

#[test]
fn a_damaged_store_can_be_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _, file) = saved(folder.path());
    drop(store);
    let at = folder.path().join("store");
    fs::write(at.join("chiton.db"), b"rubbish").unwrap();
    assert!(matches!(save_offline(&at, "uid:0").map(drop), Err(StoreError::Damaged { .. })));
    let kept = restore(&file, &at, true, "uid:0").unwrap().replaced.unwrap();
    assert_eq!(fs::read(kept.join("chiton.db")).unwrap(), b"rubbish");
    assert!(block_on(here(&at).sandbox(&sandbox_id("s-two"))).unwrap().is_some());
}

#[test]
fn a_backup_that_is_spoilt_anywhere_is_refused_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (store, ..) = saved(folder.path());
    drop(store);
    let file = folder.path().join("saved");
    let whole = fs::read(&file).unwrap();
    let target = folder.path().join("new/store");
    let head = whole.iter().position(|byte| *byte == b'}').unwrap();
    // Of the manifest each byte, of the database some.
    let flips = (0..=head).chain((head + 2..whole.len()).step_by(whole.len() / 97));
    for at in flips {
        let mut spoilt = whole.clone();
        spoilt[at] ^= 1 << (at % 7);
        fs::write(&file, &spoilt).unwrap();
        match restore(&file, &target, false, "uid:0") {
            Err(StoreError::Backup { file: named, .. }) => assert_eq!(named, file),
            // Its time and its counts are for people; its schema decides nothing.
            Ok(restored) => {
                let manifest = String::from_utf8_lossy(&spoilt[..head]).into_owned();
                assert!(at < head && !target.with_file_name("none").exists(), "byte {at} of {manifest}");
                drop(restored);
                fs::remove_dir_all(&target).unwrap();
            }
            Err(other) => panic!("byte {at}: {other:?}"),
        }
    }
    for cut in [0, 5, head / 2, head + 1, whole.len() / 2, whole.len() - 1] {
        fs::write(&file, &whole[..cut]).unwrap();
        let refused = restore(&file, &target, false, "uid:0");
        assert!(matches!(refused, Err(StoreError::Backup { .. })), "cut at {cut}: {refused:?}");
    }
    assert!(names(&folder.path().join("new")).is_empty(), "nothing is left of a refused restore");
}

#[test]
fn who_saved_and_who_restored_is_in_the_audit_trail() {
    let folder = tempfile::tempdir().unwrap();
    let (store, ..) = saved(folder.path());
    drop(store);
    let at = folder.path().join("store");
    let audits = |folder: &Path| -> Vec<String> {
        let database = rusqlite::Connection::open(folder.join("chiton.db")).unwrap();
        let mut query = database.prepare("SELECT doc FROM audit ORDER BY number").unwrap();
        query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let (_, file) = write(save_offline(&at, "uid:7").unwrap(), &folder.path().join("off"));
    assert!(audits(&at)[0].contains("store.backup") && audits(&at)[0].contains("uid:7"), "{:?}", audits(&at));
    let target = folder.path().join("new/store");
    restore(&file, &target, false, "uid:8").unwrap();
    let found = audits(&target);
    assert!(found.last().is_some_and(|line| line.contains("store.restore") && line.contains("uid:8")), "{found:?}");
}
