//! Several drivers in one gateway: each sandbox is its own driver's, and a driver that is away is missed by its own alone.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use chiton_driver::{DriverEvent, Observed, ObservedStatus};
use chiton_lifecycle::engine::{Accepted, CreateRequest, OrphanVerdict};
use chiton_lifecycle::extension::{ReconcileSupport, StepError};
use chiton_lifecycle::journal::{OperationOutcome, Subject};
use chiton_lifecycle::runtime::LifecycleEvent;
use chiton_model::{DriverId, Error, ErrorKind, ExitStatus, SandboxId, SandboxName, SandboxPhase, SandboxSpec};
use chiton_testkit::{Act, Behaviour, Call, DriverSpec, ExtensionScript, Lab, ScriptedPlatform, What};
use parking_lot::Mutex;
use serde_json::json;

use crate::settle;

fn id(text: &str) -> DriverId {
    DriverId::new(text).expect("an id")
}

/// A started lab with drivers `a` (the default) and `b`.
fn two(seed: u64) -> Lab {
    let mut lab = Lab::new(seed)
        .driver(DriverSpec::new("a"))
        .driver(DriverSpec::new("b"))
        .extension(ExtensionScript::everywhere("ext"));
    lab.start();
    lab
}

fn ask(lab: &Lab, name: &str, spec: SandboxSpec) -> Result<Accepted, Error> {
    let request = CreateRequest { name: Some(SandboxName::new(name).expect("a name")), spec, ..Default::default() };
    let (engine, caller) = (lab.engine(), lab.request());
    lab.block_on(async move { engine.create(caller, request).await })
}

fn on(driver: &str) -> SandboxSpec {
    SandboxSpec { driver: Some(id(driver)), ..SandboxSpec::default() }
}

/// A sandbox on this driver, ready.
fn create_on(lab: &Lab, driver: &str, name: &str) -> SandboxId {
    let accepted = ask(lab, name, on(driver)).expect("accepted");
    let (engine, operation) = (lab.engine(), accepted.operation.expect("a create is an operation"));
    let ended = lab.block_on(async move { engine.wait(&operation).await }).expect("known");
    assert_eq!(ended.outcome, Some(OperationOutcome::Succeeded), "{ended:?}");
    accepted.sandbox.id
}

fn phase(lab: &Lab, id: &SandboxId) -> Option<SandboxPhase> {
    lab.row(id).map(|row| row.phase)
}

fn observed(lab: &Lab, id: &SandboxId, status: ObservedStatus) -> Observed {
    let info = lab.journal().info();
    let attempt = lab.row(id).map(|row| row.attempt);
    Observed { id: id.clone(), status, attempt, gateway: info.gateway, epoch: info.epoch, commit: 0 }
}

fn ended(code: i32) -> ObservedStatus {
    ObservedStatus::Exited(ExitStatus { code: Some(code), reason: "Exited".to_owned(), at: None })
}

/// What is logged while something is done.
fn logged(work: impl FnOnce()) -> String {
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);
    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (log, writer) = (Log::default(), Log::default());
    let shared = Log(Arc::clone(&log.0));
    drop(writer);
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || shared.clone()).finish();
    tracing::subscriber::with_default(subscriber, work);
    let bytes = log.0.lock().clone();
    String::from_utf8(bytes).expect("text")
}

