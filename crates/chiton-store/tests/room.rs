//! No room, no writing, no descriptors: what cannot be stored is refused as such, what is stored is read, nothing is lost,
//! and everything goes on when there is room again. On real small disks.

mod common;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use chiton_lifecycle::journal::{Journal as _, JournalError, Mark, MarkEvent, SandboxQuery};
use chiton_store::{SqliteStore, StoreError};
use common::child::{alone, may_mount, own_mounts, read_only, small_disk};
use common::dump::dump;
use common::{begun, block_on, machine, open, operation_id, options, put, put_operation, sandbox, store_all, writes};

/// A store on a small disk of its own, and what fills that disk.
struct Small {
    store: PathBuf,
    filler: PathBuf,
    _folder: tempfile::TempDir,
}

impl Small {
    fn new(kib: u32) -> Self {
        own_mounts();
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk");
        fs::create_dir(&disk).unwrap();
        small_disk(&disk, kib);
        Self { store: disk.join("store"), filler: disk.join("filler"), _folder: folder }
    }

    /// Fills the disk to the last byte.
    fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(&self.filler).unwrap();
        for size in [65_536, 4096, 1] {
            let bytes = vec![0x55; size];
            while file.write(&bytes).is_ok_and(|written| written > 0) {}
        }
    }

    /// Makes room.
    fn free(&self) {
        fs::remove_file(&self.filler).unwrap();
    }
}

fn refusal(folder: &Path) -> StoreError {
    SqliteStore::open(options(folder, machine())).map(drop).expect_err("it opened")
}

fn ids(store: &SqliteStore) -> Vec<String> {
    let rows = block_on(store.sandboxes(&SandboxQuery { all: true, ..SandboxQuery::default() })).unwrap();
    rows.into_iter().map(|row| row.id.to_string()).collect()
}

/// A mark with this many bytes of slot value.
fn mark(number: usize, bytes: usize) -> Mark {
    let values = [(format!("slot-{number}"), "x".repeat(bytes))].into();
    Mark { operation: operation_id("op-one"), event: MarkEvent::Slots { extension: "lease".parse().unwrap(), values } }
}

#[test]
fn commits_on_a_full_disk_are_refused_and_go_on_when_there_is_room() {
    const TEST: &str = "commits_on_a_full_disk_are_refused_and_go_on_when_there_is_room";
    if !may_mount(TEST) {
        return;
    }
    alone(TEST, || {
        let small = Small::new(1024);
        let store = open(&small.store);
        store_all(&store, vec![put(sandbox("s-first", "first", 1))]);
        small.fill();
        let mut stored = vec!["s-first".to_owned()];
        // What fits into room that the log has already is stored; the first that does not is refused.
        let refused = (0..1000).find_map(|number| {
            let id = format!("s-{number:04}");
            match block_on(store.commit(writes(vec![put(sandbox(&id, &format!("web-{number}"), 2))]))) {
                Ok(_) => {
                    stored.push(id);
                    None
                }
                Err(error) => Some((id, error)),
            }
        });
        let (id, error) = refused.expect("a commit that does not fit");
        assert!(matches!(error, JournalError::Full(_)), "{error:?}");
        stored.sort();
        assert_eq!(ids(&store), stored, "reads go on, and what was refused is not there");
        let last = store.info().last_commit;
        small.free();
        store_all(&store, vec![put(sandbox(&id, "again", 3))]);
        assert!(store.info().last_commit > last);
        stored.push(id);
        stored.sort();
        let rows = dump(&store).unwrap();
        drop(store);
        let again = open(&small.store);
        assert_eq!(ids(&again), stored);
        assert_eq!(dump(&again).unwrap(), rows);
    });
}

#[test]
fn a_store_that_was_killed_on_a_full_disk_is_refused_as_full_and_opens_when_there_is_room() {
    const TEST: &str = "a_store_that_was_killed_on_a_full_disk_is_refused_as_full_and_opens_when_there_is_room";
    if !may_mount(TEST) {
        return;
    }
    alone(TEST, || {
        let small = Small::new(1024);
        let store = open(&small.store);
        store_all(&store, vec![put(sandbox("s-first", "first", 1))]);
        small.fill();
        let mut number = 0;
        while block_on(store.commit(writes(vec![put(sandbox(&format!("s-{number:04}"), &format!("w-{number}"), 2))])))
            .is_ok()
        {
            number += 1;
        }
        let before = ids(&store);
        drop(store);
        small.fill();
        let refused = refusal(&small.store);
        assert_eq!(refused.state(), "full", "{refused:?}");
        assert!(refused.cure().contains("make room"), "{}", refused.cure());
        small.free();
        assert_eq!(ids(&open(&small.store)), before);
    });
}

#[test]
fn marks_on_a_full_disk_are_refused_and_those_that_were_taken_are_trusted() {
    const TEST: &str = "marks_on_a_full_disk_are_refused_and_those_that_were_taken_are_trusted";
    if !may_mount(TEST) {
        return;
    }
    alone(TEST, || {
        let small = Small::new(1024);
        let store = open(&small.store);
        let operation = begun(&store, "op-one", "s-one");
        store_all(&store, vec![put_operation(&operation), put(sandbox("s-one", "web", 1))]);
        let mut taken = vec![mark(0, 100)];
        store.mark(&taken[0]).unwrap();
        small.fill();
        let refused = (1..200).find_map(|number| {
            let next = mark(number, 100);
            match store.mark(&next) {
                Ok(()) => {
                    taken.push(next);
                    None
                }
                Err(error) => Some(error),
            }
        });
        assert!(matches!(refused, Some(JournalError::Full(_))), "{refused:?}");
        small.free();
        taken.push(mark(500, 100));
        store.mark(taken.last().unwrap()).unwrap();
        drop(store);
        let found = block_on(open(&small.store).open_operations()).unwrap();
        assert_eq!(found[0].marks.as_ref(), Some(&taken));
    });
}

