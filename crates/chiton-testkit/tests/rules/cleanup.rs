//! Debts: who is called, with what, until when.

use std::time::Duration;

use chiton_lifecycle::extension::StepError;
use chiton_lifecycle::journal::{OperationOutcome, Subject};
use chiton_model::{ConditionStatus, ErrorKind, Phase, Ran, SandboxPhase, WorkspaceName};
use chiton_testkit::{Act, Behaviour, Call, DriverSpec, ExtensionScript, Lab};

use crate::{one, settle};

fn fail() -> Act {
    Act::Fail(StepError::fatal("scripted"))
}

#[test]
fn the_failing_extension_cleans_up_too_and_one_that_never_started_does_not() {
    let mut lab = Lab::new(20).driver(DriverSpec::new("fake"));
    for name in ["a", "b", "c"] {
        lab = lab.extension(ExtensionScript::everywhere(name));
    }
    lab.start();
    lab.script("b").next(Phase::BeforeCreate, fail());
    lab.ask_create("x");
    settle(&lab);
    let cleaned: Vec<_> = lab
        .ledger()
        .hooks()
        .into_iter()
        .filter(|hook| hook.phase == Phase::OnCreateFailed)
        .map(|hook| (hook.extension.to_string(), hook.ran))
        .collect();
    assert_eq!(cleaned, [("b".to_owned(), Some(Ran::Failed)), ("a".to_owned(), Some(Ran::Completed))]);
}

#[test]
fn every_way_to_fail_is_cleaned_up_after() {
    let ways = [
        fail(),
        Act::Refuse(StepError::fatal("scripted")),
        Act::Hang,
        Act::Obey,
        Act::Panic,
        Act::WrongSlots,
        Act::Block(Duration::from_mins(3)),
        Act::Fail(StepError::Exhausted { resource: "leases".to_owned(), message: "none".to_owned() }),
    ];
    for way in ways {
        let mut lab =
            Lab::new(21).driver(DriverSpec::new("fake")).extension(ExtensionScript::everywhere("ext").slot("ip", "IP"));
        lab.start();
        lab.script("ext").next(Phase::BeforeCreate, way.clone());
        let (id, ended) = lab.create("x");
        assert!(matches!(ended.outcome, Some(OperationOutcome::Failed(_))), "{way:?}");
        settle(&lab);
        assert_eq!(lab.row(&id).map(|row| row.phase), Some(SandboxPhase::Error), "{way:?}");
        assert!(lab.ledger().calls().contains(&"ext on_create_failed".to_owned()), "{way:?}");
        assert!(lab.ledger().held_by(lab.script("ext").name()).is_empty(), "{way:?}");
    }
}

#[test]
fn a_failing_cleanup_is_listed_retried_with_growing_pauses_and_then_gone() {
    let lab = one(22);
    let (id, _) = lab.create("x");
    for _ in 0..4 {
        lab.script("ext").next(Phase::AfterDelete, fail());
    }
    lab.delete_sandbox(&id).expect("accepted");
    assert_eq!(lab.engine().obligations_of(&Subject::Sandbox(id.clone())).len(), 1);
    assert_eq!(lab.row(&id).map(|row| row.phase), Some(SandboxPhase::Deleted));
    settle(&lab);
    let at: Vec<Duration> = lab
        .ledger()
        .entries()
        .into_iter()
        .filter_map(|entry| match entry.what {
            chiton_testkit::What::HookBegin(hook) if hook.phase == Phase::AfterDelete => Some(entry.at),
            _ => None,
        })
        .collect();
    assert_eq!(at.len(), 5);
    let pauses: Vec<Duration> = at.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect();
    assert!(pauses.windows(2).all(|pair| pair[1] > pair[0]), "{pauses:?}");
    assert!(lab.row(&id).is_none());
}

#[test]
fn a_discharge_needs_force_closes_the_debt_and_is_audited() {
    let lab = one(23);
    let (id, _) = lab.create("x");
    lab.script("ext").always(Phase::AfterDelete, fail());
    lab.delete_sandbox(&id).expect("accepted");
    let listed = lab.engine().obligations();
    let obligation = listed.first().expect("one is listed").id.clone();
    for (force, closed) in [(false, false), (true, true)] {
        let (engine, principal, which) = (lab.engine(), lab.request().principal, obligation.clone());
        let answer = lab.block_on(async move { engine.discharge(principal, which, force).await });
        assert_eq!(answer.is_ok(), closed, "{answer:?}");
    }
    assert!(lab.engine().obligations().is_empty());
    assert!(lab.row(&id).is_none(), "the last debt took the row along");
    assert!(lab.journal().states().is_empty());
    assert!(
        lab.journal()
            .audits()
            .iter()
            .any(|audit| audit.action == "obligation.discharge" && audit.subject == obligation)
    );
}

