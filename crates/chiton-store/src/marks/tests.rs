//! What is trusted, and everything that must not be.

use std::fs;
use std::path::{Path, PathBuf};

use chiton_lifecycle::journal::{DriverCall, Mark, MarkEvent, MarkPosition, StepKey, StepStatus};
use chiton_model::OperationId;
use proptest::prelude::*;

use super::MarkLog;
use super::log::SEGMENT;
use super::trust::{Segment, list, read_segments};

const BOOT: &str = "boot-one";
const EPOCH: &str = "epoch-one";

fn open(folder: &Path) -> MarkLog {
    MarkLog::open(folder, BOOT, EPOCH).unwrap()
}

fn mark(number: u32) -> Mark {
    large_mark(number, 0)
}

/// A mark with this many bytes of slot value.
fn large_mark(number: u32, bytes: usize) -> Mark {
    let operation = OperationId::new(format!("op-{number}")).unwrap();
    let event = if bytes == 0 {
        MarkEvent::Step { step: StepKey::Driver(DriverCall::Create), status: StepStatus::Started }
    } else {
        let values = [("slot".to_owned(), "x".repeat(bytes))].into();
        MarkEvent::Slots { extension: "lease".parse().unwrap(), values }
    };
    Mark { operation, event }
}

/// A log with this many marks, and the position before the first.
fn written(folder: &Path, marks: u32) -> MarkPosition {
    let log = open(folder);
    let position = log.position();
    (0..marks).for_each(|number| log.append(&mark(number)).unwrap());
    position
}

fn trusted(segments: &[Segment], position: &MarkPosition, boot: &str, epoch: &str) -> Option<Vec<Mark>> {
    super::trust::trusted(segments, position, boot, epoch).map(|log| log.all())
}

fn marks_since(folder: &Path, position: &MarkPosition) -> Option<Vec<Mark>> {
    trusted(&read_segments(folder).unwrap(), position, BOOT, EPOCH)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    list(folder).unwrap().into_iter().map(|(_, path)| path).collect()
}

/// A log of three segments, rotated by size, with every mark and the position before the first.
fn rotated(folder: &Path) -> (MarkPosition, Vec<Mark>) {
    let log = open(folder);
    let position = log.position();
    log.opened("op-open", &position);
    let mut marks = Vec::new();
    while files(folder).len() < 3 {
        marks.push(large_mark(u32::try_from(marks.len()).unwrap(), 500_000));
        log.append(marks.last().unwrap()).unwrap();
    }
    (position, marks)
}

#[test]
fn whole_log_is_trusted_from_the_position_on() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    log.append(&mark(0)).unwrap();
    let position = log.position();
    log.append(&mark(1)).unwrap();
    log.append(&mark(2)).unwrap();
    assert_eq!(marks_since(folder.path(), &position), Some(vec![mark(1), mark(2)]));
}

#[test]
fn marks_of_later_processes_follow() {
    let folder = tempfile::tempdir().unwrap();
    let position = written(folder.path(), 2);
    open(folder.path()).append(&mark(7)).unwrap();
    assert_eq!(marks_since(folder.path(), &position), Some(vec![mark(0), mark(1), mark(7)]));
}

#[test]
fn marks_are_trusted_over_rotation() {
    let folder = tempfile::tempdir().unwrap();
    let (position, marks) = rotated(folder.path());
    assert_eq!(marks_since(folder.path(), &position), Some(marks));
    assert!(fs::metadata(&files(folder.path())[0]).unwrap().len() >= SEGMENT);
}

