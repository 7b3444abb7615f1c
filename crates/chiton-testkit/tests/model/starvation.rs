//! Who waits for whom, and how long: exact times of the virtual clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chiton_lifecycle::CreateRequest;
use chiton_lifecycle::extension::StepError;
use chiton_lifecycle::journal::OperationOutcome;
use chiton_lifecycle::policy::{Activation, Match};
use chiton_model::{DriverId, ExtensionName, OperationKind, Phase, SandboxId, SandboxName, SandboxSpec};
use chiton_testkit::{Act, Behaviour, Call, DriverSpec, ExtensionScript, Lab, What};
use parking_lot::Mutex;

/// A lab with an extension that every sandbox has and one that only those have that ask for it.
fn lab(seed: u64, slow_limit: u32) -> Lab {
    Lab::new(seed)
        .driver(DriverSpec::new("fake"))
        .driver(DriverSpec::new("other"))
        .extension(ExtensionScript::everywhere("quick").declare(|descriptor| descriptor.concurrency = 4096))
        .extension_with(ExtensionScript::everywhere("slow").without(Phase::EnsureWorkspace), |policy| {
            policy.activation = Activation::OnRequest(Match::default());
            policy.concurrency = Some(slow_limit);
        })
}

fn spec(slow: bool) -> SandboxSpec {
    let extensions = slow.then(|| ExtensionName::new("slow").expect("valid")).into_iter().collect();
    SandboxSpec { extensions, ..SandboxSpec::default() }
}

/// What became of every create, and when.
type Ends = Arc<Mutex<BTreeMap<String, (Duration, OperationOutcome)>>>;

/// Asks for a sandbox beside whatever else is under way; its end goes into the list.
fn ask(lab: &Lab, name: &str, slow: bool, ends: &Ends) {
    let (engine, request, world, ends) = (lab.engine(), lab.request(), lab.world().clone(), Arc::clone(ends));
    let create = CreateRequest {
        name: Some(SandboxName::new(name).expect("valid")),
        spec: spec(slow),
        ..CreateRequest::default()
    };
    let name = name.to_owned();
    lab.world().spawn_outside(async move {
        let outcome = match engine.create(request, create).await {
            Ok(accepted) => {
                let operation = accepted.operation.expect("a create is an operation");
                engine.wait(&operation).await.expect("it exists").outcome.expect("it ended")
            }
            Err(error) => OperationOutcome::Failed(error),
        };
        ends.lock().insert(name, (world.elapsed(), outcome));
    });
}

/// So many creates at once, every hundredth with the slow extension.
fn crowd(size: usize, limit: u32, act: Option<(Phase, Act)>) -> (Lab, BTreeMap<String, (Duration, OperationOutcome)>) {
    let mut lab = lab(900, limit);
    lab.start();
    lab.create("warm");
    if let Some((phase, act)) = act {
        lab.script("slow").always(phase, act);
    }
    let began = lab.world().elapsed();
    let ends = Ends::default();
    for index in 0..size {
        ask(&lab, &format!("s-{index}"), index % 100 == 0, &ends);
    }
    lab.advance(Duration::from_mins(3));
    let ends = ends
        .lock()
        .iter()
        .map(|(name, (at, outcome))| (name.clone(), (at.saturating_sub(began), outcome.clone())))
        .collect();
    (lab, ends)
}

fn is_slow(name: &str) -> bool {
    name.ends_with("00") || name == "s-0"
}

#[test]
fn of_a_thousand_creates_at_once_those_with_a_slow_hook_delay_no_other() {
    let usual = |size| crowd(size, 4, None).1.values().map(|(at, _)| *at).max().expect("they ended");
    let usual = BTreeMap::from([(1000, usual(1000)), (200, usual(200))]);
    let second = Duration::from_secs(1);
    let slow = |seconds| Act::Slow(Duration::from_secs(seconds));
    // How many creates, the hook, how many of it at once, when the slow creates end, and how many of them succeed.
    let cases = [
        // Hung to their deadline and dropped a second later; the other six never got a turn within theirs.
        (1000, Phase::BeforeCreate, Act::Hang, 4, 30 * second..32 * second, 0),
        // A hook without effects, before anything is stored: the same.
        (200, Phase::PreparePlan, Act::Hang, 1, 30 * second..32 * second, 0),
        // Room for all: each takes as long as its own hook.
        (200, Phase::BeforeCreate, slow(29), 2, 29 * second..30 * second, 2),
        // One at a time, each waits for its turn.
        (200, Phase::AfterReady, slow(5), 1, 5 * second..11 * second, 2),
    ];
    for (size, phase, act, limit, bounds, succeed) in cases {
        let what = format!("{act:?} in {phase}, {limit} at once");
        let (lab, ends) = crowd(size, limit, Some((phase, act)));
        assert_eq!(ends.len(), size, "{what}: not all ended");
        for (name, (at, outcome)) in ends.iter().filter(|(name, _)| !is_slow(name)) {
            assert_eq!(*outcome, OperationOutcome::Succeeded, "{what}: {name}");
            assert!(*at <= usual[&size], "{what}: {name} took {at:?}, without slow hooks all took {:?}", usual[&size]);
        }
        let slow: Vec<_> = ends.iter().filter(|(name, _)| is_slow(name)).collect();
        assert_eq!(slow.len(), size / 100);
        assert!(slow.iter().all(|(_, (at, _))| bounds.contains(at)), "{what}: {slow:?}");
        let done = slow.iter().filter(|(_, (_, outcome))| *outcome == OperationOutcome::Succeeded).count();
        assert_eq!(done, succeed, "{what}");
        lab.assert_sound();
    }
}