#[test]
fn a_start_settles_the_last_stop_first_or_is_a_conflict() {
    let lab = one(24);
    let (id, _) = lab.create("x");
    lab.script("ext").always(Phase::AfterStop, fail());
    lab.stop_sandbox(&id).expect("stopped");
    let refused = lab.start_sandbox(&id).expect_err("the last stop owes");
    assert_eq!(refused.kind, ErrorKind::Conflict);
    assert!(refused.message.contains("after_stop"), "{refused}");
    lab.script("ext").behave();
    let started = lab.start_sandbox(&id).expect("accepted").expect("an operation");
    assert_eq!(started.outcome, Some(OperationOutcome::Succeeded));
    let row = lab.row(&id).expect("a row");
    assert!(lab.journal().obligations().is_empty());
    assert!(!row.conditions.iter().any(|fact| fact.kind == "CleanupPending" && fact.status == ConditionStatus::True));
    settle(&lab);
}

#[test]
fn a_crash_after_a_start_settled_the_last_stop_never_pays_it_again_under_the_running_sandbox() {
    for after in 1..60 {
        let mut lab = one(25);
        let (id, _) = lab.create("x");
        lab.script("ext").next(Phase::AfterStop, fail());
        lab.stop_sandbox(&id).expect("stopped");
        lab.ledger().crash_after(lab.ledger().len() + after);
        let (engine, request) = (lab.engine(), lab.request());
        lab.run(async move {
            let accepted = engine.start(request, id).await.ok()?;
            engine.wait(&accepted.operation?).await.ok()
        });
        lab.ledger().no_crash();
        lab.crash();
        lab.start();
        settle(&lab);
    }
}

#[test]
fn an_unconfirmed_stop_releases_nothing_and_refuses_a_start() {
    let lab = one(26);
    let (id, _) = lab.create("x");
    lab.platform().always(Call::Stop, Behaviour::Fail(Duration::ZERO, "scripted".to_owned()));
    let stopped = lab.stop_sandbox(&id).expect("accepted").expect("an operation");
    assert!(matches!(stopped.outcome, Some(OperationOutcome::Failed(_))));
    assert!(!lab.ledger().calls().contains(&"ext after_stop".to_owned()));
    assert_eq!(lab.start_sandbox(&id).expect_err("it may run").kind, ErrorKind::Conflict);
    lab.platform().behave();
    lab.stop_sandbox(&id).expect("accepted");
    lab.start_sandbox(&id).expect("accepted");
    settle(&lab);
    assert_eq!(lab.row(&id).map(|row| row.phase), Some(SandboxPhase::Ready));
}

#[test]
fn an_expired_error_row_goes_and_one_that_owes_stays() {
    let lab = one(27);
    lab.platform().next(Call::Create, Behaviour::Fail(Duration::ZERO, "scripted".to_owned()));
    let (paid, _) = lab.create("x");
    settle(&lab);
    lab.platform().next(Call::Create, Behaviour::Fail(Duration::ZERO, "scripted".to_owned()));
    lab.script("ext").always(Phase::OnCreateFailed, fail());
    let (owing, _) = lab.create("y");
    lab.advance(Duration::from_hours(25));
    assert!(lab.row(&paid).is_none());
    assert!(lab.row(&owing).is_some());
    lab.script("ext").behave();
    settle(&lab);
    lab.advance(Duration::from_mins(5));
    assert!(lab.row(&owing).is_none());
}

#[test]
fn a_hook_that_nothing_ends_is_listed_and_its_cleanup_waits_for_its_end() {
    let lab = one(28);
    lab.script("ext").next(Phase::BeforeCreate, Act::Block(Duration::from_mins(4)));
    let (id, _) = lab.create("x");
    let listed = lab.engine().obligations_of(&Subject::Sandbox(id));
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].reason, chiton_lifecycle::journal::ObligationReason::HookStillRunning);
    settle(&lab);
}

#[test]
fn a_workspace_is_ensured_once_and_released_when_it_is_deleted_and_unused() {
    let lab = one(29);
    let (first, _) = lab.create("x");
    let (second, _) = lab.create("y");
    let ensured = || lab.ledger().calls().iter().filter(|call| *call == "ext ensure_workspace").count();
    assert_eq!(ensured(), 1);
    let delete = || {
        let (engine, principal) = (lab.engine(), lab.request().principal);
        lab.block_on(async move { engine.delete_workspace(principal, WorkspaceName::default()).await })
    };
    assert_eq!(delete().expect_err("it is used").kind, ErrorKind::Conflict);
    lab.delete_sandbox(&first).expect("deleted");
    lab.delete_sandbox(&second).expect("deleted");
    settle(&lab);
    delete().expect("released");
    settle(&lab);
    assert!(lab.journal().workspaces().is_empty());
    assert!(lab.platform().workspaces().is_empty());
    assert!(lab.ledger().held().is_empty());
    lab.create("z");
    assert_eq!(ensured(), 2);
}

#[test]
fn an_ensure_whose_undo_is_owed_is_settled_before_the_next_one() {
    let lab = one(30);
    lab.script("ext").next(Phase::EnsureWorkspace, fail()).always(Phase::ReleaseWorkspace, fail());
    lab.ask_create("x").expect("no crash").expect_err("the workspace is not ready");
    let refused = lab.ask_create("x").expect("no crash").expect_err("its release is owed");
    assert_eq!(refused.kind, ErrorKind::Conflict, "{refused}");
    lab.script("ext").behave();
    lab.create("x");
    settle(&lab);
    assert_eq!(lab.ledger().calls().iter().filter(|call| *call == "ext ensure_workspace").count(), 2);
}