#[test]
fn each_operation_gets_its_own_marks_from_its_position_on() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let early = written(other.path(), 2);
    let log = open(folder.path());
    let first = log.position();
    for mark in [mark(1), mark(2), mark(1)] {
        log.append(&mark).unwrap();
    }
    let second = log.position();
    for mark in [mark(2), large_mark(1, 10)] {
        log.append(&mark).unwrap();
    }
    let segments = read_segments(folder.path()).unwrap();
    let of = |position, operation| Some(super::trust::trusted(&segments, position, BOOT, EPOCH)?.of(operation));
    assert_eq!(of(&first, "op-1"), Some(vec![mark(1), mark(1), large_mark(1, 10)]));
    assert_eq!(of(&first, "op-2"), Some(vec![mark(2), mark(2)]));
    assert_eq!(of(&second, "op-1"), Some(vec![large_mark(1, 10)]));
    assert_eq!(of(&second, "op-3"), Some(Vec::new()));
    assert_eq!(of(&early, "op-1"), None, "a position of another log");
}

#[test]
fn other_boot_is_distrusted() {
    let folder = tempfile::tempdir().unwrap();
    let position = written(folder.path(), 2);
    let segments = read_segments(folder.path()).unwrap();
    assert_eq!(trusted(&segments, &position, "boot-two", EPOCH), None);
    let other = MarkPosition { boot: "boot-two".to_owned(), ..position };
    assert_eq!(trusted(&segments, &other, BOOT, EPOCH), None, "the operation began in another boot");
    assert_eq!(trusted(&segments, &other, "boot-two", EPOCH), None, "the segment is of another boot");
}

#[test]
fn other_epoch_is_distrusted() {
    let folder = tempfile::tempdir().unwrap();
    let position = written(folder.path(), 2);
    assert_eq!(trusted(&read_segments(folder.path()).unwrap(), &position, BOOT, "epoch-two"), None);
}

#[test]
fn renewal_in_the_middle_is_distrusted_under_either_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    let position = log.position();
    log.append(&mark(0)).unwrap();
    log.renew("epoch-two").unwrap();
    log.append(&mark(1)).unwrap();
    let segments = read_segments(folder.path()).unwrap();
    assert_eq!(trusted(&segments, &position, BOOT, EPOCH), None);
    assert_eq!(trusted(&segments, &position, BOOT, "epoch-two"), None);
    assert_eq!(trusted(&segments, &log.position(), BOOT, "epoch-two"), Some(Vec::new()));
}

#[test]
fn unknown_segment_and_positions_outside_it_are_distrusted() {
    let folder = tempfile::tempdir().unwrap();
    let position = written(folder.path(), 2);
    let unknown = MarkPosition { log: "0".repeat(32), ..position.clone() };
    assert_eq!(marks_since(folder.path(), &unknown), None);
    let beyond = MarkPosition { sequence: position.sequence + 3, ..position };
    assert_eq!(marks_since(folder.path(), &beyond), None, "marks before the position are missing");
}

#[test]
fn flipped_bit_in_any_byte_is_distrusted() {
    let folder = tempfile::tempdir().unwrap();
    let position = written(folder.path(), 2);
    let path = &files(folder.path())[0];
    let whole = fs::read(path).unwrap();
    for place in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[place] ^= 1 << (place % 8);
        fs::write(path, bytes).unwrap();
        assert_eq!(marks_since(folder.path(), &position), None, "byte {place}");
    }
    fs::write(path, whole).unwrap();
    assert!(marks_since(folder.path(), &position).is_some());
}

#[test]
fn log_that_ends_within_a_record_is_distrusted() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    let position = log.position();
    let path = &files(folder.path())[0];
    let before = fs::metadata(path).unwrap().len();
    log.append(&mark(0)).unwrap();
    let whole = fs::read(path).unwrap();
    for length in usize::try_from(before).unwrap() + 1..whole.len() {
        fs::write(path, &whole[..length]).unwrap();
        assert_eq!(marks_since(folder.path(), &position), None, "{length} bytes");
    }
}

#[test]
fn each_missing_segment_is_distrusted() {
    for missing in 0..3 {
        let folder = tempfile::tempdir().unwrap();
        let (position, _) = rotated(folder.path());
        fs::remove_file(&files(folder.path())[missing]).unwrap();
        assert_eq!(marks_since(folder.path(), &position), None, "segment {missing}");
    }
}