#[test]
fn news_of_another_drivers_sandbox_change_nothing_and_are_said_once() {
    let lab = two(120);
    let mine = create_on(&lab, "b", "mine");
    let stranger = lab.platform_of("a");
    let log = logged(|| {
        for _ in 0..3 {
            stranger.say(DriverEvent::Changed(observed(&lab, &mine, ended(9))));
            stranger.say(DriverEvent::Deleted(mine.clone()));
            stranger.say(DriverEvent::Progress { id: mine.clone(), message: "a lie".to_owned() });
        }
        lab.advance(Duration::from_mins(1));
    });
    assert_eq!(phase(&lab, &mine), Some(SandboxPhase::Ready));
    let warned = log.matches("a driver speaks of another driver's sandbox; ignored").count();
    assert_eq!(warned, 1, "{log}");
    assert!(log.contains("WARN") && log.contains("driver=a") && log.contains(mine.as_str()), "{log}");
    let progress = |text: &str| {
        let told =
            |event: &LifecycleEvent| matches!(event, LifecycleEvent::Progress { message, .. } if message == text);
        lab.audience().events().iter().filter(|event| told(event)).count()
    };
    assert_eq!(progress("a lie"), 0);
    lab.platform_of("b").say(DriverEvent::Progress { id: mine, message: "the truth".to_owned() });
    lab.advance(Duration::from_secs(1));
    assert_eq!(progress("the truth"), 1, "its own driver is heard");
    settle(&lab);
}

#[test]
fn news_of_another_driver_do_not_end_a_start_under_way() {
    let lab = two(121);
    let own = lab.platform_of("b");
    own.next(Call::Start, Behaviour::Succeed(Duration::from_secs(5)));
    let accepted = ask(&lab, "x", on("b")).expect("accepted");
    lab.advance(Duration::from_secs(1));
    let log = logged(|| {
        lab.platform_of("a").say(DriverEvent::Changed(observed(&lab, &accepted.sandbox.id, ended(1))));
        lab.advance(Duration::from_mins(1));
    });
    assert_eq!(phase(&lab, &accepted.sandbox.id), Some(SandboxPhase::Ready));
    assert!(log.contains("a driver speaks of another driver's sandbox; ignored"), "{log}");
    settle(&lab);
}

#[test]
fn a_snapshot_is_about_its_own_drivers_sandboxes_alone() {
    let lab = two(122);
    let (on_a, on_b) = (create_on(&lab, "a", "on-a"), create_on(&lab, "b", "on-b"));
    lab.platform_of("a").end_watches();
    lab.advance(Duration::from_mins(1));
    // What the snapshot of one does not have is not missing for the other.
    assert_eq!((phase(&lab, &on_a), phase(&lab, &on_b)), (Some(SandboxPhase::Ready), Some(SandboxPhase::Ready)));
    settle(&lab);
}

#[test]
fn a_sandboxs_driver_is_recorded_at_its_create_and_stays() {
    let mut lab = two(123);
    let by_default = lab.create("by-default").0;
    let named = create_on(&lab, "b", "named");
    let drivers = |lab: &Lab| [&by_default, &named].map(|id| lab.row(id).map(|row| row.driver.to_string()));
    let both = [Some("a".to_owned()), Some("b".to_owned())];
    assert_eq!(drivers(&lab), both);
    lab.crash();
    // Another default from now on.
    let mut lab = lab.configure(|config| config.default_driver = id("b"));
    lab.start();
    assert_eq!(drivers(&lab), both);
    lab.stop_sandbox(&by_default).expect("stopped");
    lab.start_sandbox(&by_default).expect("started");
    assert!(lab.platform_of("a").object(&by_default).is_some_and(|object| object.running()));
    let new = lab.create("new").0;
    assert_eq!(lab.row(&new).map(|row| row.driver.to_string()), Some("b".to_owned()));
    for sandbox in [&by_default, &named, &new] {
        lab.delete_sandbox(sandbox).expect("deleted");
    }
    settle(&lab);
    assert!(lab.platform_of("a").objects().is_empty() && lab.platform_of("b").objects().is_empty());
}