#[test]
fn hooks_that_wait_for_a_turn_get_it_in_the_order_in_which_they_came() {
    for seed in 910..930 {
        let slow = ExtensionScript::new("slow")
            .phases([Phase::BeforeCreate, Phase::OnCreateFailed, Phase::AfterDelete])
            .declare(|descriptor| descriptor.concurrency = 1);
        let mut lab = Lab::new(seed).driver(DriverSpec::new("fake")).extension(slow);
        lab.start();
        lab.create("warm");
        lab.script("slow").always(Phase::BeforeCreate, Act::Slow(Duration::from_millis(700)));
        let ends = Ends::default();
        for index in 0..20 {
            ask(&lab, &format!("s-{index:02}"), false, &ends);
            lab.advance(Duration::from_millis(300));
        }
        lab.advance(Duration::from_mins(1));
        let names: BTreeMap<SandboxId, String> =
            lab.journal().rows().into_iter().map(|(id, row)| (id, row.name.to_string())).collect();
        let turns: Vec<String> = lab
            .ledger()
            .hooks()
            .iter()
            .filter(|hook| hook.extension.as_str() == "slow" && hook.phase == Phase::BeforeCreate)
            .filter_map(|hook| hook.subject.sandbox().and_then(|id| names.get(id)).cloned())
            .skip(1)
            .collect();
        let asked: Vec<String> = (0..20).map(|index| format!("s-{index:02}")).collect();
        assert_eq!(turns, asked, "seed {seed}");
        assert!(ends.lock().values().all(|(_, outcome)| *outcome == OperationOutcome::Succeeded));
    }
}

#[test]
fn a_slow_cleanup_of_one_extension_delays_no_retry_of_another() {
    let mut lab = lab(930, 64);
    lab.start();
    let ends = Ends::default();
    for index in 0..40 {
        ask(&lab, &format!("s-{index}"), true, &ends);
    }
    ask(&lab, "plain", false, &ends);
    lab.advance(Duration::from_secs(5));
    let error = || Act::Fail(StepError::fatal("scripted"));
    lab.script("slow").always(Phase::AfterDelete, error());
    let rows = lab.journal().rows();
    let plain = rows.values().find(|row| row.name.as_str() == "plain").expect("a row").id.clone();
    for id in rows.keys().filter(|id| **id != plain) {
        lab.delete_sandbox(id).expect("deleted");
    }
    // From now on every retry of the slow one takes its whole deadline.
    lab.script("slow").always(Phase::AfterDelete, Act::Hang);
    lab.advance(Duration::from_secs(20));
    for _ in 0..3 {
        lab.script("quick").next(Phase::AfterDelete, error());
    }
    lab.delete_sandbox(&plain).expect("deleted");
    let began = lab.world().elapsed();
    lab.advance(Duration::from_mins(2));
    let tries: Vec<Duration> = lab
        .ledger()
        .entries()
        .into_iter()
        .filter(|entry| matches!(&entry.what, What::HookBegin(hook)
            if hook.phase == Phase::AfterDelete && hook.extension.as_str() == "quick" && hook.subject.sandbox() == Some(&plain)))
        .map(|entry| entry.at.saturating_sub(began))
        .collect();
    // At once, then after at most 1 s, 2 s and 4 s: the jitter only shortens.
    let latest = [0, 1, 3, 7].map(Duration::from_secs);
    assert_eq!(tries.len(), 4, "{tries:?}");
    assert!(tries.iter().zip(latest).all(|(at, latest)| *at <= latest), "{tries:?}");
    assert!(lab.row(&plain).is_none());
    // The slow one's own retries are bounded, and all of them get their turn.
    let mut running = 0_usize;
    let mut most = 0;
    let mut calls = BTreeMap::new();
    for entry in lab.ledger().entries() {
        match entry.what {
            What::HookBegin(hook) if hook.extension.as_str() == "slow" && hook.phase == Phase::AfterDelete => {
                running += 1;
                most = most.max(running);
                calls.insert(hook.call, hook.subject);
            }
            What::HookEnd { call, .. } if calls.contains_key(&call) => running -= 1,
            _ => {}
        }
    }
    assert!(most <= 16, "{most} retries of one extension at once");
    lab.script("slow").behave();
    assert!(lab.quiesce(Duration::from_hours(1)));
    assert!(lab.journal().rows().is_empty());
    lab.assert_sound();
}