#[test]
fn missing_segment_stays_distrusted_after_later_processes() {
    let folder = tempfile::tempdir().unwrap();
    let (position, _) = rotated(folder.path());
    fs::remove_file(&files(folder.path())[2]).unwrap();
    open(folder.path()).append(&mark(1)).unwrap();
    assert_eq!(marks_since(folder.path(), &position), None);
}

#[test]
fn gap_in_the_numbers_is_distrusted() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    let position = log.position();
    let path = &files(folder.path())[0];
    let length = || usize::try_from(fs::metadata(path).unwrap().len()).unwrap();
    log.append(&mark(0)).unwrap();
    let from = length();
    log.append(&mark(1)).unwrap();
    let to = length();
    log.append(&mark(2)).unwrap();
    let mut bytes = fs::read(path).unwrap();
    bytes.drain(from..to);
    fs::write(path, bytes).unwrap();
    assert_eq!(marks_since(folder.path(), &position), None);
}

#[test]
fn repeated_record_is_distrusted() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    let position = log.position();
    let path = &files(folder.path())[0];
    let from = usize::try_from(fs::metadata(path).unwrap().len()).unwrap();
    log.append(&mark(0)).unwrap();
    let mut bytes = fs::read(path).unwrap();
    bytes.extend_from_within(from..);
    fs::write(path, bytes).unwrap();
    assert_eq!(marks_since(folder.path(), &position), None);
}

#[test]
fn segment_goes_when_none_of_its_operations_is_open() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    log.forget_old();
    log.opened("op-a", &log.position());
    let fill = || (0..10).for_each(|number| log.append(&large_mark(number, 500_000)).unwrap());
    fill();
    log.opened("op-b", &log.position());
    fill();
    assert_eq!(files(folder.path()).len(), 3, "op-a needs all of them");
    log.closed("op-a");
    assert_eq!(files(folder.path()).len(), 2, "op-b needs those from its own on");
    log.closed("op-b");
    assert_eq!(files(folder.path()).len(), 1);
    fill();
    assert_eq!(files(folder.path()).len(), 1, "without open operations only the segment being written stays");
}

#[test]
fn operation_keeps_the_segment_of_its_position_not_of_its_commit() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    log.forget_old();
    log.opened("op-other", &log.position());
    let position = log.position();
    (0..10).for_each(|number| log.append(&large_mark(number, 500_000)).unwrap());
    log.opened("op-late", &position);
    log.closed("op-other");
    assert!(marks_since(folder.path(), &position).is_some());
}

#[test]
fn nothing_goes_before_recovery_has_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let position = written(folder.path(), 2);
    let log = open(folder.path());
    log.opened("op-new", &log.position());
    log.closed("op-new");
    assert_eq!(files(folder.path()).len(), 2);
    assert_eq!(log.since("op-0", &position, EPOCH), Some(vec![mark(0)]));
    log.forget_old();
    assert_eq!(files(folder.path()).len(), 2, "op-0 is still open");
    log.closed("op-0");
    assert_eq!(files(folder.path()).len(), 1);
}

#[test]
fn too_large_a_mark_is_refused_and_the_log_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    let position = log.position();
    assert!(log.append(&large_mark(1, 1024 * 1024)).is_err());
    log.append(&mark(2)).unwrap();
    assert_eq!(marks_since(folder.path(), &position), Some(vec![mark(2)]));
}

/// Set for the process that runs with a limit on the size of files.
const LIMITED: &str = "CHITON_STORE_TEST_LIMITED";

