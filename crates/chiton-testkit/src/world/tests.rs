//! The world itself: determinism, time, crashes, and that a hopeless wait is told.

use std::sync::Arc;
use std::time::Duration;

use chiton_lifecycle::runtime::{Clock, Executor};
use parking_lot::Mutex;

use super::{Halt, VirtualWorld};

type Order = Arc<Mutex<Vec<u32>>>;

fn race(seed: u64) -> Vec<u32> {
    let world = VirtualWorld::new(seed);
    let process = world.process();
    let order = Order::default();
    for number in 0..20 {
        let (order, clock) = (Arc::clone(&order), process.clone());
        process.spawn(Box::pin(async move {
            for _ in 0..3 {
                order.lock().push(number);
                clock.sleep(Duration::from_millis(u64::from(number % 3))).await;
            }
        }));
    }
    world.run_until_idle(Duration::from_secs(1)).expect("nobody kills it");
    order.lock().clone()
}

#[test]
fn the_same_seed_gives_the_same_order_and_another_seed_another() {
    assert_eq!(race(7), race(7));
    assert_ne!(race(7), race(8));
    assert_eq!(race(7).len(), 60);
}

#[test]
fn timers_fire_in_time_order_and_time_does_not_move_while_a_task_is_ready() {
    let world = VirtualWorld::new(1);
    let process = world.process();
    let seen: Arc<Mutex<Vec<(u64, Duration)>>> = Arc::default();
    for millis in [30, 10, 20] {
        let (seen, clock) = (Arc::clone(&seen), process.clone());
        process.spawn(Box::pin(async move {
            clock.sleep(Duration::from_millis(millis)).await;
            seen.lock().push((millis, clock.since_boot()));
        }));
    }
    world.settle().expect("nobody kills it");
    assert_eq!(world.elapsed(), Duration::ZERO);
    world.run_until_idle(Duration::from_secs(1)).expect("nobody kills it");
    let expected: Vec<_> = [10, 20, 30].map(|millis| (millis, Duration::from_millis(millis))).to_vec();
    assert_eq!(*seen.lock(), expected);
}

#[test]
fn a_wait_for_nothing_is_told_as_stuck() {
    let world = VirtualWorld::new(3);
    let halt = world.try_block_on(std::future::pending::<()>());
    assert!(matches!(halt, Err(Halt::Stuck(report)) if report.contains("nothing is ready and no timer is set")));
}

#[test]
#[should_panic(expected = "seed 3: stuck at")]
fn block_on_panics_with_the_seed_when_stuck() {
    VirtualWorld::new(3).block_on(std::future::pending::<()>());
}

#[test]
fn a_crash_drops_the_gateways_tasks_and_keeps_those_outside() {
    let world = VirtualWorld::new(4);
    let process = world.process();
    let done = Order::default();
    let (inside, outside) = (Arc::clone(&done), Arc::clone(&done));
    let sleep = process.sleep(Duration::from_secs(1));
    process.spawn(Box::pin(async move {
        sleep.await;
        inside.lock().push(1);
    }));
    let sleep = world.sleep(Duration::from_secs(1));
    world.spawn_outside(async move {
        sleep.await;
        outside.lock().push(2);
    });
    world.settle().expect("nobody kills it");
    world.crash();
    assert!(!process.is_alive());
    // A dead process starts nothing.
    let late = Arc::clone(&done);
    process.spawn(Box::pin(async move { late.lock().push(3) }));
    world.advance(Duration::from_secs(2)).expect("nobody kills it");
    assert_eq!(*done.lock(), [2]);
}

#[test]
fn a_reboot_begins_the_boot_clock_anew_and_changes_the_boot_id() {
    let world = VirtualWorld::new(5);
    world.advance(Duration::from_secs(9)).expect("nobody kills it");
    let (boot, wall) = (world.boot_id(), world.wall());
    world.reboot();
    assert_eq!(world.since_boot(), Duration::ZERO);
    assert_eq!(world.elapsed(), Duration::from_secs(9));
    assert_ne!(world.boot_id(), boot);
    assert_eq!(world.wall(), wall);
}

#[test]
fn blocking_work_takes_effect_at_its_end_and_its_panic_is_contained() {
    let world = VirtualWorld::new(6);
    let process = world.process();
    let done = Order::default();
    let seen = Arc::clone(&done);
    world.next_blocking_takes(Duration::from_secs(5));
    process.spawn_blocking(Box::new(move || seen.lock().push(1)));
    process.spawn_blocking(Box::new(|| panic!("scripted")));
    world.advance(Duration::from_secs(4)).expect("nobody kills it");
    assert!(done.lock().is_empty());
    world.advance(Duration::from_secs(1)).expect("nobody kills it");
    assert_eq!(*done.lock(), [1]);
}
