//! The lock.

use std::fs::File;
use std::sync::mpsc;
use std::time::Duration;

use super::DataFolder;
use crate::StoreError;

const LONG: Duration = Duration::from_mins(1);

#[test]
fn a_lock_that_somebody_who_ends_still_has_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let lock = File::create(folder.path().join("lock")).unwrap();
    lock.lock().unwrap();
    let refused = DataFolder::open_within(folder.path(), Duration::from_millis(10)).err().unwrap();
    assert!(matches!(refused, StoreError::Locked { .. }), "{refused}");
    let (sender, opened) = mpsc::channel();
    let path = folder.path().to_owned();
    std::thread::spawn(move || sender.send(DataFolder::open_within(&path, LONG)));
    assert!(opened.recv_timeout(Duration::from_millis(200)).is_err(), "somebody has it");
    drop(lock);
    opened.recv_timeout(LONG).unwrap().unwrap();
}
