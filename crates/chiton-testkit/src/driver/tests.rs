//! The platform: what is promised, what is done, and what survives a crash.

use std::time::Duration;

use chiton_driver::{CallError, ComputeDriver, CreateCall, DriverEvent, Identity, ObservedStatus};
use chiton_model::{GatewayId, OperationId, SandboxId, SandboxName, StoreEpoch, WorkspaceName};
use futures::StreamExt;
use serde_json::json;

use super::{Behaviour, Call, DriverSpec, ScriptedPlan, ScriptedPlatform};
use crate::agents::ScriptedAgents;
use crate::ledger::{Effect, Ledger, What};
use crate::world::VirtualWorld;

fn platform(spec: DriverSpec) -> (VirtualWorld, Ledger, ScriptedPlatform) {
    let world = VirtualWorld::new(11);
    let ledger = Ledger::new(world.clone());
    let platform = ScriptedPlatform::new(spec.without_agent(), &ledger, &ScriptedAgents::new(&world));
    (world, ledger, platform)
}

fn id() -> SandboxId {
    SandboxId::new("s-1").expect("valid")
}

fn call() -> CreateCall {
    CreateCall {
        identity: Identity {
            gateway: GatewayId::new("g-1").expect("valid"),
            epoch: StoreEpoch::new("e-1").expect("valid"),
            commit: 1,
            sandbox: id(),
            name: SandboxName::new("one").expect("valid"),
            workspace: WorkspaceName::default(),
            operation: OperationId::new("op-1").expect("valid"),
            principal: "uid:0".to_owned(),
            extensions: Vec::new(),
        },
        plan: serde_json::to_value(ScriptedPlan::default()).expect("a plan has a JSON form"),
        agent: None,
    }
}

fn effects(ledger: &Ledger) -> Vec<Effect> {
    let effect = |entry: crate::Entry| match entry.what {
        What::Effect { effect, .. } => Some(effect),
        _ => None,
    };
    ledger.entries().into_iter().filter_map(effect).collect()
}

#[test]
fn the_four_acts_are_idempotent() {
    let (world, ledger, platform) = platform(DriverSpec::new("fake"));
    let driver = platform.driver(&world.process());
    world.block_on(async {
        for _ in 0..2 {
            driver.create(&call()).await.expect("created");
        }
        for _ in 0..2 {
            driver.start(&call()).await.expect("started");
        }
        for _ in 0..2 {
            driver.stop(&id()).await.expect("stopped");
        }
        for _ in 0..2 {
            driver.delete(&id()).await.expect("deleted");
        }
    });
    assert_eq!(effects(&ledger), [Effect::Created, Effect::Started, Effect::Stopped, Effect::Deleted]);
    assert!(ledger.violations().is_empty());
}

#[test]
fn a_call_that_is_cut_off_by_a_crash_still_takes_hold() {
    let (world, ledger, platform) = platform(DriverSpec::new("fake").remote());
    platform.next(Call::Create, Behaviour::Succeed(Duration::from_secs(5)));
    let driver = platform.driver(&world.process());
    let call = call();
    {
        let mut create = driver.create(&call);
        assert!(world.try_block_on(futures::future::select(&mut create, world.sleep(Duration::from_secs(1)))).is_ok());
    }
    world.crash();
    assert!(platform.object(&id()).is_none());
    world.advance(Duration::from_secs(10)).expect("nobody kills it");
    assert_eq!(platform.object(&id()).map(|object| object.status), Some(ObservedStatus::Created));
    assert_eq!(effects(&ledger), [Effect::Created]);
}

#[test]
fn a_local_delete_ends_a_create_on_its_way_and_a_remote_one_does_not() {
    for (spec, survives) in [(DriverSpec::new("fake"), false), (DriverSpec::new("fake").remote(), true)] {
        let (world, _, platform) = platform(spec);
        let late = Behaviour::Unknown(Duration::from_secs(1), Some(Duration::from_mins(1)));
        platform.next(Call::Create, late);
        let driver = platform.driver(&world.process());
        world.block_on(async {
            let created = driver.create(&call()).await;
            assert!(matches!(created, Err(CallError::Unknown(_))));
            assert_eq!(driver.get(&id()).await.expect("an answer"), None);
            driver.delete(&id()).await.expect("deleted");
        });
        world.advance(Duration::from_secs(100)).expect("nobody kills it");
        assert_eq!(platform.object(&id()).is_some(), survives);
    }
}

#[test]
fn a_local_create_under_a_tombstone_is_certainly_not_run() {
    let (world, _, platform) = platform(DriverSpec::new("fake"));
    let driver = platform.driver(&world.process());
    let created = world.block_on(async {
        driver.delete(&id()).await.expect("deleted");
        driver.create(&call()).await
    });
    assert!(matches!(created, Err(CallError::NotRun(_))));
}

#[test]
fn a_watch_begins_with_a_snapshot_and_goes_on_as_late_as_the_platform_is() {
    let (world, _, platform) = platform(DriverSpec::new("fake").watch_lag(Duration::from_secs(3)));
    let driver = platform.driver(&world.process());
    world.block_on(async {
        driver.create(&call()).await.expect("created");
        let mut news = driver.watch();
        assert!(matches!(news.next().await, Some(DriverEvent::Changed(observed)) if observed.id == id()));
        assert_eq!(news.next().await, Some(DriverEvent::SnapshotEnd));
        driver.start(&call()).await.expect("started");
        let began = world.elapsed();
        platform.exit(&id(), 7);
        assert!(
            matches!(news.next().await, Some(DriverEvent::Changed(seen)) if seen.status == ObservedStatus::Running)
        );
        let Some(DriverEvent::Changed(seen)) = news.next().await else { panic!("an exit is told") };
        assert!(matches!(seen.status, ObservedStatus::Exited(exit) if exit.code == Some(7)));
        assert_eq!(world.elapsed().saturating_sub(began), Duration::from_secs(3));
        platform.end_watches();
        assert_eq!(news.next().await, None);
    });
}

#[test]
fn an_unfilled_slot_in_a_create_is_a_violation() {
    let (world, ledger, platform) = platform(DriverSpec::new("fake"));
    let driver = platform.driver(&world.process());
    let mut call = call();
    call.plan["image"] = json!(chiton_driver::marker("ipam.ip"));
    world.block_on(driver.create(&call)).expect("created");
    assert!(ledger.violations().iter().any(|text| text.contains("unfilled slots")));
}

#[test]
fn a_power_loss_ends_what_ran_locally_and_nothing_remote() {
    for (spec, runs) in [(DriverSpec::new("fake"), false), (DriverSpec::new("fake").remote(), true)] {
        let (world, _, platform) = platform(spec);
        let driver = platform.driver(&world.process());
        world.block_on(async {
            driver.create(&call()).await.expect("created");
            driver.start(&call()).await.expect("started");
        });
        platform.power_loss();
        assert_eq!(platform.object(&id()).is_some_and(|object| object.running()), runs);
    }
}
