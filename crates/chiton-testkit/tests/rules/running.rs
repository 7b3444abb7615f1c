//! Exits, shutdown, reconcile, sweeps, orphans.

use std::time::Duration;

use chiton_driver::{Identity, Observed, ObservedStatus};
use chiton_lifecycle::engine::{Gathered, OrphanVerdict};
use chiton_lifecycle::extension::{ReconcileOutcome, ReconcileSupport};
use chiton_lifecycle::journal::OperationOutcome;
use chiton_model::{ConditionStatus, GatewayId, Phase, SandboxId, SandboxPhase, StartReason, StopReason};
use chiton_testkit::{Act, Behaviour, Call, DriverSpec, ExtensionScript, Lab, What};

use crate::{one, settle};

#[test]
fn an_exit_completes_the_sandbox_with_its_code_and_it_can_be_started_again() {
    let lab = one(60);
    let (id, _) = lab.create("x");
    lab.platform().exit(&id, 7);
    settle(&lab);
    let row = lab.row(&id).expect("a row");
    assert_eq!((row.phase, row.exit.and_then(|exit| exit.code)), (SandboxPhase::Completed, Some(7)));
    let told =
        lab.ledger().hooks().into_iter().find(|hook| hook.phase == Phase::AfterStop).and_then(|hook| hook.reason);
    assert_eq!(told, Some(StopReason::ProcessExited.to_string()));
    lab.start_sandbox(&id).expect("started");
    settle(&lab);
    assert_eq!(lab.row(&id).map(|row| (row.phase, row.exit)), Some((SandboxPhase::Ready, None)));
}

#[test]
fn a_process_without_an_agent_that_ends_at_once_has_run() {
    // Before the look that makes it ready, and between that and the outcome.
    for (after, lag) in [(0, 0), (0, 3000), (2, 0), (2, 3000)] {
        let lag = Duration::from_millis(lag);
        let mut lab = Lab::new(69).driver(DriverSpec::new("fake").without_agent().watch_lag(lag));
        lab.start();
        lab.platform().next_exits(Duration::from_millis(after), 7);
        let (id, operation) = lab.create("x");
        assert_eq!(operation.outcome, Some(OperationOutcome::Succeeded), "{after} {lag:?}");
        lab.advance(Duration::from_secs(10));
        let row = lab.row(&id).expect("a row");
        assert_eq!((row.phase, row.exit.and_then(|exit| exit.code)), (SandboxPhase::Completed, Some(7)));
        // And again.
        lab.platform().next_exits(Duration::from_millis(after), 8);
        lab.start_sandbox(&id).expect("started");
        lab.advance(Duration::from_secs(10));
        let row = lab.row(&id).expect("a row");
        assert_eq!((row.phase, row.exit.and_then(|exit| exit.code)), (SandboxPhase::Completed, Some(8)));
    }
}

#[test]
fn an_exit_during_any_operation_is_not_lost() {
    for phase in [Phase::ApproveStop, Phase::Reconcile] {
        let mut lab =
            Lab::new(61).driver(DriverSpec::new("fake")).extension(ExtensionScript::everywhere("ext").saves());
        lab.start();
        let (id, _) = lab.create("x");
        // The stop is vetoed when the hook's deadline has passed; the reconcile ends by itself.
        let act = if phase == Phase::ApproveStop { Act::Obey } else { Act::Slow(Duration::from_secs(5)) };
        lab.script("ext").next(phase, act);
        let (engine, request, stopping) = (lab.engine(), lab.request(), id.clone());
        lab.world().spawn_outside(async move {
            if phase == Phase::ApproveStop {
                drop(engine.stop(request, stopping).await);
            } else {
                drop(engine.reconcile().await);
            }
        });
        lab.advance(Duration::from_secs(1));
        lab.platform().exit(&id, 9);
        lab.advance(Duration::from_mins(1));
        settle(&lab);
        assert_eq!(lab.row(&id).map(|row| row.phase), Some(SandboxPhase::Completed), "{phase}");
    }
}