#[test]
fn a_delete_that_hangs_stalls_no_other_sandbox() {
    let mut lab = lab(940, 4);
    lab.start();
    let (stuck, _) = lab.create("stuck");
    let (other, _) = lab.create("other");
    lab.platform().always(Call::Delete, Behaviour::Hang);
    let (engine, request, id) = (lab.engine(), lab.request(), stuck.clone());
    lab.block_on(async move { engine.delete(request, id, false).await }).expect("accepted");
    lab.advance(Duration::from_mins(5));
    assert!(lab.platform().object(&stuck).is_some(), "it hangs");
    let began = lab.world().elapsed();
    lab.stop_sandbox(&other).expect("stopped");
    lab.start_sandbox(&other).expect("started");
    let (more, _) = lab.create("more");
    lab.stop_sandbox(&more).expect("stopped");
    let create = CreateRequest {
        name: Some(SandboxName::new("elsewhere").expect("valid")),
        spec: SandboxSpec { driver: Some(DriverId::new("other").expect("valid")), ..SandboxSpec::default() },
        ..CreateRequest::default()
    };
    let (engine, request) = (lab.engine(), lab.request());
    let elsewhere = lab.block_on(async move { engine.create(request, create).await }).expect("accepted").sandbox.id;
    lab.delete_sandbox(&elsewhere).expect("deleted");
    let took = lab.world().elapsed().saturating_sub(began);
    assert!(took < Duration::from_millis(100), "{took:?}");
    assert!(lab.row(&elsewhere).is_none());
    lab.platform().behave();
    assert!(lab.quiesce(Duration::from_hours(1)));
    assert!(lab.row(&stuck).is_none());
    lab.assert_sound();
}

#[test]
fn whoever_waits_for_a_sandbox_is_served_in_the_order_in_which_they_came() {
    for seed in 950..970 {
        let mut lab = lab(seed, 4);
        lab.start();
        let (id, _) = lab.create("one");
        lab.script("quick").next(Phase::BeforeStop, Act::Slow(Duration::from_secs(10)));
        let order = Arc::new(Mutex::new(Vec::new()));
        let ask = |kind: OperationKind| {
            let (engine, request, id, order) = (lab.engine(), lab.request(), id.clone(), Arc::clone(&order));
            lab.world().spawn_outside(async move {
                let answer = match kind {
                    OperationKind::Start => engine.start(request, id).await,
                    OperationKind::Stop => engine.stop(request, id).await,
                    _ => engine.delete(request, id, false).await,
                };
                order.lock().push((kind, answer.map(|accepted| accepted.operation).map_err(|error| error.message)));
            });
            lab.advance(Duration::from_millis(100));
        };
        ask(OperationKind::Stop);
        ask(OperationKind::Start);
        ask(OperationKind::Start);
        ask(OperationKind::Delete);
        ask(OperationKind::Delete);
        lab.advance(Duration::from_secs(30));
        let order = order.lock().clone();
        let answers: Vec<_> = order
            .iter()
            .map(|(kind, answer)| {
                (*kind, answer.clone().unwrap_or_else(|why| panic!("seed {seed}: a {kind} is refused: {why}")))
            })
            .collect();
        let of = |kind: OperationKind| answers.iter().filter(move |(asked, _)| *asked == kind).map(|(_, id)| id);
        assert_eq!(answers.len(), 5, "seed {seed}");
        for kind in [OperationKind::Start, OperationKind::Delete] {
            let ids: Vec<_> = of(kind).collect();
            assert!(ids[0].is_some() && ids[0] == ids[1], "seed {seed}: the second {kind} joins the first: {ids:?}");
        }
        let begun: Vec<OperationKind> = lab
            .journal()
            .operations()
            .into_values()
            .filter(|operation| operation.kind != OperationKind::EnsureWorkspace)
            .map(|operation| (operation.commit, operation.kind))
            .collect::<BTreeMap<_, _>>()
            .into_values()
            .collect();
        let expected = [OperationKind::Create, OperationKind::Stop, OperationKind::Start, OperationKind::Delete];
        assert_eq!(begun, expected, "seed {seed}");
        assert!(lab.row(&id).is_none());
        lab.assert_sound();
    }
}
