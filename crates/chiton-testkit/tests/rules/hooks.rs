//! One hook: deadline, grace, drop, blocking work, retry, permits, panics. Times are exact: the clock is virtual.

use std::time::Duration;

use chiton_lifecycle::extension::StepError;
use chiton_model::Phase;
use chiton_testkit::{Act, DriverSpec, End, ExtensionScript, Lab, What};

use crate::settle;

const DEADLINE: Duration = Duration::from_secs(10);

fn lab(script: ExtensionScript) -> Lab {
    let mut lab =
        Lab::new(120).driver(DriverSpec::new("fake")).extension_with(script, |policy| policy.deadline = DEADLINE);
    lab.start();
    // The workspace is ready, so that only the hook in question takes time.
    lab.create("first");
    lab
}

fn whole() -> ExtensionScript {
    ExtensionScript::everywhere("ext")
}

/// Begin, end and how, of each call in a phase for the newest sandbox.
fn calls(lab: &Lab, phase: Phase) -> Vec<(Duration, Duration, End)> {
    let entries = lab.ledger().entries();
    let newest = lab.journal().rows().into_keys().last();
    let begun = entries.iter().filter_map(|entry| match &entry.what {
        What::HookBegin(hook) if hook.phase == phase && hook.subject.sandbox() == newest.as_ref() => {
            Some((hook.call, entry.at))
        }
        _ => None,
    });
    begun
        .filter_map(|(call, at)| {
            entries.iter().find_map(|entry| match &entry.what {
                What::HookEnd { call: ended, end } if *ended == call => Some((at, entry.at, end.clone())),
                _ => None,
            })
        })
        .collect()
}

fn once(lab: &Lab, phase: Phase, act: Act) -> (Duration, End) {
    lab.script("ext").next(phase, act);
    lab.create("second");
    let (begin, end, how) = calls(lab, phase).remove(0);
    (end.saturating_sub(begin), how)
}

#[test]
fn a_hook_that_obeys_ends_at_its_deadline() {
    let (took, how) = once(&lab(whole()), Phase::BeforeCreate, Act::Obey);
    assert_eq!(took, DEADLINE);
    assert!(matches!(how, End::Failed(_)));
}

#[test]
fn a_hook_that_does_not_obey_is_dropped_one_second_later() {
    let lab = lab(whole());
    let (took, how) = once(&lab, Phase::BeforeCreate, Act::Hang);
    assert_eq!(took, DEADLINE + Duration::from_secs(1));
    assert_eq!(how, End::Dropped);
    settle(&lab);
}

#[test]
fn a_time_out_is_never_a_success_even_when_the_hook_succeeds_within_the_grace() {
    let lab = lab(whole());
    let (_, how) = once(&lab, Phase::BeforeCreate, Act::Slow(DEADLINE + Duration::from_millis(500)));
    assert_eq!(how, End::Succeeded);
    let row = lab.journal().rows().into_values().last().expect("a row");
    assert!(row.failure.is_some_and(|failure| failure.cause.contains("its deadline of 10s passed")));
    settle(&lab);
}

#[test]
fn a_hook_that_saves_without_end_fails_alone() {
    let lab = lab(whole());
    let (_, how) = once(&lab, Phase::BeforeCreate, Act::Hoard);
    assert!(matches!(how, End::Failed(why) if why.contains("may save 16 MiB")));
    lab.create("third");
    assert_eq!(calls(&lab, Phase::BeforeCreate)[0].2, End::Succeeded);
    settle(&lab);
}

#[test]
fn blocking_work_is_joined_before_the_next_step() {
    let lab = lab(whole());
    lab.script("ext").next(Phase::BeforeCreate, Act::Block(Duration::from_secs(5)));
    lab.create("second");
    let entries = lab.ledger().entries();
    let ended = entries.iter().find(|entry| matches!(entry.what, What::BlockingEnd { .. })).expect("it ended");
    let (next, ..) = calls(&lab, Phase::AfterCreate).remove(0);
    assert!(next >= ended.at);
    settle(&lab);
}

