//! The checks themselves: each finds what it is for.

use std::sync::Arc;
use std::time::Duration;

use chiton_lifecycle::journal::Subject;
use chiton_model::{
    ExtensionName, GatewayId, OperationId, OperationKind, Phase, Ran, SandboxId, SandboxPhase, StoreEpoch,
};

use super::{Effect, End, Hook, Ledger, Opened, Truth, What};
use crate::driver::Call;
use crate::world::VirtualWorld;

fn ledger() -> Ledger {
    Ledger::new(VirtualWorld::new(1))
}

fn sandbox() -> SandboxId {
    SandboxId::new("s-1").expect("valid")
}

fn hook(ledger: &Ledger, phase: Phase, ran: Option<Ran>) -> u64 {
    let call = ledger.next_call();
    ledger.outside(What::HookBegin(Hook {
        call,
        extension: ExtensionName::new("lease").expect("valid"),
        phase,
        subject: Subject::Sandbox(sandbox()),
        operation: OperationId::new("op-1").expect("valid"),
        attempt: 1,
        ran,
        reason: None,
        tag: String::new(),
    }));
    call
}

fn effect(ledger: &Ledger, effect: Effect) {
    ledger.outside(What::Effect { driver: "fake".to_owned(), sandbox: sandbox(), effect });
}

fn end(ledger: &Ledger, call: u64, end: End) {
    ledger.outside(What::HookEnd { call, end });
}

#[test]
fn a_release_under_a_live_object_is_found() {
    let ledger = ledger();
    effect(&ledger, Effect::Created);
    hook(&ledger, Phase::AfterDelete, Some(Ran::Completed));
    assert!(ledger.no_release_before_absence().is_err_and(|why| why.contains("while the object exists")));
}

#[test]
fn an_object_that_appears_after_its_cleanup_is_found() {
    let ledger = ledger();
    hook(&ledger, Phase::OnCreateFailed, Some(Ran::Failed));
    assert!(ledger.no_release_before_absence().is_ok());
    effect(&ledger, Effect::Created);
    assert!(ledger.no_release_before_absence().is_err_and(|why| why.contains("appeared after its cleanup")));
}

#[test]
fn an_after_stop_of_a_running_object_is_found() {
    let ledger = ledger();
    effect(&ledger, Effect::Created);
    effect(&ledger, Effect::Started);
    effect(&ledger, Effect::Exited(0));
    hook(&ledger, Phase::AfterStop, Some(Ran::Completed));
    assert!(ledger.no_release_before_absence().is_ok());
    effect(&ledger, Effect::Started);
    hook(&ledger, Phase::AfterStop, Some(Ran::Completed));
    assert!(ledger.no_release_before_absence().is_err());
}

#[test]
fn a_cleanup_beside_its_action_is_found_and_one_after_it_is_not() {
    let ledger = ledger();
    let action = hook(&ledger, Phase::BeforeCreate, None);
    ledger.outside(What::BlockingBegin { call: action });
    end(&ledger, action, End::Dropped);
    let early = ledger.clone();
    hook(&early, Phase::OnCreateFailed, Some(Ran::Failed));
    assert!(early.no_overlap().is_err_and(|why| why.contains("still runs")));

    let ledger = self::ledger();
    let action = hook(&ledger, Phase::BeforeCreate, None);
    end(&ledger, action, End::Succeeded);
    hook(&ledger, Phase::OnCreateFailed, Some(Ran::Completed));
    assert!(ledger.no_overlap().is_ok());
}

#[test]
fn what_a_cleanup_is_told_must_be_true() {
    let ledger = ledger();
    let action = hook(&ledger, Phase::BeforeCreate, None);
    end(&ledger, action, End::Failed("no".to_owned()));
    let call = hook(&ledger, Phase::OnCreateFailed, Some(Ran::Failed));
    end(&ledger, call, End::Succeeded);
    assert!(ledger.ran_is_true().is_ok());
    hook(&ledger, Phase::AfterDelete, Some(Ran::Completed));
    assert!(ledger.ran_is_true().is_err_and(|why| why.contains("told completed")));
}

#[test]
fn a_hook_without_intent_is_found() {
    let ledger = ledger();
    hook(&ledger, Phase::BeforeCreate, None);
    assert!(ledger.intent_before_effect().is_err_and(|why| why.contains("before its operation's intent")));
}

#[test]
fn a_holding_that_nothing_owns_is_out_of_balance_until_it_is_released() {
    let ledger = ledger();
    let (extension, key) = (ExtensionName::new("lease").expect("valid"), "s-1/lease/create".to_owned());
    let subject = Subject::Sandbox(sandbox());
    ledger.outside(What::Acquire { extension: extension.clone(), subject: subject.clone(), key: key.clone(), call: 1 });
    assert!(ledger.balance(&Truth::default()).is_err_and(|why| why.contains("lease holds s-1/lease/create")));
    assert_eq!(ledger.held_by(&extension), [sandbox()]);
    ledger.outside(What::Release { extension, subject, key, call: Some(2) });
    assert!(ledger.balance(&Truth::default()).is_ok());
}

