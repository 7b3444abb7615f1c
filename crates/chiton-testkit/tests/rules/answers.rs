//! Who is answered what: request ids, conflicts, commits.

use std::time::Duration;

use chiton_lifecycle::journal::OperationOutcome;
use chiton_model::{ErrorKind, Phase, SandboxPhase, StopReason};
use chiton_testkit::{Act, Behaviour, Call, DriverSpec, ExtensionScript, Lab, What};

use crate::{create_as, named, one, settle};

#[test]
fn a_repeated_request_id_gets_the_first_answer_and_creates_nothing() {
    let lab = one(1);
    let first = create_as(&lab, named(&lab, "r"), "a").expect("accepted");
    let again = create_as(&lab, named(&lab, "r"), "a").expect("accepted");
    assert_eq!(first.operation, again.operation);
    settle(&lab);
    let late = create_as(&lab, named(&lab, "r"), "a").expect("accepted");
    assert_eq!(first.operation, late.operation);
    assert_eq!(lab.journal().rows().len(), 1);
}

#[test]
fn a_repeated_request_id_survives_a_restart_and_with_another_body_is_a_conflict() {
    let mut lab = one(2);
    let first = create_as(&lab, named(&lab, "r"), "a").expect("accepted");
    settle(&lab);
    lab.restart();
    assert_eq!(create_as(&lab, named(&lab, "r"), "a").expect("accepted").operation, first.operation);
    let other = create_as(&lab, named(&lab, "r"), "b").expect_err("another body");
    assert_eq!(other.kind, ErrorKind::Conflict);
    assert_eq!(lab.journal().rows().len(), 1);
}

#[test]
fn the_same_request_id_twice_at_once_creates_one_sandbox() {
    let lab = one(3);
    let asks = [0, 1].map(|_| {
        let (engine, request) = (lab.engine(), named(&lab, "r"));
        async move { engine.create(request, chiton_lifecycle::CreateRequest::default()).await }
    });
    let answers = lab.block_on(futures::future::join_all(asks));
    let ids: Vec<_> = answers.into_iter().map(|answer| answer.expect("accepted").sandbox.id).collect();
    assert_eq!(ids[0], ids[1]);
    settle(&lab);
}

#[test]
fn a_create_takes_two_commits_whatever_the_chain_is() {
    for length in [0, 1, 5] {
        let mut lab = Lab::new(4).driver(DriverSpec::new("fake"));
        for index in 0..length {
            lab =
                lab.extension(ExtensionScript::everywhere(&format!("ext-{index}")).slot("ip", &format!("IP_{index}")));
        }
        lab.start();
        lab.create("first");
        let before = lab.ledger().len();
        lab.create("second");
        let commits = lab.ledger().since(before).into_iter().filter(|entry| matches!(entry.what, What::Commit(_)));
        assert_eq!(commits.count(), 2, "chain of {length}\n{:?}", lab.ledger());
    }
}

#[test]
fn a_stop_during_a_create_is_a_conflict_that_names_the_create() {
    let lab = one(5);
    lab.script("ext").next(Phase::BeforeCreate, Act::Slow(Duration::from_secs(5)));
    let accepted = lab.ask_create("a").expect("no crash").expect("accepted");
    let refused = lab.stop_sandbox(&accepted.sandbox.id).expect_err("it is being created");
    assert_eq!(refused.kind, ErrorKind::Conflict);
    assert!(refused.message.contains(accepted.operation.expect("an operation").as_str()), "{refused}");
    settle(&lab);
    assert_eq!(lab.row(&accepted.sandbox.id).map(|row| row.phase), Some(SandboxPhase::Ready));
}

#[test]
fn a_delete_during_a_create_undoes_it_and_calls_no_delete_hook() {
    let lab = one(6);
    lab.script("ext").next(Phase::AfterCreate, Act::Obey);
    let accepted = lab.ask_create("a").expect("no crash").expect("accepted");
    lab.advance(Duration::from_secs(1));
    let began = lab.world().elapsed();
    lab.delete_sandbox(&accepted.sandbox.id).expect("accepted");
    assert!(lab.world().elapsed().saturating_sub(began) < Duration::from_secs(5), "the hook was cancelled");
    settle(&lab);
    assert!(lab.row(&accepted.sandbox.id).is_none());
    let calls = lab.ledger().calls();
    assert!(calls.contains(&"ext on_create_failed".to_owned()), "{calls:?}");
    assert!(!calls.iter().any(|call| call.ends_with("before_delete") || call.ends_with("after_delete")), "{calls:?}");
}