#[test]
fn an_exit_is_not_lost_when_the_store_fails_just_then() {
    let lab = one(62);
    let (id, _) = lab.create("x");
    lab.journal().fail_commit(1);
    lab.platform().exit(&id, 1);
    lab.advance(Duration::from_secs(30));
    assert_eq!(lab.row(&id).map(|row| row.phase), Some(SandboxPhase::Completed));
}

#[test]
fn a_sandbox_that_ended_while_the_gateway_was_away_has_exited() {
    let mut lab = one(63);
    let (id, _) = lab.create("x");
    lab.crash();
    lab.platform().exit(&id, 5);
    lab.start();
    settle(&lab);
    let row = lab.row(&id).expect("a row");
    assert_eq!((row.phase, row.exit.and_then(|exit| exit.code)), (SandboxPhase::Completed, Some(5)));
}

#[test]
fn an_object_that_vanishes_is_an_exit_of_unknown_code() {
    let lab = one(64);
    let (id, _) = lab.create("x");
    lab.platform().lose(&id);
    settle(&lab);
    let row = lab.row(&id).expect("a row");
    assert_eq!((row.phase, row.exit.and_then(|exit| exit.code)), (SandboxPhase::Completed, None));
}

fn managed(seed: u64) -> (Lab, SandboxId, SandboxId) {
    let mut lab =
        Lab::new(seed).driver(DriverSpec::new("fake").managed()).extension(ExtensionScript::everywhere("ext"));
    lab.start();
    let (running, _) = lab.create("x");
    let (stopped, _) = lab.create("y");
    lab.stop_sandbox(&stopped).expect("stopped");
    (lab, running, stopped)
}

fn reasons(lab: &Lab, phase: Phase, id: &SandboxId) -> Vec<String> {
    let of = |hook: &chiton_testkit::Hook| hook.phase == phase && hook.subject.sandbox() == Some(id);
    lab.ledger().hooks().into_iter().filter(of).filter_map(|hook| hook.reason).collect()
}

#[test]
fn a_shutdown_stops_what_it_manages_and_exactly_that_is_started_again() {
    let (mut lab, running, stopped) = managed(65);
    let engine = lab.engine();
    lab.block_on(async move { engine.shutdown().await });
    assert_eq!(lab.row(&running).map(|row| row.phase), Some(SandboxPhase::Stopped));
    lab.crash();
    lab.start();
    settle(&lab);
    assert_eq!(lab.row(&running).map(|row| row.phase), Some(SandboxPhase::Ready));
    assert_eq!(lab.row(&stopped).map(|row| row.phase), Some(SandboxPhase::Stopped));
    assert_eq!(reasons(&lab, Phase::AfterStop, &running), [StopReason::GatewayShutdown.to_string()]);
    let started = reasons(&lab, Phase::BeforeStart, &running);
    assert_eq!(started.last().map(String::as_str), Some(StartReason::GatewayRestart.as_str()));
}

#[test]
fn a_shutdown_that_a_crash_interrupts_starts_again_what_it_had_begun_to_stop() {
    for after in 1..25 {
        let (mut lab, running, stopped) = managed(66);
        lab.ledger().crash_after(lab.ledger().len() + after);
        let engine = lab.engine();
        lab.run(async move { engine.shutdown().await });
        lab.ledger().no_crash();
        lab.crash();
        lab.start();
        settle(&lab);
        assert_eq!(lab.row(&running).map(|row| row.phase), Some(SandboxPhase::Ready), "crash after {after}");
        assert_eq!(lab.row(&stopped).map(|row| row.phase), Some(SandboxPhase::Stopped));
    }
}

#[test]
fn a_driver_that_is_not_managed_keeps_its_sandboxes_over_a_shutdown() {
    let lab = one(67);
    let (id, _) = lab.create("x");
    let engine = lab.engine();
    lab.block_on(async move { engine.shutdown().await });
    assert_eq!(lab.row(&id).map(|row| row.phase), Some(SandboxPhase::Ready));
    assert!(lab.platform().object(&id).is_some_and(|object| object.running()));
    assert!(lab.ask_create("y").expect("no crash").is_err(), "nothing new begins");
}

