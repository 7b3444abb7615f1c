//! A failed fsync, a real one: the disk below a file system has no room for what that one promised to write.

mod common;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use chiton_lifecycle::journal::{Journal as _, JournalError, SandboxQuery};
use chiton_store::{SqliteStore, StoreOptions};
use common::child::{alone, may_mount, own_mounts, small_disk};
use common::{block_on, machine, open, put, sandbox, writes};
use parking_lot::Mutex;

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect("a program of the system");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A file system in a file that has less room than it thinks. Where its disk is and where it is mounted.
fn overcommitted(folder: &Path) {
    let (disk, mounted) = (folder.join("disk"), folder.join("mounted"));
    fs::create_dir(&disk).unwrap();
    fs::create_dir(&mounted).unwrap();
    small_disk(&disk, 8 * 1024);
    let image = disk.join("image");
    File::create(&image).unwrap().set_len(64 * 1024 * 1024).unwrap();
    let (image, mounted) = (image.to_str().unwrap(), mounted.to_str().unwrap());
    run("mkfs.ext4", &["-q", "-O", "^has_journal", "-m", "0", image]);
    run("mount", &["-o", "loop", image, mounted]);
}

#[test]
fn a_failed_fsync_ends_the_store_and_what_was_promised_is_there_afterwards() {
    const TEST: &str = "a_failed_fsync_ends_the_store_and_what_was_promised_is_there_afterwards";
    if !may_mount(TEST) {
        return;
    }
    if !Path::new("/dev/loop-control").exists() {
        println!("SKIPPED {TEST}: this kernel has no loop devices");
        return;
    }
    alone(TEST, || {
        own_mounts();
        let folder = tempfile::tempdir().unwrap();
        overcommitted(folder.path());
        let (at, filler) = (folder.path().join("mounted/store"), folder.path().join("disk/filler"));
        let said = Arc::new(Mutex::new(Vec::new()));
        let note = Arc::clone(&said);
        let fatal = Arc::new(move |why: &str| note.lock().push(why.to_owned()));
        let store = SqliteStore::open(StoreOptions { folder: at.clone(), machine: machine(), fatal }).unwrap();
        let mut file = File::create(&filler).unwrap();
        while file.write(&[0x55; 4096]).is_ok_and(|written| written > 0) {}
        let mut promised = Vec::new();
        let failed = (0..10_000).find_map(|number| {
            let id = format!("s-{number:05}");
            match block_on(store.commit(writes(vec![put(sandbox(&id, &format!("web-{number}"), 1))]))) {
                Ok(_) => {
                    promised.push(id);
                    None
                }
                Err(error) => Some(error),
            }
        });
        assert!(matches!(failed, Some(JournalError::Failed(_))), "{failed:?}");
        assert_eq!(said.lock().len(), 1, "the process was to end: {:?}", said.lock());
        let after = block_on(store.commit(writes(vec![put(sandbox("s-late", "late", 1))])));
        assert!(matches!(&after, Err(JournalError::Failed(why)) if why.contains("no longer be trusted")), "{after:?}");
        drop(store);
        drop(file);
        fs::remove_file(&filler).unwrap();
        let again = open(&at);
        let rows = block_on(again.sandboxes(&SandboxQuery { all: true, ..SandboxQuery::default() })).unwrap();
        let there: Vec<String> = rows.into_iter().map(|row| row.id.to_string()).collect();
        assert!(promised.iter().all(|id| there.contains(id)), "promised {promised:?}, there {there:?}");
        assert!(!there.contains(&"s-late".to_owned()));
    });
}
