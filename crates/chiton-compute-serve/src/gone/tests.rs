use std::fs;
use std::time::Duration;

use chiton_model::SandboxId;
use jiff::Timestamp;

use super::{Gone, KEEP, TELL, WASTE};

const ASKED: Timestamp = Timestamp::UNIX_EPOCH;

fn id(text: &str) -> SandboxId {
    SandboxId::new(text).unwrap()
}

fn minute() -> Duration {
    Duration::from_mins(1)
}

#[test]
fn a_deletion_is_told_and_its_id_kept_from_its_absence_on() {
    let folder = tempfile::tempdir().unwrap();
    let gone = Gone::open(folder.path(), ASKED).unwrap();
    gone.add(&id("s-slow"), ASKED).unwrap();
    // It takes two days.
    let went = ASKED + 2 * KEEP;
    gone.add(&id("s-other"), went).unwrap();
    assert!(gone.has(&id("s-slow")), "it is under way");
    gone.absent(&id("s-slow"), went);
    for reopened in [false, true] {
        let again;
        let gone = if reopened {
            again = Gone::open(folder.path(), went + minute()).unwrap();
            &again
        } else {
            &gone
        };
        assert!(gone.lately(went + TELL - minute()).contains(&id("s-slow")), "{reopened}");
        assert!(!gone.lately(went + TELL + minute()).contains(&id("s-slow")), "{reopened}");
    }
    assert!(Gone::open(folder.path(), went + KEEP - minute()).unwrap().has(&id("s-slow")));
    let late = Gone::open(folder.path(), went + KEEP + minute()).unwrap();
    assert!(!late.has(&id("s-slow")) && late.has(&id("s-other")), "only what is absent gets old");
}

#[test]
fn the_list_does_not_grow_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let gone = Gone::open(folder.path(), ASKED).unwrap();
    let mut now = ASKED;
    for round in 0..2 * WASTE {
        gone.add(&id(&format!("s-{round}")), now).unwrap();
        gone.absent(&id(&format!("s-{round}")), now);
        now += KEEP / 4;
    }
    assert!(!gone.has(&id("s-0")));
    let lines = fs::read_to_string(folder.path().join("deleted")).unwrap().lines().count();
    assert!(lines < WASTE + 100, "{lines}");
    assert!(gone.has(&id(&format!("s-{}", 2 * WASTE - 1))));
}

#[test]
fn a_line_that_was_cut_off_spoils_none_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let gone = Gone::open(folder.path(), ASKED).unwrap();
    gone.add(&id("s-before"), ASKED).unwrap();
    let file = folder.path().join("deleted");
    // As a write that fails in the middle leaves it, on a full disk for one.
    fs::write(&file, format!("{}{ASKED} s-cu", fs::read_to_string(&file).unwrap())).unwrap();
    gone.add(&id("s-after"), ASKED).unwrap();
    let again = Gone::open(folder.path(), ASKED).unwrap();
    assert!(again.has(&id("s-before")) && again.has(&id("s-after")) && !again.has(&id("s-cu")));
}
