//! The journal: all or nothing, strict, and what a crash leaves.

use std::time::Duration;

use chiton_lifecycle::journal::{
    Check, Commit, Journal, JournalError, Mark, MarkEvent, OperationOutcome, OperationRecord, StepKey, StepStatus,
    Subject, WorkspaceKey, WorkspaceRecord, Write,
};
use chiton_model::{DriverId, OperationId, OperationKind, Phase, Principal, SandboxId, WorkspaceName};

use super::{MarkLoss, MemoryJournal};
use crate::ledger::{Ledger, What};
use crate::world::VirtualWorld;

fn store() -> (VirtualWorld, Ledger, MemoryJournal) {
    let world = VirtualWorld::new(21);
    let ledger = Ledger::new(world.clone());
    let journal = MemoryJournal::new(&ledger);
    (world, ledger, journal)
}

fn workspace(ready: bool) -> Write {
    Write::PutWorkspace(Box::new(WorkspaceRecord {
        key: key(),
        ready,
        chain: Vec::new(),
        debts: Vec::new(),
        epoch: chiton_model::StoreEpoch::new("epoch").expect("valid"),
        created_at: jiff::Timestamp::UNIX_EPOCH,
    }))
}

fn key() -> WorkspaceKey {
    WorkspaceKey { workspace: WorkspaceName::default(), driver: DriverId::new("fake").expect("valid") }
}

fn operation(journal: &dyn Journal, outcome: Option<OperationOutcome>) -> OperationRecord {
    OperationRecord {
        id: OperationId::new("op-1").expect("valid"),
        subject: Subject::Sandbox(SandboxId::new("s-1").expect("valid")),
        kind: OperationKind::Create,
        start_reason: None,
        stop_reason: None,
        principal: Principal { subject: "tester".to_owned(), claims: std::collections::BTreeMap::new() },
        commit: 1,
        marks: journal.mark_position(),
        epoch: journal.info().epoch,
        started_at: jiff::Timestamp::UNIX_EPOCH,
        started_boot_ms: 0,
        deleted: false,
        ended_at: None,
        outcome,
        steps: Vec::new(),
        total_us: 0,
    }
}

fn put(operation: OperationRecord) -> Commit {
    Commit { number: 0, checks: Vec::new(), writes: vec![Write::PutOperation(Box::new(operation))] }
}

fn mark() -> Mark {
    let extension = chiton_model::ExtensionName::new("lease").expect("valid");
    Mark {
        operation: OperationId::new("op-1").expect("valid"),
        event: MarkEvent::Step { step: StepKey::hook(Phase::BeforeCreate, &extension), status: StepStatus::Started },
    }
}

#[test]
fn a_commit_whose_check_fails_stores_nothing() {
    let (world, _, journal) = store();
    let handle = journal.open(&world.process());
    let commit = Commit { number: 0, checks: vec![Check::WorkspaceReady(key())], writes: vec![workspace(true)] };
    assert_eq!(world.block_on(handle.commit(commit)), Err(JournalError::WorkspaceGone));
    assert!(journal.workspaces().is_empty());
    assert_eq!(journal.info().last_commit, 0);
}

#[test]
fn a_scripted_failure_hits_exactly_the_nth_commit_and_mark() {
    let (world, _, journal) = store();
    let handle = journal.open(&world.process());
    journal.fail_commit(2);
    journal.fail_mark(1);
    world.block_on(async {
        let commit = || Commit { number: 0, checks: Vec::new(), writes: vec![workspace(true)] };
        assert!(handle.commit(commit()).await.is_ok());
        assert!(matches!(handle.commit(commit()).await, Err(JournalError::Failed(_))));
        assert!(handle.commit(commit()).await.is_ok());
        assert!(handle.mark(&mark()).is_err());
        assert!(handle.mark(&mark()).is_ok());
    });
    assert_eq!(journal.marks().len(), 1);
}

#[test]
fn a_commit_becomes_durable_after_its_latency_even_when_nobody_waits() {
    let (world, ledger, journal) = store();
    journal.latency(Duration::from_millis(50)..Duration::from_millis(51));
    let handle = journal.open(&world.process());
    {
        let commit = Commit { number: 0, checks: Vec::new(), writes: vec![workspace(true)] };
        let mut waiting = handle.commit(commit);
        assert!(
            world.try_block_on(futures::future::select(&mut waiting, world.sleep(Duration::from_millis(1)))).is_ok()
        );
    }
    assert!(journal.workspaces().is_empty());
    world.advance(Duration::from_millis(60)).expect("nobody kills it");
    assert_eq!(journal.workspaces().len(), 1);
    assert!(ledger.entries().iter().any(|entry| matches!(entry.what, What::Commit(_))));
}

#[test]
fn marks_are_trusted_after_a_crash_and_not_after_a_loss_or_in_another_epoch() {
    for (spoil, trusted) in [(0, true), (1, false), (2, false), (3, false)] {
        let (world, _, journal) = store();
        let handle = journal.open(&world.process());
        world.block_on(async {
            handle.commit(put(operation(&*handle, None))).await.expect("stored");
            handle.mark(&mark()).expect("written");
        });
        match spoil {
            1 => {
                world.crash();
                journal.lose_marks(MarkLoss::Lost);
            }
            2 => world.reboot(),
            3 => {
                world.crash();
                journal.renew_epoch();
            }
            _ => world.crash(),
        }
        let handle = journal.open(&world.process());
        let open = world.block_on(handle.open_operations()).expect("readable");
        assert_eq!(open.len(), 1);
        assert_eq!(open[0].marks.as_ref().map(Vec::len), trusted.then_some(1), "case {spoil}");
    }
}

#[test]
fn a_dead_process_writes_nothing() {
    let (world, ledger, journal) = store();
    let handle = journal.open(&world.process());
    world.crash();
    assert!(handle.mark(&mark()).is_err());
    let commit = Commit { number: 0, checks: Vec::new(), writes: vec![workspace(true)] };
    assert!(world.try_block_on(handle.commit(commit)).is_err());
    assert!(journal.workspaces().is_empty());
    assert!(ledger.entries().iter().all(|entry| matches!(entry.what, What::Opened(_))), "{ledger:?}");
}

#[test]
#[should_panic(expected = "ends twice or is opened again")]
fn an_operation_that_ends_twice_is_a_breach() {
    let (world, _, journal) = store();
    let handle = journal.open(&world.process());
    world.block_on(async {
        for _ in 0..2 {
            let _ = handle.commit(put(operation(&*handle, Some(OperationOutcome::Succeeded)))).await;
        }
    });
}

#[test]
#[should_panic(expected = "was never given out")]
fn a_made_up_commit_number_is_a_breach() {
    let (world, _, journal) = store();
    let handle = journal.open(&world.process());
    let _ = world.block_on(handle.commit(Commit { number: 9, checks: Vec::new(), writes: vec![workspace(true)] }));
}

#[test]
fn a_backup_brings_everything_back_but_marks() {
    let (world, _, journal) = store();
    let handle = journal.open(&world.process());
    world.block_on(handle.commit(put(operation(&*handle, None)))).expect("stored");
    handle.mark(&mark()).expect("written");
    let backup = journal.backup();
    let ended = operation(&*handle, Some(OperationOutcome::Succeeded));
    world.block_on(handle.commit(put(ended))).expect("stored");
    world.crash();
    journal.restore(&backup);
    let handle = journal.open(&world.process());
    let open = world.block_on(handle.open_operations()).expect("readable");
    assert_eq!(open.len(), 1);
    assert_eq!(open[0].marks, None);
}
