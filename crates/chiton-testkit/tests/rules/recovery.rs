//! What a crash may not change: late effects, second crashes, late platforms.

use std::time::Duration;

use chiton_driver::Deadlines;
use chiton_lifecycle::journal::SandboxQuery;
use chiton_lifecycle::{CreateRequest, Selector};
use chiton_model::{Phase, SandboxId, SandboxPhase};
use chiton_testkit::{Act, AgentBehaviour, Behaviour, Call, DriverSpec, Effect, Entry, ExtensionScript, Lab, What};

use crate::{one, settle};

/// Crashes while an effect is on its way to take hold after the first cleanup, and again somewhere in the recovery.
fn late(phase: Phase, second: usize, act: impl Fn(&Lab)) {
    let mut lab = one(80);
    lab.script("ext").next(phase, Act::Late(Duration::from_secs(20)));
    act(&lab);
    lab.advance(Duration::from_secs(1));
    lab.crash();
    if second > 0 {
        lab.ledger().crash_after(lab.ledger().len() + second);
    }
    if lab.try_start().expect("it starts") {
        lab.advance(Duration::from_secs(10));
    }
    if lab.world().is_killed() {
        lab.crash();
        lab.start();
    }
    lab.ledger().no_crash();
    // Whoever deletes at once must not close the debt before the effect can no longer be on its way.
    for id in lab.journal().rows().into_keys() {
        lab.delete_sandbox(&id).expect("a delete is not refused");
    }
    lab.advance(Duration::from_mins(2));
    settle(&lab);
    // A workspace that is ready is kept for the next sandbox.
    let ready = |key: &str| phase != Phase::EnsureWorkspace && key.ends_with("/workspace");
    let held: Vec<_> = lab.ledger().held().into_keys().filter(|(_, key)| !ready(key)).collect();
    assert!(held.is_empty(), "{phase} {second}: {held:?}\n{:?}", lab.ledger());
}

#[test]
fn an_effect_that_takes_hold_after_the_crash_is_undone_whatever_crashes_or_deletes_follow() {
    for second in 0..30 {
        late(Phase::BeforeCreate, second, |lab| drop(lab.ask_create("x")));
        late(Phase::BeforeStart, second, |lab| drop(lab.ask_create("x")));
        late(Phase::EnsureWorkspace, second, |lab| {
            let engine = lab.engine();
            let request = lab.request();
            lab.world().spawn_outside(async move { drop(engine.create(request, CreateRequest::default()).await) });
        });
    }
}

#[test]
fn a_late_start_of_a_stopped_sandbox_never_runs_after_its_after_stop() {
    let mut lab = Lab::new(81).driver(DriverSpec::new("fake").remote()).extension(ExtensionScript::everywhere("ext"));
    lab.start();
    let (id, _) = lab.create("x");
    lab.stop_sandbox(&id).expect("stopped");
    lab.platform().next(Call::Start, Behaviour::Unknown(Duration::from_secs(1), Some(Duration::from_mins(4))));
    lab.start_sandbox(&id).expect("accepted");
    settle(&lab);
    assert_eq!(lab.row(&id).map(|row| row.phase), Some(SandboxPhase::Stopped));
    assert!(lab.platform().object(&id).is_some_and(|object| !object.running()));
}

#[test]
fn a_create_that_lands_late_is_deleted_before_anything_is_released() {
    for one_phase in [false, true] {
        let spec = DriverSpec::new("fake").remote();
        let mut lab = Lab::new(82)
            .driver(if one_phase { spec.one_phase() } else { spec })
            .extension(ExtensionScript::everywhere("ext"));
        lab.start();
        lab.platform().next(Call::Create, Behaviour::Unknown(Duration::from_secs(1), Some(Duration::from_mins(8))));
        lab.create("x");
        settle(&lab);
        assert!(lab.platform().objects().is_empty());
    }
}

#[test]
fn what_a_driver_is_still_making_when_it_is_deleted_is_deleted_when_it_lands() {
    // Whoever waits for ready is broken off: by a delete, by the deadline, by a crash.
    for broken_off in ["delete", "deadline", "crash"] {
        let deadlines = Deadlines { ready: Duration::from_mins(12), ..Deadlines::default() };
        let mut lab = Lab::new(85)
            .driver(DriverSpec::new("far").deferred().one_phase().deadlines(deadlines.clone()))
            .extension(ExtensionScript::everywhere("ext"));
        lab.start();
        let lands = Duration::from_mins(if broken_off == "deadline" { 15 } else { 4 });
        lab.platform().next(Call::Create, Behaviour::Accept(Duration::from_millis(5), lands));
        // Its create has started it, as far as it says.
        lab.platform().next(Call::Start, Behaviour::Lie(Duration::from_millis(5)));
        lab.agents().next(AgentBehaviour::Never);
        let id = lab.ask_create("x").expect("an answer").expect("accepted").sandbox.id;
        lab.advance(Duration::from_secs(1));
        match broken_off {
            "delete" => {
                let (engine, request, asked) = (lab.engine(), lab.request(), id.clone());
                lab.block_on(async move { engine.delete(request, asked, false).await }).expect("accepted");
            }
            "crash" => {
                lab.crash();
                lab.start();
            }
            _ => assert!(lab.advance(deadlines.ready)),
        }
        lab.advance(Duration::from_secs(30));
        assert!(lab.platform().objects().is_empty(), "{broken_off}: it has not landed yet");
        let landing = ("DeletePending".to_owned(), "CreateMayLand".to_owned());
        assert_eq!(waits_for(&lab, &id), [landing], "{broken_off}");
        settle(&lab);
        assert!(lab.platform().objects().is_empty(), "{broken_off}: it landed after its delete");
        let landed = |entry: &Entry| matches!(&entry.what, What::Effect { effect: Effect::Created, .. });
        assert!(lab.ledger().entries().iter().any(landed), "{broken_off}: it never landed, which tests nothing");
    }
}