#[test]
fn a_request_has_a_block_for_each_driver_and_its_own_gets_its_own() {
    let lab = two(124);
    let blocks = |blocks: &[(&str, serde_json::Value)]| {
        let driver_config: BTreeMap<_, _> =
            blocks.iter().map(|(id, value)| ((*id).to_owned(), value.clone())).collect();
        SandboxSpec { driver_config, ..on("b") }
    };
    let note = |text: &str| json!({"annotations": {"note": text}});
    let plan = |spec: SandboxSpec| {
        let (engine, principal) = (lab.engine(), lab.request().principal);
        let request = CreateRequest { spec, ..CreateRequest::default() };
        lab.block_on(async move { engine.plan(&principal, &request).await })
    };
    let with_own = plan(blocks(&[("b", note("mine"))])).expect("a plan").plan.plan;
    let with_both = plan(blocks(&[("a", note("theirs")), ("b", note("mine"))]));
    assert_eq!(with_both.expect("a plan").plan.plan, with_own);
    assert!(with_own.to_string().contains("mine"), "{with_own}");
    let refused = plan(blocks(&[("bb", json!({}))])).expect_err("there is no such driver");
    assert_eq!(refused.kind, ErrorKind::Invalid { field: "driver_config".to_owned() });
    assert!(refused.message.contains("\"bb\" is not configured"), "{refused}");
    assert_eq!(refused.cure.as_deref(), Some("did you mean \"b\"? configured: a, b"));
}

type Away = fn(&ScriptedPlatform);

const AWAY: [(&str, Away); 2] = [("down", ScriptedPlatform::go_down), ("hanging", ScriptedPlatform::hang)];

/// How long a life on driver `b` takes, of virtual time.
fn life(lab: &Lab, name: &str) -> Duration {
    let begun = lab.world().elapsed();
    let sandbox = create_on(lab, "b", name);
    lab.stop_sandbox(&sandbox).expect("stopped");
    lab.start_sandbox(&sandbox).expect("started");
    lab.delete_sandbox(&sandbox).expect("deleted");
    lab.world().elapsed().saturating_sub(begun)
}

#[test]
fn a_driver_that_is_away_delays_no_call_of_another() {
    for (how, away) in AWAY {
        let lab = two(125);
        let waiting = create_on(&lab, "a", "waiting");
        let undisturbed = life(&lab, "before");
        away(lab.platform_of("a"));
        lab.advance(Duration::from_mins(1));
        let disturbed = life(&lab, "after");
        assert!(disturbed < undisturbed * 2 + Duration::from_millis(50), "{how}: {undisturbed:?}, then {disturbed:?}");
        // Its own are refused with the reason, in time, and nothing of them is stored.
        let (rows, begun) = (lab.journal().rows().len(), lab.world().elapsed());
        let refused = ask(&lab, "refused", on("a")).expect_err("nobody makes it");
        assert!(matches!(refused.kind, ErrorKind::Unavailable { .. } | ErrorKind::Deadline), "{how}: {refused:?}");
        assert!(lab.world().elapsed().saturating_sub(begun) <= Duration::from_secs(11), "{how}");
        assert_eq!(lab.journal().rows().len(), rows, "{how}");
        // And what it has is as it was.
        assert_eq!(phase(&lab, &waiting), Some(SandboxPhase::Ready), "{how}");
        lab.platform_of("a").exit(&waiting, 3);
        lab.platform_of("a").come_back();
        lab.advance(Duration::from_mins(1));
        let row = lab.row(&waiting).expect("a row");
        assert_eq!((row.phase, row.exit.and_then(|exit| exit.code)), (SandboxPhase::Completed, Some(3)), "{how}");
        settle(&lab);
    }
}

#[test]
fn orphans_are_listed_and_swept_where_a_driver_can_be_asked() {
    for (how, away) in AWAY {
        let lab = two(126);
        let stray = |name: &str| observed(&lab, &SandboxId::new(name).expect("an id"), ObservedStatus::Running);
        let (of_a, of_b) = (stray("s-of-a"), stray("s-of-b"));
        lab.platform_of("a").plant(of_a.clone());
        lab.platform_of("b").plant(of_b.clone());
        away(lab.platform_of("a"));
        let engine = lab.engine();
        let found = lab.block_on(async move { engine.orphans().await }).expect("the store can be read");
        let listed: Vec<_> = found.found.iter().map(|orphan| (orphan.driver.as_str(), orphan.verdict)).collect();
        assert_eq!(listed, [("b", OrphanVerdict::Sweepable)], "{how}");
        assert_eq!(found.failed.keys().map(DriverId::as_str).collect::<Vec<_>>(), ["a"], "{how}");
        lab.advance(Duration::from_mins(30));
        assert!(lab.platform_of("b").object(&of_b.id).is_none(), "{how}: swept");
        assert!(lab.platform_of("a").object(&of_a.id).is_some(), "{how}");
        lab.platform_of("a").come_back();
        lab.advance(Duration::from_mins(30));
        assert!(lab.platform_of("a").object(&of_a.id).is_none(), "{how}: swept when it was back");
    }
}

