//! Create, start, stop, start again, delete, by a real driver on this machine.

mod common;

use std::os::unix::fs::PermissionsExt;

use chiton_driver::{CallError, ComputeDriver, LogOptions, ObservedStatus};
use common::*;
use futures::StreamExt;

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_is_created_then_started_and_its_exit_code_is_reported() {
    if !able("a_sandbox_is_created_then_started_and_its_exit_code_is_reported") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let id = sandbox_id();
    let call = call(&driver, &request("host", &["sh", "-c", "echo out; echo err >&2; exit 77"]), &id).await;
    driver.create(&call).await.unwrap();
    assert_eq!(status(&driver, &id).await, Some(ObservedStatus::Created));
    driver.create(&call).await.unwrap();
    assert_eq!(status(&driver, &id).await, Some(ObservedStatus::Created));
    driver.start(&call).await.unwrap();
    let exit = exit(&driver, &id).await;
    assert_eq!((exit.code, exit.reason.as_str()), (Some(77), "Exited"));
    let mut chunks: Vec<(bool, Vec<u8>)> = Vec::new();
    let mut log = driver.logs(&id, LogOptions::default()).await.unwrap();
    while let Some(chunk) = log.next().await {
        let chunk = chunk.unwrap();
        chunks.push((chunk.stderr, chunk.data.to_vec()));
    }
    chunks.sort();
    assert_eq!(chunks, [(false, b"out\n".to_vec()), (true, b"err\n".to_vec())]);
    driver.delete(&id).await.unwrap();
    assert_eq!(status(&driver, &id).await, None);
    driver.delete(&id).await.unwrap();
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_sandbox_wrote_is_there_after_stop_and_start_and_gone_after_delete() {
    if !able("what_a_sandbox_wrote_is_there_after_stop_and_start_and_gone_after_delete") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let id = sandbox_id();
    let script = "if [ -e /workspace/kept ]; then cat /workspace/kept; exit 3; fi; \
                  echo yes > /workspace/kept; trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    let call = call(&driver, &request("host", &["sh", "-c", script]), &id).await;
    driver.create(&call).await.unwrap();
    driver.start(&call).await.unwrap();
    driver.start(&call).await.unwrap();
    let mut log = driver.logs(&id, LogOptions { follow: true, ..LogOptions::default() }).await.unwrap();
    let first = within("the first line", log.next()).await.unwrap().unwrap();
    assert_eq!(&first.data[..], b"ready\n");
    driver.stop(&id).await.unwrap();
    let stopped = exit(&driver, &id).await;
    assert_eq!((stopped.code, stopped.reason.as_str()), (Some(5), "Exited"));
    driver.stop(&id).await.unwrap();
    driver.start(&call).await.unwrap();
    let again = until(
        &driver,
        &id,
        "the second exit",
        |status| matches!(status, ObservedStatus::Exited(exit) if exit.code == Some(3)),
    );
    again.await;
    let tail = LogOptions { tail: Some(1), ..LogOptions::default() };
    let last: Vec<_> = driver.logs(&id, tail).await.unwrap().collect().await;
    assert_eq!(&last[0].as_ref().unwrap().data[..], b"yes\n");
    driver.delete(&id).await.unwrap();
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ignores_the_stop_signal_is_killed_after_its_grace() {
    if !able("a_process_that_ignores_the_stop_signal_is_killed_after_its_grace") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let id = sandbox_id();
    let mut request = request("host", &["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.05; done"]);
    request.driver_config = serde_json::json!({ "stop_grace_seconds": 1 });
    let call = call(&driver, &request, &id).await;
    driver.create(&call).await.unwrap();
    driver.start(&call).await.unwrap();
    said(&driver, &id, "deaf").await;
    driver.stop(&id).await.unwrap();
    let exit = exit(&driver, &id).await;
    assert_eq!((exit.code, exit.reason.as_str()), (Some(137), "Signaled"));
    driver.delete(&id).await.unwrap();
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_id_is_never_created_again() {
    if !able("a_deleted_id_is_never_created_again") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let id = sandbox_id();
    let call = call(&driver, &request("host", &["true"]), &id).await;
    driver.delete(&id).await.unwrap();
    for driver in [driver, world.driver()] {
        match driver.create(&call).await {
            Err(CallError::NotRun(error)) => assert!(error.message.contains("never used again"), "{error}"),
            other => panic!("created a deleted id: {other:?}"),
        }
    }
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_does_not_exist_fails_the_start_and_names_it() {
    if !able("a_program_that_does_not_exist_fails_the_start_and_names_it") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let id = sandbox_id();
    let call = call(&driver, &request("host", &["no-such-program"]), &id).await;
    driver.create(&call).await.unwrap();
    match driver.start(&call).await {
        Err(CallError::Failed(error)) => assert!(error.message.contains("\"no-such-program\""), "{error}"),
        other => panic!("started nothing: {other:?}"),
    }
    driver.delete(&id).await.unwrap();
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_sandboxes_are_created_at_once_with_ranges_of_their_own() {
    if !root("twenty_sandboxes_are_created_at_once_with_ranges_of_their_own") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let request = request("host", &["cat", "/proc/self/uid_map"]);
    // All are there before the first is deleted: its range is free again then.
    let ids = futures::future::join_all((0..20).map(|_| started(&driver, &request))).await;
    let mut maps = Vec::new();
    for id in &ids {
        maps.push(output(&driver, id).await);
        assert_eq!(exit(&driver, id).await.code, Some(0));
    }
    for id in &ids {
        driver.delete(id).await.unwrap();
    }
    maps.sort();
    maps.dedup();
    assert_eq!(maps.len(), 20, "ranges were shared: {maps:?}");
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_is_the_entry_point_and_is_told_its_attempt() {
    if !able("the_agent_is_the_entry_point_and_is_told_its_attempt") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let id = sandbox_id();
    let call =
        call(&driver, &request("host", &["sh", "-c", "pwd; ls -d /run/chiton; cat /run/chiton/note"]), &id).await;
    let call = with_agent(call, "first");
    driver.create(&call).await.unwrap();
    std::fs::write(driver.agent_folder(&id).join("note"), "from the gateway\n").unwrap();
    let socket = driver.agent_folder(&id).join("agent.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666)).unwrap();
    // Another start than the one it was made for: built anew.
    let call = with_agent(call, "second");
    driver.start(&call).await.unwrap();
    let text = output(&driver, &id).await;
    for line in [
        "CHITON_AGENT_ATTEMPT=second",
        "CHITON_AGENT_SOCKET=/run/chiton/agent.sock",
        "CHITON_AGENT_TOKEN=very-secret",
        "CHITON_AGENT_WORKDIR=/workspace",
        "connected",
        "/workspace",
        "from the gateway",
    ] {
        assert!(text.lines().any(|found| found == line), "{line:?} is not in {text}");
    }
    let observed = driver.get(&id).await.unwrap().unwrap();
    assert_eq!(observed.attempt.as_deref(), Some("second"));
    let stored = std::fs::read_to_string(world.sandbox(&id).join("record.json")).unwrap();
    assert!(!stored.contains("very-secret"), "the token is on disk");
    driver.delete(&id).await.unwrap();
    world.assert_no_traces();
}
