//! Processes that die at bad moments: what they leave is found by id, and what they did not break goes on.

mod common;

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chiton_driver::{ComputeDriver, DriverEvent, ObservedStatus};
use chiton_driver_oci::OciDriver;
use chiton_model::SandboxId;
use common::*;
use futures::StreamExt;
use rustix::process::{Pid, Signal, kill_process};

fn kill(pid: i32) {
    let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
}

const SLEEP: [&str; 3] = ["sh", "-c", "while :; do sleep 0.05; done"];

#[tokio::test(flavor = "multi_thread")]
async fn a_second_driver_finds_running_sandboxes_and_exits_that_nobody_saw() {
    if !able("a_second_driver_finds_running_sandboxes_and_exits_that_nobody_saw") {
        return;
    }
    let world = World::new();
    let (runs, ended) = (sandbox_id(), sandbox_id());
    let gate = world.folder.path().join("run/agent").join(ended.as_str()).join("go");
    {
        let first = world.driver();
        let call_runs = with_agent(call(&first, &request("host", &SLEEP), &runs).await, "one");
        let wait = "while [ ! -e /run/chiton/go ]; do sleep 0.02; done; exit 42";
        let call_ends = with_agent(call(&first, &request("host", &["sh", "-c", wait]), &ended).await, "two");
        for call in [&call_runs, &call_ends] {
            first.create(call).await.unwrap();
            first.start(call).await.unwrap();
        }
    }
    // Nobody watches: the monitor alone sees the end.
    fs::write(&gate, "").unwrap();
    let monitor = monitor_of(&ended);
    let record = world.sandbox(&ended).join("exit.json");
    let begin = Instant::now();
    while !record.exists() || monitor_of(&ended).is_some() {
        assert!(begin.elapsed() < PATIENCE, "no exit record; the monitor was {monitor:?}");
        tokio::task::yield_now().await;
    }
    let second = world.driver();
    let mut events = second.watch();
    let mut seen = Vec::new();
    within("the snapshot", async {
        while let Some(event) = events.next().await {
            match event {
                DriverEvent::Changed(observed) => seen.push(observed),
                DriverEvent::SnapshotEnd => break,
                _ => {}
            }
        }
    })
    .await;
    let of = |id: &SandboxId| seen.iter().rfind(|observed| observed.id == *id).unwrap();
    assert_eq!((&of(&runs).status, of(&runs).attempt.as_deref()), (&ObservedStatus::Running, Some("one")));
    match &of(&ended).status {
        ObservedStatus::Exited(exit) => assert_eq!((exit.code, exit.reason.as_str()), (Some(42), "Exited")),
        other => panic!("{other:?}"),
    }
    assert_eq!((of(&ended).commit, of(&ended).epoch.as_str()), (7, "e-1"));
    second.stop(&runs).await.unwrap();
    // News of an adopted sandbox come through the connection that adopted it.
    within("the news", async {
        loop {
            match events.next().await.unwrap() {
                DriverEvent::Changed(observed)
                    if observed.id == runs && matches!(observed.status, ObservedStatus::Exited(_)) =>
                {
                    break;
                }
                _ => {}
            }
        }
    })
    .await;
    for id in [&runs, &ended] {
        second.delete(id).await.unwrap();
    }
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_whose_monitor_was_killed_is_ended_and_says_so() {
    if !able("a_sandbox_whose_monitor_was_killed_is_ended_and_says_so") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let id = sandbox_id();
    let call = call(&driver, &request("host", &SLEEP), &id).await;
    driver.create(&call).await.unwrap();
    driver.start(&call).await.unwrap();
    kill(monitor_of(&id).unwrap());
    let exit = exit(&driver, &id).await;
    assert_eq!((exit.code, exit.reason.as_str()), (None, "MonitorLost"));
    driver.start(&call).await.unwrap();
    assert_eq!(status(&driver, &id).await, Some(ObservedStatus::Running));
    kill(monitor_of(&id).unwrap());
    driver.delete(&id).await.unwrap();
    world.await_no_traces();
}

/// Kills the monitor or the launch child of a create that is under way, at a given time after its begin.
async fn interrupted(world: &World, driver: &OciDriver, launch_child: bool, after: Duration) {
    let id = sandbox_id();
    let call = call(driver, &request("host", &SLEEP), &id).await;
    let victim = {
        let id = id.clone();
        std::thread::spawn(move || {
            let begin = Instant::now();
            let monitor = loop {
                if let Some(pid) = monitor_of(&id) {
                    break pid;
                }
                if begin.elapsed() > PATIENCE {
                    return;
                }
            };
            let begin = Instant::now();
            while begin.elapsed() < after {
                std::hint::spin_loop();
            }
            if launch_child {
                children(monitor).into_iter().for_each(kill);
            } else {
                kill(monitor);
            }
        })
    };
    let created = within("the create", driver.create(&call)).await;
    victim.join().unwrap();
    if created.is_ok() {
        let _ = within("the start", driver.start(&call)).await;
    }
    within("the delete", driver.delete(&id)).await.unwrap();
    world.await_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_monitor_killed_at_any_time_of_a_create_leaves_nothing_after_delete() {
    if !able("a_monitor_killed_at_any_time_of_a_create_leaves_nothing_after_delete") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    for step in 0..30 {
        interrupted(&world, &driver, false, Duration::from_micros(500 * step)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launch_child_killed_at_any_time_of_a_create_leaves_nothing_after_delete() {
    if !able("a_launch_child_killed_at_any_time_of_a_create_leaves_nothing_after_delete") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    for step in 0..30 {
        interrupted(&world, &driver, true, Duration::from_micros(500 * step)).await;
    }
}

/// What a gateway does that finds its predecessor's create under way.
#[tokio::test(flavor = "multi_thread")]
async fn a_delete_ends_a_create_that_is_under_way_without_waiting_for_its_monitors_patience() {
    if !able("a_delete_ends_a_create_that_is_under_way_without_waiting_for_its_monitors_patience") {
        return;
    }
    let world = World::new();
    let (first, second) = (Arc::new(world.driver()), world.driver());
    for step in 0..20 {
        let id = sandbox_id();
        let call = call(&first, &request("host", &SLEEP), &id).await;
        let making = {
            let first = Arc::clone(&first);
            tokio::spawn(async move { first.create(&call).await })
        };
        let begin = Instant::now();
        while monitor_of(&id).is_none() && begin.elapsed() < PATIENCE {
            tokio::task::yield_now().await;
        }
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(step) {
            tokio::task::yield_now().await;
        }
        let begin = Instant::now();
        within("the delete", second.delete(&id)).await.unwrap();
        // A monitor that nobody hears from for ten seconds is killed; that is not how this is to end.
        assert!(begin.elapsed() < Duration::from_secs(10), "step {step}: {:?}", begin.elapsed());
        let _ = within("the create", making).await.unwrap();
        world.await_no_traces();
    }
}

/// Not a test of its own: the process that the next test kills.
#[tokio::test(flavor = "multi_thread")]
async fn gateway_to_be_killed() {
    let Some((world, id)) = to_be_killed(World::new()) else { return };
    let driver = world.driver();
    let call = call(&driver, &request("host", &SLEEP), &id).await;
    println!("begin");
    let _ = driver.create(&call).await;
    let _ = driver.start(&call).await;
    println!("running");
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_killed_at_any_time_of_create_and_start_leaves_nothing_after_delete() {
    if !able("a_gateway_killed_at_any_time_of_create_and_start_leaves_nothing_after_delete") {
        return;
    }
    let world = World::new();
    for step in 0..25 {
        let id = sandbox_id();
        let test = name_of(module_path!(), "gateway_to_be_killed");
        kill_a_gateway(&world, &test, &id, Duration::from_millis(step), false);
        let next = world.driver();
        within("the delete", next.delete(&id)).await.unwrap();
        world.await_no_traces();
    }
}