#[test]
fn a_log_that_cannot_be_rotated_refuses_marks_and_goes_on_when_there_is_room() {
    const TEST: &str = "a_log_that_cannot_be_rotated_refuses_marks_and_goes_on_when_there_is_room";
    if !may_mount(TEST) {
        return;
    }
    alone(TEST, || {
        let small = Small::new(16 * 1024);
        let store = open(&small.store);
        let operation = begun(&store, "op-one", "s-one");
        store_all(&store, vec![put_operation(&operation), put(sandbox("s-one", "web", 1))]);
        // Up to a segment's size: the next mark begins a segment.
        let mut taken: Vec<Mark> = (0..9).map(|number| mark(number, 500_000)).collect();
        for mark in &taken {
            store.mark(mark).unwrap();
        }
        small.fill();
        for _ in 0..3 {
            let refused = store.mark(&mark(100, 10));
            assert!(matches!(refused, Err(JournalError::Full(_))), "{refused:?}");
        }
        let segments = || fs::read_dir(small.store.join("marks")).unwrap().count();
        assert_eq!(segments(), 1, "no empty segment is left");
        small.free();
        taken.push(mark(200, 10));
        store.mark(taken.last().unwrap()).unwrap();
        assert_eq!(segments(), 2);
        drop(store);
        let found = block_on(open(&small.store).open_operations()).unwrap();
        assert_eq!(found[0].marks.as_ref(), Some(&taken), "every mark that was taken, and none that was refused");
    });
}

#[test]
fn a_new_store_on_a_full_disk_is_refused_as_full() {
    const TEST: &str = "a_new_store_on_a_full_disk_is_refused_as_full";
    if !may_mount(TEST) {
        return;
    }
    alone(TEST, || {
        let small = Small::new(256);
        small.fill();
        let refused = refusal(&small.store);
        assert_eq!(refused.state(), "full", "{refused:?}");
        small.free();
        drop(open(&small.store));
        small.fill();
        let refused = SqliteStore::open(options(&small.store, machine())).map(drop);
        // Opening writes little; where there is room for it in what the files have, it opens.
        if let Err(refused) = refused {
            assert_eq!(refused.state(), "full", "{refused:?}");
        }
        small.free();
        drop(open(&small.store));
    });
}

#[test]
fn what_is_read_only_is_refused_as_such() {
    const TEST: &str = "what_is_read_only_is_refused_as_such";
    if !may_mount(TEST) {
        return;
    }
    alone(TEST, || {
        own_mounts();
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        let opened = open(&store);
        store_all(&opened, vec![put(sandbox("s-one", "web", 1))]);
        drop(opened);
        let detach = |at: &Path| nix::mount::umount2(at, nix::mount::MntFlags::MNT_DETACH).unwrap();
        for name in ["chiton.db", "lock", "witness", ""] {
            let at = store.join(name);
            let at = if name.is_empty() { store.clone() } else { at };
            read_only(&at);
            let refused = refusal(&store);
            assert_eq!(refused.state(), "read_only", "{name}: {refused:?}");
            assert!(refused.cure().contains("writable"), "{name}: {}", refused.cure());
            detach(&at);
        }
        assert_eq!(ids(&open(&store)), ["s-one"]);
    });
}

#[test]
fn without_descriptors_it_is_refused_as_such_and_goes_on_with_some() {
    const TEST: &str = "without_descriptors_it_is_refused_as_such_and_goes_on_with_some";
    alone(TEST, || {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("first"), folder.path().join("second"));
        let store = open(&first);
        store_all(&store, vec![put(sandbox("s-one", "web", 1))]);
        let before = getrlimit(Resource::Nofile);
        let used = fs::read_dir("/proc/self/fd").unwrap().count() as u64;
        // Four more: enough for the folder's lock, too few for a database.
        for more in 0..6 {
            setrlimit(Resource::Nofile, Rlimit { current: Some(used - 1 + more), maximum: before.maximum }).unwrap();
            if let Err(refused) = SqliteStore::open(options(&second, machine())) {
                assert_eq!(refused.state(), "descriptors", "{more} more: {refused:?}");
                assert!(refused.cure().contains("ulimit -n"), "{}", refused.cure());
            }
        }
        setrlimit(Resource::Nofile, Rlimit { current: Some(used - 2), maximum: before.maximum }).unwrap();
        // What is open stays open: it goes on storing.
        store_all(&store, vec![put(sandbox("s-two", "two", 2))]);
        let read = block_on(store.sandbox(&common::sandbox_id("s-two")));
        assert!(matches!(&read, Err(JournalError::Failed(why)) if why.contains("Too many open files")), "{read:?}");
        setrlimit(Resource::Nofile, before).unwrap();
        assert_eq!(ids(&store), ["s-one", "s-two"]);
        drop(open(&second));
    });
}
