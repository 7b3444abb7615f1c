//! Gateways and monitors that die: no interface and no rule outlives its sandbox.

use std::fs;
use std::time::Duration;

use chiton_driver::ComputeDriver;

use super::common::*;
use super::net::{self, *};

/// Not a test of its own: the process that the next test kills.
#[tokio::test(flavor = "multi_thread")]
async fn bridged_gateway_to_be_killed() {
    let Some((mut world, id)) = to_be_killed(net::world()) else { return };
    world.options.network.allow_private = vec!["10.50.0.0/24".parse().unwrap()];
    let driver = world.driver();
    let call = call(&driver, &bridged(&SLEEP, &["10.50.0.1:80"]), &id).await;
    let late = std::env::var_os("OCI_TEST_LATE").is_some();
    if !late {
        println!("begin");
    }
    let _ = driver.create(&call).await;
    let _ = driver.start(&call).await;
    if late {
        println!("begin");
    }
    let _ = driver.delete(&id).await;
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_killed_at_any_time_leaves_no_interface_and_no_rule_after_delete() {
    if !machine("kills::a_gateway_killed_at_any_time_leaves_no_interface_and_no_rule_after_delete") {
        return;
    }
    let _outside = build();
    let world = world();
    for (step, late) in (0..16_u64).map(|step| (step, false)).chain((0..8).map(|step| (step, true))) {
        let id = sandbox_id();
        // Where it is late, it is killed in the delete instead.
        let after = Duration::from_millis(step * 3);
        kill_a_gateway(&world, "kills::bridged_gateway_to_be_killed", &id, after, late);
        let next = world.driver();
        if step % 2 == 0 {
            // The next gateway looks first, as a real one does.
            next.list().await.unwrap();
        }
        within("the delete", next.delete(&id)).await.unwrap();
        let left = kernel_objects();
        assert!(left.is_empty(), "killed after {} ms, late {late}: {left:#?}", step * 3);
        world.await_no_traces();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_monitor_killed_under_its_sandbox_leaves_no_interface_after_delete() {
    if !machine("kills::a_monitor_killed_under_its_sandbox_leaves_no_interface_after_delete") {
        return;
    }
    let _outside = build();
    let world = world();
    let driver = world.driver();
    let (id, namespace) = running(&driver, &bridged(&SLEEP, &[])).await;
    let before = address(&namespace);
    drop(namespace);
    let arguments = format!("monitor\0{id}\0");
    let monitor = fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let found = String::from_utf8_lossy(&line).ends_with(&arguments);
        found.then(|| entry.file_name().to_str()?.parse::<i32>().ok()).flatten()
    });
    let pid = rustix::process::Pid::from_raw(monitor.unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    exit(&driver, &id).await;
    driver.start(&call(&driver, &bridged(&SLEEP, &[]), &id).await).await.unwrap();
    assert_eq!(address(&net::namespace(&id)), before);
    driver.delete(&id).await.unwrap();
    assert_no_objects();
    world.await_no_traces();
}