fn mending(seed: u64, support: ReconcileSupport, authoritative: bool) -> (Lab, SandboxId) {
    let script = ExtensionScript::everywhere("ext").saves().declare(|descriptor| descriptor.reconcile = support);
    let mut lab = Lab::new(seed)
        .driver(DriverSpec::new("fake"))
        .extension_with(script, |policy| policy.authoritative = authoritative);
    lab.start();
    let (id, _) = lab.create("x");
    lab.script("ext").next_reconcile(ReconcileOutcome::Repaired("mended".to_owned()));
    let engine = lab.engine();
    lab.block_on(async move { engine.reconcile().await }).expect("a round");
    (lab, id)
}

#[test]
fn only_policy_and_support_together_let_a_reconcile_mend() {
    for (support, authoritative, leave) in [
        (ReconcileSupport::Advisory, false, false),
        (ReconcileSupport::Advisory, true, false),
        (ReconcileSupport::Authoritative, false, false),
        (ReconcileSupport::Authoritative, true, true),
    ] {
        let (lab, id) = mending(68, support, authoritative);
        let row = lab.row(&id).expect("a row");
        let drift = row.conditions.iter().find(|fact| fact.kind == "ExtensionDrift");
        let refused =
            drift.is_some_and(|fact| fact.reason == "RepairedWithoutLeave" && fact.status == ConditionStatus::True);
        assert_eq!(refused, !leave, "{support:?} {authoritative}: {drift:?}");
        let intended = lab.ledger().entries().into_iter().any(|entry| {
            matches!(&entry.what, What::Commit(commit) if commit.writes.iter().any(|write| {
                matches!(write, chiton_lifecycle::journal::Write::PutOperation(operation)
                    if operation.kind == chiton_model::OperationKind::Reconcile && operation.outcome.is_none())
            }))
        });
        assert_eq!(intended, leave);
    }
}

#[test]
fn a_stop_does_not_wait_for_a_reconcile_and_giving_way_is_no_drift() {
    let mut lab = Lab::new(69).driver(DriverSpec::new("fake")).extension(ExtensionScript::everywhere("ext").saves());
    lab.start();
    let (id, _) = lab.create("x");
    lab.script("ext").next(Phase::Reconcile, Act::Obey);
    let engine = lab.engine();
    lab.world().spawn_outside(async move { drop(engine.reconcile().await) });
    lab.advance(Duration::from_secs(1));
    let began = lab.world().elapsed();
    lab.stop_sandbox(&id).expect("stopped");
    assert!(lab.world().elapsed().saturating_sub(began) < Duration::from_secs(3));
    assert!(!lab.row(&id).expect("a row").conditions.iter().any(|fact| fact.kind == "ExtensionDrift"));
    settle(&lab);
}

fn leaking(seed: u64) -> (Lab, SandboxId) {
    let mut lab = Lab::new(seed).driver(DriverSpec::new("fake")).extension_with(
        ExtensionScript::everywhere("ext").declare(|descriptor| descriptor.reconcile = ReconcileSupport::Authoritative),
        |policy| policy.authoritative = true,
    );
    lab.start();
    lab.create("alive");
    let leaked = SandboxId::new("s-leaked").expect("valid");
    lab.ledger().outside(What::Acquire {
        extension: lab.script("ext").name().clone(),
        subject: chiton_lifecycle::journal::Subject::Sandbox(leaked.clone()),
        key: "s-leaked/ext/create".to_owned(),
        call: 0,
    });
    (lab, leaked)
}