#[test]
fn a_delete_that_fails_on_one_driver_stops_no_other_drivers_sweep() {
    let lab = two(127);
    let stray = |name: &str| observed(&lab, &SandboxId::new(name).expect("an id"), ObservedStatus::Running);
    for name in ["s-1", "s-2"] {
        lab.platform_of("a").plant(stray(name));
    }
    lab.platform_of("b").plant(stray("s-3"));
    lab.platform_of("a").always(Call::Delete, Behaviour::Fail(Duration::ZERO, "busy".to_owned()));
    lab.advance(Duration::from_mins(30));
    assert!(lab.platform_of("b").objects().is_empty());
    assert_eq!(lab.platform_of("a").objects().len(), 2);
    lab.platform_of("a").come_back();
    // The grace has passed once: it is not counted anew.
    lab.advance(Duration::from_mins(7));
    assert!(lab.platform_of("a").objects().is_empty());
}

#[test]
fn what_one_extension_holds_is_freed_while_another_cannot_be_asked() {
    let mends = |name: &str| {
        ExtensionScript::everywhere(name).declare(|descriptor| descriptor.reconcile = ReconcileSupport::Authoritative)
    };
    let mut lab = Lab::new(128)
        .driver(DriverSpec::new("a"))
        .extension_with(mends("first"), |policy| policy.authoritative = true)
        .extension_with(mends("second"), |policy| policy.authoritative = true);
    lab.start();
    let leaked = SandboxId::new("s-leaked").expect("an id");
    for name in ["first", "second"] {
        lab.ledger().outside(What::Acquire {
            extension: lab.script(name).name().clone(),
            subject: Subject::Sandbox(leaked.clone()),
            key: format!("s-leaked/{name}/create"),
            call: 0,
        });
    }
    lab.script("first").always(chiton_model::Phase::Sweep, Act::Fail(StepError::Fatal("scripted".to_owned())));
    lab.advance(Duration::from_hours(1));
    assert!(lab.ledger().held_by(lab.script("first").name()).contains(&leaked));
    assert!(!lab.ledger().held_by(lab.script("second").name()).contains(&leaked));
}

#[test]
fn a_start_waits_for_no_driver_that_is_away() {
    for (how, away) in AWAY {
        let mut lab = Lab::new(129)
            .driver(DriverSpec::new("a"))
            .driver(DriverSpec::new("b"))
            .driver(DriverSpec::new("c"))
            .extension(ExtensionScript::everywhere("ext"));
        lab.start();
        let [on_a, on_b, on_c] = ["a", "b", "c"].map(|driver| create_on(&lab, driver, &format!("on-{driver}")));
        lab.crash();
        away(lab.platform_of("a"));
        away(lab.platform_of("c"));
        let begun = lab.world().elapsed();
        lab.start();
        // One look's deadline, however many hang.
        let took = lab.world().elapsed().saturating_sub(begun);
        assert!(took <= Duration::from_secs(11), "{how}: {took:?}");
        lab.stop_sandbox(&on_b).expect("stopped");
        assert_eq!(phase(&lab, &on_b), Some(SandboxPhase::Stopped), "{how}");
        for sandbox in [&on_a, &on_c] {
            assert_eq!(phase(&lab, sandbox), Some(SandboxPhase::Ready), "{how}: nobody said otherwise");
        }
        lab.platform_of("a").come_back();
        lab.platform_of("c").come_back();
        lab.advance(Duration::from_mins(1));
        lab.stop_sandbox(&on_a).expect("stopped");
        lab.delete_sandbox(&on_c).expect("deleted");
        settle(&lab);
    }
}

