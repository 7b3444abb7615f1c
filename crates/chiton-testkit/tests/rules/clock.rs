//! The wall clock jumps by a day: nothing waits for it, and nothing that lives ends by it.

use std::time::Duration;

use chiton_lifecycle::extension::StepError;
use chiton_model::{Phase, SandboxPhase};
use chiton_testkit::{Act, Lab, What};
use jiff::SignedDuration;

use crate::{create_as, named, one, settle};

const DAY: [SignedDuration; 2] = [SignedDuration::from_hours(24), SignedDuration::from_hours(-24)];

/// When the cleanup after a delete was called, by the clock since boot.
fn cleanups(lab: &Lab) -> Vec<Duration> {
    let entries = lab.ledger().entries().into_iter();
    entries
        .filter_map(|entry| match entry.what {
            What::HookBegin(hook) if hook.phase == Phase::AfterDelete => Some(entry.at),
            _ => None,
        })
        .collect()
}

/// A sandbox whose deletion owes a cleanup that fails so many times.
fn owing(lab: &Lab, failures: u32) {
    let (id, _) = lab.create("x");
    for _ in 0..failures {
        lab.script("ext").next(Phase::AfterDelete, Act::Fail(StepError::fatal("scripted")));
    }
    lab.delete_sandbox(&id).expect("accepted");
    assert_eq!(lab.engine().obligations().len(), 1);
}

#[test]
fn retries_keep_their_pauses() {
    let pauses = |jump: Option<SignedDuration>| {
        let lab = one(60);
        owing(&lab, 5);
        if let Some(jump) = jump {
            lab.world().jump_wall(jump);
        }
        settle(&lab);
        cleanups(&lab)
    };
    let steady = pauses(None);
    assert_eq!(steady.len(), 6);
    for jump in DAY {
        assert_eq!(pauses(Some(jump)), steady, "after a jump by {jump}");
    }
}

#[test]
fn a_retry_is_not_put_off_by_a_clock_that_went_back_while_nothing_ran() {
    let mut lab = one(61);
    owing(&lab, 3);
    lab.crash();
    lab.world().jump_wall(DAY[1]);
    lab.start();
    let before = cleanups(&lab).len();
    lab.advance(Duration::from_secs(301));
    assert!(cleanups(&lab).len() > before, "it is tried within the longest pause");
    settle(&lab);
    assert!(lab.engine().obligations().is_empty());
}

#[test]
fn what_lives_and_what_is_asked_stays() {
    for jump in DAY {
        let mut lab = one(62);
        let request = named(&lab, "r-1");
        let first = create_as(&lab, request.clone(), "kept").expect("accepted");
        settle(&lab);
        lab.world().jump_wall(jump);
        settle(&lab);
        let id = first.sandbox.id;
        assert_eq!(lab.row(&id).map(|row| row.phase), Some(SandboxPhase::Ready), "after a jump by {jump}");
        lab.restart();
        settle(&lab);
        assert_eq!(lab.row(&id).map(|row| row.phase), Some(SandboxPhase::Ready), "and a restart");
        let (other, _) = lab.create("other");
        lab.stop_sandbox(&other).expect("stopped");
        lab.start_sandbox(&other).expect("started");
        for id in [&other, &id] {
            lab.delete_sandbox(id).expect("deleted");
        }
        settle(&lab);
        assert!(lab.ledger().held_by(lab.script("ext").name()).is_empty());
        lab.assert_sound();
    }
}
