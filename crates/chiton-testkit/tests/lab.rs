//! The lab around a real engine: the shortest histories, and that a seed replays one.

use chiton_lifecycle::journal::OperationOutcome;
use chiton_model::{Phase, SandboxPhase};
use chiton_testkit::{DriverSpec, ExtensionScript, Lab};
use std::time::Duration;

fn lab(seed: u64) -> Lab {
    Lab::new(seed)
        .driver(DriverSpec::new("fake"))
        .extension(ExtensionScript::everywhere("first"))
        .extension(ExtensionScript::everywhere("second").slot("ip", "SECOND_IP").saves())
}

fn history(seed: u64) -> Lab {
    let mut lab = lab(seed);
    lab.start();
    let (id, created) = lab.create("one");
    assert_eq!(created.outcome, Some(OperationOutcome::Succeeded));
    assert_eq!(lab.row(&id).map(|row| row.phase), Some(SandboxPhase::Ready));
    lab.restart();
    lab.stop_sandbox(&id).expect("stopped");
    lab.start_sandbox(&id).expect("started");
    lab.delete_sandbox(&id).expect("deleted");
    assert!(lab.quiesce(Duration::from_hours(1)));
    lab.assert_sound();
    lab
}

#[test]
fn a_whole_life_is_sound_and_leaves_nothing() {
    let lab = history(1);
    assert!(lab.journal().rows().is_empty());
    assert!(lab.platform().objects().is_empty());
    let held: Vec<_> = lab.ledger().held().into_keys().filter(|(_, key)| !key.ends_with("/workspace")).collect();
    assert!(held.is_empty(), "{held:?}");
}

#[test]
fn the_same_seed_writes_the_same_ledger() {
    assert_eq!(history(5).ledger().render(), history(5).ledger().render());
}

#[test]
fn phases_come_in_the_order_of_the_design() {
    let lab = history(2);
    let first: Vec<Phase> = lab
        .ledger()
        .hooks()
        .into_iter()
        .filter(|hook| hook.extension.as_str() == "first")
        .map(|hook| hook.phase)
        .collect();
    let expected = [
        Phase::EnsureWorkspace,
        Phase::BeforeCreate,
        Phase::AfterCreate,
        Phase::BeforeStart,
        Phase::AfterReady,
        Phase::ApproveStop,
        Phase::BeforeStop,
        Phase::AfterStop,
        Phase::BeforeStart,
        Phase::AfterReady,
        Phase::BeforeStop,
        Phase::AfterStop,
        Phase::BeforeDelete,
        Phase::AfterDelete,
    ];
    assert_eq!(first, expected, "{}", lab.ledger().render());
}