#[test]
fn a_shutdown_stops_what_it_manages_also_while_one_driver_hangs() {
    let mut lab = Lab::new(130).driver(DriverSpec::new("a").managed()).driver(DriverSpec::new("b").managed());
    lab.start();
    let on_a: Vec<_> = ["a1", "a2", "a3"].iter().map(|name| create_on(&lab, "a", name)).collect();
    let on_b = create_on(&lab, "b", "b1");
    lab.platform_of("a").hang();
    let (engine, begun) = (lab.engine(), lab.world().elapsed());
    lab.block_on(async move { engine.shutdown().await });
    assert!(lab.world().elapsed().saturating_sub(begun) <= Duration::from_secs(61), "the drain is its limit");
    assert_eq!(phase(&lab, &on_b), Some(SandboxPhase::Stopped));
    lab.crash();
    lab.platform_of("a").come_back();
    lab.start();
    lab.advance(Duration::from_mins(5));
    for sandbox in on_a.iter().chain([&on_b]) {
        assert_eq!(phase(&lab, sandbox), Some(SandboxPhase::Ready), "what was stopped for the shutdown runs again");
    }
    settle(&lab);
}

#[test]
fn a_workspace_is_released_where_its_driver_can_be_asked() {
    let lab = two(131);
    let workspace = chiton_model::WorkspaceName::default();
    for driver in ["a", "b"] {
        let sandbox = create_on(&lab, driver, driver);
        lab.delete_sandbox(&sandbox).expect("deleted");
    }
    settle(&lab);
    assert!(lab.platform_of("b").workspaces().contains(&workspace));
    lab.platform_of("a").go_down();
    let (engine, principal, gone) = (lab.engine(), lab.request().principal, workspace.clone());
    let first = lab.block_on(async move { engine.delete_workspace(principal, gone).await });
    assert!(!lab.platform_of("b").workspaces().contains(&workspace), "{first:?}");
    assert!(lab.platform_of("a").workspaces().contains(&workspace));
    lab.platform_of("a").come_back();
    let (engine, principal, gone) = (lab.engine(), lab.request().principal, workspace.clone());
    drop(lab.block_on(async move { engine.delete_workspace(principal, gone).await }));
    lab.advance(Duration::from_mins(10));
    assert!(!lab.platform_of("a").workspaces().contains(&workspace));
}

#[test]
fn how_many_sandboxes_each_has_and_since_when_it_can_be_asked_is_known() {
    let lab = two(132);
    create_on(&lab, "b", "one");
    create_on(&lab, "b", "two");
    let deleted = create_on(&lab, "a", "three");
    lab.delete_sandbox(&deleted).expect("deleted");
    settle(&lab);
    let engine = lab.engine();
    let count = lab.block_on(async move { engine.sandboxes_by_driver().await }).expect("the store can be read");
    assert_eq!(count, BTreeMap::from([(id("b"), 2)]));
    let since = lab.engine().reachable_since(&id("a")).expect("it was reached");
    lab.platform_of("a").go_down();
    lab.advance(Duration::from_mins(1));
    assert_eq!(lab.engine().reachable_since(&id("a")), None);
    let unreachable = lab.engine().unreachable_driver(&id("a")).expect("it cannot be asked");
    assert!(unreachable.since > since && unreachable.error.message.contains("nobody is there"), "{unreachable:?}");
    lab.platform_of("a").come_back();
    lab.advance(Duration::from_mins(1));
    assert!(lab.engine().reachable_since(&id("a")).is_some_and(|again| again > unreachable.since));
    assert_eq!(lab.engine().unreachable_driver(&id("a")), None);
}