#[test]
fn a_delete_that_meets_a_create_is_answered_even_when_the_row_is_gone_by_then() {
    let lab = one(7);
    lab.journal().latency(Duration::from_millis(5)..Duration::from_millis(60));
    for round in 0..20 {
        lab.platform().next(Call::Create, Behaviour::Fail(Duration::from_millis(round * 3), "scripted".to_owned()));
        let accepted = lab.ask_create("a").expect("no crash").expect("accepted");
        lab.advance(Duration::from_millis(round * 5));
        lab.delete_sandbox(&accepted.sandbox.id).expect("a delete is not refused");
        settle(&lab);
    }
}

#[test]
fn a_stop_cancels_a_start_and_a_start_waits_for_a_stop() {
    let lab = one(8);
    let (id, _) = lab.create("a");
    lab.script("ext").next(Phase::BeforeStop, Act::Slow(Duration::from_secs(3)));
    let (engine, request, stopped) = (lab.engine(), lab.request(), id.clone());
    lab.block_on(async move { engine.stop(request, stopped).await }).expect("accepted");
    let started = lab.start_sandbox(&id).expect("it waits").expect("an operation");
    assert_eq!(started.outcome, Some(OperationOutcome::Succeeded));
    lab.stop_sandbox(&id).expect("stopped");
    lab.script("ext").next(Phase::BeforeStart, Act::Obey);
    let (engine, request, starting) = (lab.engine(), lab.request(), id.clone());
    lab.block_on(async move { engine.start(request, starting).await }).expect("accepted");
    lab.advance(Duration::from_secs(1));
    lab.stop_sandbox(&id).expect("it cancels the start");
    assert_eq!(lab.row(&id).map(|row| row.phase), Some(SandboxPhase::Stopped));
    settle(&lab);
}

#[test]
fn a_veto_of_a_required_extension_ends_the_stop_and_of_an_optional_one_does_not() {
    for (policy, stops) in [
        (chiton_lifecycle::policy::FailurePolicy::Required, false),
        (chiton_lifecycle::policy::FailurePolicy::Optional, true),
    ] {
        let mut lab = Lab::new(9)
            .driver(DriverSpec::new("fake"))
            .extension_with(ExtensionScript::everywhere("ext"), |standing| standing.failure = policy);
        lab.start();
        let (id, _) = lab.create("a");
        lab.script("ext").next(Phase::ApproveStop, Act::Veto("busy".to_owned()));
        let answer = lab.stop_sandbox(&id);
        assert_eq!(answer.is_ok(), stops);
        if let Err(refused) = answer {
            assert!(refused.message.contains("\"ext\" vetoes the stop: busy"), "{refused}");
        }
        lab.script("ext").next(Phase::ApproveStop, Act::Veto("busy".to_owned()));
        lab.delete_sandbox(&id).expect("a delete cannot be vetoed");
        settle(&lab);
        assert!(lab.row(&id).is_none());
    }
}

#[test]
fn a_stop_names_its_reason_to_every_hook() {
    let lab = one(10);
    let (id, _) = lab.create("a");
    lab.stop_sandbox(&id).expect("stopped");
    let told = |phase| lab.ledger().hooks().into_iter().find(|hook| hook.phase == phase).and_then(|hook| hook.reason);
    for phase in [Phase::ApproveStop, Phase::BeforeStop, Phase::AfterStop] {
        assert_eq!(told(phase), Some(StopReason::Request.to_string()));
    }
}

