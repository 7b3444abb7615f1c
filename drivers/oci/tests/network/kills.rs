//! Gateways and monitors that die: no interface and no rule outlives its sandbox.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use chiton_driver::ComputeDriver;
use chiton_model::SandboxId;

use super::common::*;
use super::net::{self, *};

/// Not a test of its own: the process that the next test kills.
#[tokio::test(flavor = "multi_thread")]
async fn bridged_gateway_to_be_killed() {
    let (Ok(folder), Ok(gateway), Ok(id)) =
        (std::env::var("OCI_TEST_FOLDER"), std::env::var("OCI_TEST_GATEWAY"), std::env::var("OCI_TEST_ID"))
    else {
        return;
    };
    let mut world = net::world();
    world.options.state_dir = format!("{folder}/state").into();
    world.options.run_dir = format!("{folder}/run").into();
    world.options.gateway = chiton_model::GatewayId::new(gateway).unwrap();
    world.options.network.allow_private = vec!["10.50.0.0/24".parse().unwrap()];
    let driver = world.driver();
    let id = SandboxId::new(id).unwrap();
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
        let mut command = Command::new(std::env::current_exe().unwrap());
        if late {
            // Killed in the delete instead.
            command.env("OCI_TEST_LATE", "1");
        }
        let mut gateway = command
            .args(["--exact", "kills::bridged_gateway_to_be_killed", "--nocapture"])
            .env("OCI_TEST_FOLDER", world.folder.path())
            .env("OCI_TEST_GATEWAY", world.gateway.as_str())
            .env("OCI_TEST_ID", id.as_str())
            .env("TMPDIR", world.folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(gateway.stdout.take().unwrap()));
        assert!(lines.any(|line| line.unwrap().ends_with("begin")));
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(step * 3) {
            std::hint::spin_loop();
        }
        gateway.kill().unwrap();
        gateway.wait().unwrap();
        let next = world.driver();
        if step % 2 == 0 {
            // The next gateway looks first, as a real one does.
            next.list().await.unwrap();
        }
        within("the delete", next.delete(&id)).await.unwrap();
        let left = kernel_objects();
        assert!(left.is_empty(), "killed after {} ms, late {late}: {left:#?}", step * 3);
        world.assert_no_traces();
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
    world.assert_no_traces();
}