/// A write that the kernel cuts short at the limit on the size of files, in a process of its own that has such a limit.
#[test]
fn mark_that_is_written_in_part_is_taken_back() {
    if std::env::var_os(LIMITED).is_none() {
        let me = std::env::current_exe().unwrap();
        let ran = std::process::Command::new("sh")
            .args(["-c", "trap '' XFSZ; ulimit -f 128 || exit 9; exec \"$0\" \"$@\""])
            .arg(me)
            .args(["--exact", "marks::tests::mark_that_is_written_in_part_is_taken_back"])
            .env(LIMITED, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&ran.stderr));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    let position = log.position();
    log.append(&large_mark(0, 30_000)).unwrap();
    let before = fs::metadata(&files(folder.path())[0]).unwrap().len();
    let refused = log.append(&large_mark(1, 200_000)).unwrap_err().to_string();
    assert!(refused.contains("in part"), "{refused}");
    assert_eq!(fs::metadata(&files(folder.path())[0]).unwrap().len(), before);
    log.append(&mark(2)).unwrap();
    assert_eq!(marks_since(folder.path(), &position), Some(vec![large_mark(0, 30_000), mark(2)]));
}

#[derive(Clone, Debug)]
enum Damage {
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index, prop::sample::Index),
    Overwrite(prop::sample::Index, Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    let place = any::<prop::sample::Index>;
    let bytes = || prop::collection::vec(any::<u8>(), 1..64);
    prop_oneof![
        (place(), 1..=255_u8).prop_map(|(at, mask)| Damage::Flip(at, mask)),
        place().prop_map(Damage::Cut),
        (place(), bytes()).prop_map(|(at, what)| Damage::Insert(at, what)),
        (place(), place()).prop_map(|(from, to)| Damage::Remove(from, to)),
        (place(), bytes()).prop_map(|(at, what)| Damage::Overwrite(at, what)),
    ]
}

fn damaged(mut bytes: Vec<u8>, damage: &Damage) -> Vec<u8> {
    match damage {
        Damage::Flip(at, mask) => {
            let at = at.index(bytes.len());
            bytes[at] ^= mask;
        }
        Damage::Cut(at) => bytes.truncate(at.index(bytes.len())),
        Damage::Insert(at, what) => {
            let at = at.index(bytes.len() + 1);
            bytes.splice(at..at, what.iter().copied());
        }
        Damage::Remove(from, to) => {
            let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
            bytes.drain(from.min(to)..=from.max(to));
        }
        Damage::Overwrite(at, what) => {
            let at = at.index(bytes.len());
            what.iter().zip(&mut bytes[at..]).for_each(|(new, old)| *old = *new);
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// A later process's segment follows the damaged one, so that a cut between records shows as well.
    #[test]
    fn random_damage_is_never_trusted(marks in 1..20_u32, damage in damage()) {
        let folder = tempfile::tempdir().unwrap();
        let position = written(folder.path(), marks);
        open(folder.path()).append(&mark(99)).unwrap();
        let whole = marks_since(folder.path(), &position).unwrap();
        prop_assert_eq!(whole.len(), usize::try_from(marks).unwrap() + 1);
        let path = &files(folder.path())[0];
        let before = fs::read(path).unwrap();
        let after = damaged(before.clone(), &damage);
        prop_assume!(after != before);
        fs::write(path, after).unwrap();
        prop_assert_eq!(marks_since(folder.path(), &position), None);
        // The next process opens over it and its own operations are trusted.
        let next = open(folder.path());
        let fresh = next.position();
        next.append(&mark(5)).unwrap();
        prop_assert_eq!(marks_since(folder.path(), &position), None);
        prop_assert_eq!(marks_since(folder.path(), &fresh), Some(vec![mark(5)]));
    }

    #[test]
    fn random_bytes_are_never_trusted(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let folder = tempfile::tempdir().unwrap();
        let position = written(folder.path(), 1);
        fs::write(&files(folder.path())[0], bytes).unwrap();
        prop_assert_eq!(marks_since(folder.path(), &position), None);
        open(folder.path()).append(&mark(1)).unwrap();
        prop_assert_eq!(marks_since(folder.path(), &position), None);
    }
}