#[test]
fn a_sweep_frees_what_no_row_owns_after_the_grace_and_nothing_else() {
    let (lab, leaked) = leaking(70);
    let sweep = || {
        let engine = lab.engine();
        lab.block_on(async move { engine.sweep().await })
    };
    let first = sweep();
    assert!(first.released.is_empty());
    assert_eq!(first.leaked, [("ext".to_owned(), leaked.clone())]);
    lab.advance(Duration::from_mins(20));
    let still = lab.ledger().held_by(lab.script("ext").name());
    assert!(!still.contains(&leaked), "{still:?}");
    assert_eq!(still.len(), 1, "the live sandbox keeps what it holds");
    settle(&lab);
}

#[test]
fn a_sweep_frees_nothing_while_a_driver_cannot_be_listed() {
    let (lab, leaked) = leaking(71);
    lab.platform().always(Call::List, Behaviour::Fail(Duration::ZERO, "scripted".to_owned()));
    lab.advance(Duration::from_hours(1));
    assert!(lab.ledger().held_by(lab.script("ext").name()).contains(&leaked));
}

fn object(lab: &Lab, id: &str, gateway: GatewayId) -> Observed {
    let info = lab.journal().info();
    let identity = Identity {
        gateway,
        epoch: info.epoch,
        commit: 0,
        sandbox: SandboxId::new(id).expect("valid"),
        name: chiton_model::SandboxName::new("x").expect("valid"),
        workspace: chiton_model::WorkspaceName::default(),
        operation: chiton_model::OperationId::new("op-1").expect("valid"),
        principal: "uid:0".to_owned(),
        extensions: Vec::new(),
    };
    Observed {
        id: identity.sandbox,
        status: ObservedStatus::Running,
        attempt: None,
        gateway: identity.gateway,
        epoch: identity.epoch,
        commit: identity.commit,
    }
}

#[test]
fn an_object_of_ours_without_a_row_goes_after_the_grace_and_a_strangers_stays() {
    let lab = one(72);
    let ours = object(&lab, "s-ours", lab.journal().info().gateway);
    let theirs = object(&lab, "s-theirs", GatewayId::new("g-other").expect("valid"));
    lab.platform().plant(ours.clone());
    lab.platform().plant(theirs.clone());
    let engine = lab.engine();
    let mut verdicts: Vec<_> = lab
        .block_on(async move { engine.orphans().await.and_then(Gathered::complete) })
        .expect("listed")
        .into_iter()
        .map(|orphan| (orphan.observed.id, orphan.verdict))
        .collect();
    verdicts.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(verdicts, [(ours.id.clone(), OrphanVerdict::Sweepable), (theirs.id.clone(), OrphanVerdict::Unowned)]);
    lab.advance(Duration::from_mins(6));
    assert!(lab.platform().object(&ours.id).is_some(), "the grace has not passed");
    lab.advance(Duration::from_mins(20));
    assert!(lab.platform().object(&ours.id).is_none());
    assert!(lab.platform().object(&theirs.id).is_some());
    assert!(lab.journal().audits().iter().any(|audit| audit.action == "orphan.delete"));
}

#[test]
fn late_news_of_an_earlier_stop_end_no_start_where_the_driver_does_not_say_of_which() {
    let mut lab = Lab::new(68).driver(DriverSpec::new("fake").without_agent().watch_lag(Duration::from_secs(3)));
    lab.start();
    let (id, _) = lab.create("x");
    for _ in 0..3 {
        lab.stop_sandbox(&id).expect("a stop");
        let started = lab.start_sandbox(&id).expect("a start").expect("an operation");
        assert_eq!(started.outcome, Some(OperationOutcome::Succeeded));
        lab.advance(Duration::from_secs(10));
        assert_eq!(lab.row(&id).map(|row| row.phase), Some(SandboxPhase::Ready));
        assert!(lab.platform().object(&id).is_some_and(|object| object.running()), "{:?}", lab.ledger());
    }
    // News that are true are believed.
    lab.platform().exit(&id, 7);
    lab.advance(Duration::from_secs(10));
    assert_eq!(lab.row(&id).map(|row| row.phase), Some(SandboxPhase::Completed));
}