#[test]
fn an_interrupted_start_goes_on_when_its_agent_calls_and_is_undone_when_it_does_not() {
    for (returns, phase) in [(true, SandboxPhase::Ready), (false, SandboxPhase::Stopped)] {
        let mut lab = one(83);
        let (id, _) = lab.create("x");
        lab.stop_sandbox(&id).expect("stopped");
        let agent = if returns { AgentBehaviour::After(Duration::from_secs(5)) } else { AgentBehaviour::Never };
        lab.agents().next(agent);
        let (engine, request, starting) = (lab.engine(), lab.request(), id.clone());
        lab.block_on(async move { engine.start(request, starting).await }).expect("accepted");
        lab.advance(Duration::from_secs(1));
        lab.crash();
        lab.start();
        settle(&lab);
        assert_eq!(lab.row(&id).map(|row| row.phase), Some(phase));
    }
}

#[test]
fn marks_of_another_boot_narrow_nothing() {
    let mut lab = one(84);
    lab.script("ext").next(Phase::BeforeCreate, Act::Fail(chiton_lifecycle::extension::StepError::fatal("scripted")));
    lab.platform().always(Call::Delete, Behaviour::Hang);
    lab.script("ext").next(Phase::OnCreateFailed, Act::Hang);
    lab.ask_create("x");
    lab.advance(Duration::from_secs(2));
    lab.power_loss();
    lab.platform().behave();
    lab.start();
    settle(&lab);
    let told: Vec<_> = lab
        .ledger()
        .hooks()
        .into_iter()
        .filter(|hook| hook.phase == Phase::OnCreateFailed)
        .filter_map(|hook| hook.ran)
        .collect();
    assert_eq!(told.last(), Some(&chiton_model::Ran::Maybe), "{told:?}");
}

#[test]
fn an_ensure_that_a_crash_interrupts_never_releases_what_an_earlier_one_made_ready() {
    let mut lab = Lab::new(85)
        .driver(DriverSpec::new("fake"))
        .extension(ExtensionScript::everywhere("first"))
        .extension(ExtensionScript::everywhere("second"));
    lab.unlist("second");
    lab.start();
    lab.create("x");
    lab.crash();
    lab.list("second");
    lab.start();
    lab.script("second").next(Phase::EnsureWorkspace, Act::Hang);
    let (engine, request) = (lab.engine(), lab.request());
    lab.world().spawn_outside(async move { drop(engine.create(request, CreateRequest::default()).await) });
    lab.advance(Duration::from_secs(1));
    lab.crash();
    lab.lose_marks();
    lab.start();
    settle(&lab);
    assert!(!lab.ledger().calls().contains(&"first release_workspace".to_owned()), "{:?}", lab.ledger());
}

/// What the operation that runs on it waits for.
fn waits_for(lab: &Lab, id: &SandboxId) -> Vec<(String, String)> {
    let engine = lab.engine();
    let view = lab.block_on(async { engine.get(&Selector::Id(id.clone()), true).await }).expect("a row");
    let page = lab.block_on(async { engine.list(&SandboxQuery { all: true, ..SandboxQuery::default() }).await });
    let listed = page.expect("a list").views.into_iter().find(|view| view.record.id == *id).expect("its line");
    assert_eq!(view.record.conditions, listed.record.conditions);
    let pending = view.record.conditions.into_iter().filter(|condition| condition.kind.ends_with("Pending"));
    pending.map(|condition| (condition.kind, condition.reason)).collect()
}

#[test]
fn who_asks_while_a_create_may_still_land_is_told_and_nobody_is_afterwards() {
    let mut lab = Lab::new(83).driver(DriverSpec::new("fake").remote()).extension(ExtensionScript::everywhere("ext"));
    lab.start();
    lab.platform().next(Call::Create, Behaviour::Unknown(Duration::from_secs(1), None));
    let id = lab.ask_create("x").expect("an answer").expect("accepted").sandbox.id;
    lab.advance(Duration::from_mins(1));
    assert_eq!(waits_for(&lab, &id), [("DeletePending".to_owned(), "CreateMayLand".to_owned())]);
    lab.crash();
    lab.start();
    lab.advance(Duration::from_secs(1));
    assert_eq!(waits_for(&lab, &id), [("DeletePending".to_owned(), "CreateMayLand".to_owned())]);
    settle(&lab);
    assert_eq!(lab.row(&id).map(|row| row.phase), Some(SandboxPhase::Error));
    assert_eq!(waits_for(&lab, &id), []);
}

#[test]
fn who_asks_while_a_start_may_still_land_is_told_and_nobody_is_afterwards() {
    let mut lab = Lab::new(84).driver(DriverSpec::new("fake").remote()).extension(ExtensionScript::everywhere("ext"));
    lab.start();
    let (id, _) = lab.create("x");
    lab.stop_sandbox(&id).expect("stopped");
    lab.platform().next(Call::Start, Behaviour::Unknown(Duration::from_secs(1), None));
    let (engine, request) = (lab.engine(), lab.request());
    let start = id.clone();
    lab.block_on(async { engine.start(request, start).await }).expect("accepted");
    lab.advance(Duration::from_mins(1));
    assert_eq!(waits_for(&lab, &id), [("StopPending".to_owned(), "StartMayLand".to_owned())]);
    settle(&lab);
    assert_eq!(lab.row(&id).map(|row| row.phase), Some(SandboxPhase::Stopped));
    assert_eq!(waits_for(&lab, &id), []);
}