#[test]
fn a_repeated_delete_gets_the_recorded_answer_when_the_row_is_gone_and_when_another_has_the_name() {
    let mut lab = one(11);
    let (id, _) = lab.create("a");
    let delete = |lab: &Lab, force| {
        let (engine, request, id) = (lab.engine(), named(lab, "r"), id.clone());
        lab.block_on(async move { engine.delete(request, id, force).await })
    };
    let first = delete(&lab, false).expect("accepted");
    settle(&lab);
    assert!(lab.row(&id).is_none());
    lab.create("a");
    lab.restart();
    let again = delete(&lab, false).expect("answered as before");
    assert_eq!((again.operation, again.sandbox.id), (first.operation, id.clone()));
    assert_eq!(lab.journal().rows().len(), 1, "the other one stays");
    assert_eq!(delete(&lab, true).expect_err("another body").kind, ErrorKind::Conflict);
    let engine = lab.engine();
    let request = named(&lab, "r");
    let before = lab.block_on(async move { engine.answered(&request, "delete").await }).expect("read");
    assert_eq!(before.map(|sandbox| sandbox.id), Some(id));
}

#[test]
fn an_answer_that_needed_no_operation_is_remembered_too() {
    let lab = one(12);
    let (id, _) = lab.create("a");
    let start = || {
        let (engine, request, id) = (lab.engine(), named(&lab, "r"), id.clone());
        lab.block_on(async move { engine.start(request, id).await }).expect("accepted").operation
    };
    assert_eq!(start(), None, "it runs");
    lab.stop_sandbox(&id).expect("stopped");
    assert_eq!(start(), None, "the repeat of a request that did nothing starts nothing");
    assert_eq!(lab.row(&id).map(|row| row.phase), Some(SandboxPhase::Stopped));
    settle(&lab);
}

#[test]
fn a_second_stop_is_not_answered_with_one_that_may_still_be_vetoed() {
    let lab = one(13);
    let (id, _) = lab.create("a");
    let script = lab.script("ext");
    script.next(Phase::ApproveStop, Act::Obey);
    script.next(Phase::ApproveStop, Act::Succeed);
    let stop = || {
        let (engine, request, id) = (lab.engine(), lab.request(), id.clone());
        async move { engine.stop(request, id).await }
    };
    // The first is not approved within the hook's deadline; the second is asked for itself.
    let (first, second) = lab.block_on(futures::future::join(stop(), async {
        lab.world().sleep(Duration::from_secs(1)).await;
        stop().await
    }));
    assert!(first.is_err());
    let operation = second.expect("approved").operation.expect("an operation of its own");
    let engine = lab.engine();
    let ended = lab.block_on(async move { engine.wait(&operation).await }).expect("it exists");
    assert_eq!(ended.outcome, Some(OperationOutcome::Succeeded));
    settle(&lab);
}

#[test]
fn a_create_waits_for_a_release_of_its_workspace_and_a_release_for_an_ensure() {
    let lab = one(14);
    lab.script("ext").next(Phase::EnsureWorkspace, Act::Slow(Duration::from_secs(10)));
    let create = |name: &'static str| {
        let (engine, request) = (lab.engine(), lab.request());
        let name = Some(chiton_model::SandboxName::new(name).expect("valid"));
        let create = chiton_lifecycle::CreateRequest { name, ..chiton_lifecycle::CreateRequest::default() };
        async move { engine.create(request, create).await }
    };
    let release = || {
        let (engine, principal) = (lab.engine(), lab.request().principal);
        let workspace = chiton_model::WorkspaceName::default();
        async move { engine.delete_workspace(principal, workspace).await }
    };
    let later = |seconds| lab.world().sleep(Duration::from_secs(seconds));
    let (first, second, released) = lab.block_on(futures::future::join3(
        create("a"),
        async {
            later(1).await;
            create("b").await
        },
        async {
            later(2).await;
            release().await
        },
    ));
    first.expect("accepted");
    second.expect("accepted");
    assert_eq!(released.expect_err("it is used").kind, ErrorKind::Conflict);
    settle(&lab);
    for id in lab.journal().rows().into_keys() {
        lab.delete_sandbox(&id).expect("deleted");
    }
    settle(&lab);
    lab.script("ext").next(Phase::ReleaseWorkspace, Act::Slow(Duration::from_secs(10)));
    let (released, third) = lab.block_on(futures::future::join(release(), async {
        later(1).await;
        create("c").await
    }));
    released.expect("released");
    third.expect("made ready anew");
    settle(&lab);
    let ensured = lab.ledger().calls().into_iter().filter(|call| call == "ext ensure_workspace").count();
    assert_eq!(ensured, 2);
}