#[test]
fn a_panic_is_contained_and_says_what_it_said() {
    let lab = lab(whole());
    let (_, how) = once(&lab, Phase::AfterReady, Act::Panic);
    assert_eq!(how, End::Panicked);
    let row = lab.journal().rows().into_values().last().expect("a row");
    assert!(row.failure.is_some_and(|failure| failure.cause.contains("scripted panic in after_ready")));
    assert_eq!(lab.world().escaped_panics(), 0);
    settle(&lab);
}

#[test]
fn a_retryable_failure_is_tried_again_inside_the_deadline_and_not_beyond() {
    let lab = lab(whole());
    lab.script("ext").next(Phase::BeforeCreate, Act::Fail(StepError::retryable("busy")));
    lab.script("ext").next(Phase::BeforeCreate, Act::Fail(StepError::retryable("busy")));
    let (_, created) = lab.create("second");
    assert_eq!(created.outcome, Some(chiton_lifecycle::journal::OperationOutcome::Succeeded));
    assert_eq!(calls(&lab, Phase::BeforeCreate).len(), 3);

    lab.script("ext").always(Phase::BeforeCreate, Act::Fail(StepError::retryable("busy")));
    lab.create("third");
    let tried = calls(&lab, Phase::BeforeCreate);
    let (first, last) = (tried.first().expect("tried").0, tried.last().expect("tried").1);
    assert!(tried.len() > 3 && last.saturating_sub(first) < DEADLINE, "{tried:?}");
    lab.script("ext").behave();
    settle(&lab);
}

#[test]
fn a_pause_that_the_hook_asks_for_is_kept() {
    let lab = lab(whole());
    let after = Some(Duration::from_secs(4));
    let busy = StepError::Retryable { message: "busy".to_owned(), after };
    lab.script("ext").next(Phase::BeforeCreate, Act::Fail(busy));
    lab.create("second");
    let tried = calls(&lab, Phase::BeforeCreate);
    assert_eq!(tried[1].0.saturating_sub(tried[0].1), Duration::from_secs(4));
}

#[test]
fn an_exhausted_resource_is_not_tried_again() {
    let lab = lab(whole());
    let none = StepError::Exhausted { resource: "leases".to_owned(), message: "none left".to_owned() };
    lab.script("ext").next(Phase::BeforeCreate, Act::Fail(none));
    lab.create("second");
    assert_eq!(calls(&lab, Phase::BeforeCreate).len(), 1);
    settle(&lab);
}

#[test]
fn no_more_hooks_of_an_extension_run_at_once_than_it_declares() {
    let lab = lab(whole().declare(|descriptor| descriptor.concurrency = 2));
    lab.script("ext").always(Phase::BeforeCreate, Act::Slow(Duration::from_secs(2)));
    for name in ["a", "b", "c", "d"] {
        lab.ask_create(name);
    }
    lab.advance(Duration::from_mins(1));
    let (mut running, mut most) = (std::collections::BTreeSet::new(), 0);
    for entry in lab.ledger().entries() {
        match entry.what {
            What::HookBegin(hook) => drop(running.insert(hook.call)),
            What::HookEnd { call, .. } => drop(running.remove(&call)),
            _ => {}
        }
        most = most.max(running.len());
    }
    assert_eq!(most, 2);
    settle(&lab);
}

#[test]
fn a_hook_whose_mark_cannot_be_written_is_not_called_and_owes_nothing() {
    let lab = lab(whole());
    // The first mark is the driver's prepare: started, completed; the third is the hook's.
    lab.journal().fail_mark(3);
    lab.create("second");
    assert!(calls(&lab, Phase::BeforeCreate).is_empty());
    assert!(calls(&lab, Phase::OnCreateFailed).is_empty());
    settle(&lab);
}