#[test]
fn a_deleted_id_that_is_made_again_is_found() {
    let ledger = ledger();
    for kind in [Call::Delete, Call::Create] {
        let (driver, sandbox) = ("fake".to_owned(), Some(sandbox()));
        ledger.outside(What::CallBegin { call: 1, driver, kind, sandbox, operation: None });
    }
    assert!(ledger.never_recreated().is_err());
}

/// A process opens a store of this life, in which the sandbox's row is of that phase and life.
fn open(ledger: &Ledger, store: u64, life: &str, row: Option<(SandboxPhase, &str)>, operation: Option<OperationKind>) {
    let epoch = |text: &str| StoreEpoch::new(text).expect("valid");
    let subject = Subject::Sandbox(sandbox());
    let open = operation.map(|kind| (OperationId::new("op-1").expect("valid"), (subject, kind)));
    ledger.outside(What::Opened(Arc::new(Opened {
        store,
        gateway: GatewayId::new("g-one").expect("valid"),
        epoch: epoch(life),
        rows: row.into_iter().map(|(phase, of)| (sandbox(), (phase, epoch(of)))).collect(),
        open: open.into_iter().collect(),
    })));
}

fn made(ledger: &Ledger) {
    let (driver, sandbox) = ("fake".to_owned(), Some(sandbox()));
    ledger.outside(What::CallBegin { call: 1, driver, kind: Call::Create, sandbox, operation: None });
    effect(ledger, Effect::Created);
}

#[test]
fn an_object_that_goes_although_nobody_committed_its_end_is_found() {
    let ledger = ledger();
    open(&ledger, 1, "e-one", Some((SandboxPhase::Ready, "e-one")), None);
    made(&ledger);
    effect(&ledger, Effect::Deleted);
    assert!(ledger.only_owners_remove().is_err_and(|why| why.contains("nobody committed its end")));
}

#[test]
fn a_delete_that_is_committed_removes_and_one_of_a_held_row_is_found() {
    for (life, fine) in [("e-one", true), ("e-two", false)] {
        let ledger = ledger();
        open(&ledger, 1, life, Some((SandboxPhase::Deleting, "e-one")), Some(OperationKind::Delete));
        made(&ledger);
        effect(&ledger, Effect::Deleted);
        assert_eq!(ledger.only_owners_remove().is_ok(), fine, "{life}: {:?}", ledger.only_owners_remove());
    }
}

#[test]
fn a_sweep_of_another_life_or_of_what_another_store_has_is_found() {
    let swept = |store: u64, life: &str| {
        let ledger = ledger();
        open(&ledger, 1, "e-one", Some((SandboxPhase::Ready, "e-one")), None);
        made(&ledger);
        open(&ledger, store, life, None, None);
        effect(&ledger, Effect::Deleted);
        ledger.only_owners_remove()
    };
    assert_eq!(swept(1, "e-one"), Ok(()), "the same store, whose row went meanwhile");
    assert!(swept(1, "e-two").is_err_and(|why| why.contains("another life")));
    assert!(swept(2, "e-one").is_err_and(|why| why.contains("store 1 has as its own")));
}

#[test]
fn a_delete_that_takes_hold_when_a_copy_runs_is_judged_by_who_asked_for_it() {
    for (life, fine) in [("e-one", true), ("e-two", false)] {
        let ledger = ledger();
        open(&ledger, 1, life, Some((SandboxPhase::Deleting, "e-one")), Some(OperationKind::Delete));
        made(&ledger);
        let (driver, sandbox) = ("fake".to_owned(), Some(sandbox()));
        ledger.outside(What::CallBegin { call: 2, driver, kind: Call::Delete, sandbox, operation: None });
        open(&ledger, 1, "e-three", Some((SandboxPhase::Deleting, "e-one")), Some(OperationKind::Delete));
        effect(&ledger, Effect::Deleted);
        assert_eq!(ledger.only_owners_remove().is_ok(), fine, "{life}: {:?}", ledger.only_owners_remove());
    }
}

#[test]
fn what_somebody_else_removes_is_nobodys_fault() {
    let ledger = ledger();
    open(&ledger, 1, "e-one", Some((SandboxPhase::Ready, "e-one")), None);
    made(&ledger);
    effect(&ledger, Effect::Lost);
    assert_eq!(ledger.only_owners_remove(), Ok(()));
}

#[test]
fn a_retry_that_no_obligation_lists_is_found() {
    let ledger = ledger();
    hook(&ledger, Phase::AfterStop, Some(Ran::Completed));
    assert!(ledger.only_the_listed_is_retried().is_err_and(|why| why.contains("no obligation lists")));
}

#[test]
fn a_placed_crash_comes_after_exactly_that_entry_and_the_dead_write_nothing() {
    let world = VirtualWorld::new(2);
    let ledger = Ledger::new(world.clone());
    let process = world.process();
    ledger.crash_after(2);
    assert!(ledger.by(&process, What::Note("one".to_owned())));
    assert!(process.is_alive());
    assert!(ledger.by(&process, What::Note("two".to_owned())));
    assert!(!process.is_alive());
    assert!(!ledger.by(&process, What::Note("three".to_owned())));
    assert_eq!(ledger.len(), 2);
    world.crash();
    assert!(ledger.by(&world.process(), What::Note("four".to_owned())));
    world.advance(Duration::from_secs(1)).expect("the new life lives");
}
