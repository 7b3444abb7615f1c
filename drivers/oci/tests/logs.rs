//! The main process's output through the driver.

mod common;

use chiton_driver::{ComputeDriver, LogOptions};
use common::*;
use futures::StreamExt;

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_gets_every_line_across_rotations_and_ends_with_the_sandbox() {
    if !able("a_follower_gets_every_line_across_rotations_and_ends_with_the_sandbox") {
        return;
    }
    let mut world = World::new();
    world.options.log_bytes = 64 * 1024;
    let driver = world.driver();
    let id = sandbox_id();
    // Waits for the gate between halves smaller than a file, so that the follower sees each before it is replaced.
    let script = "for part in 1 2 3 4; do seq -f \"$part %g\" 1 2000; \
                  while [ ! -e /run/chiton/go$part ]; do sleep 0.01; done; done";
    let call = with_agent(call(&driver, &request("host", &["sh", "-c", script]), &id).await, "one");
    driver.create(&call).await.unwrap();
    driver.start(&call).await.unwrap();
    let mut stream = driver.logs(&id, LogOptions { follow: true, ..LogOptions::default() }).await.unwrap();
    let mut text = String::new();
    let mut part = 1;
    within("the log", async {
        while let Some(chunk) = stream.next().await {
            text.push_str(std::str::from_utf8(&chunk.unwrap().data).unwrap());
            if text.ends_with(&format!("{part} 2000\n")) {
                std::fs::write(driver.agent_folder(&id).join(format!("go{part}")), "").unwrap();
                part += 1;
            }
        }
    })
    .await;
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("CHITON_")).collect();
    let wanted: Vec<String> = (1..=4).flat_map(|part| (1..=2000).map(move |line| format!("{part} {line}"))).collect();
    assert_eq!(lines, wanted);
    let folder = world.sandbox(&id).join("log");
    for file in ["log", "log.1"] {
        assert!(std::fs::metadata(folder.join(file)).unwrap().len() <= 64 * 1024, "{file} is too large");
    }
    driver.delete(&id).await.unwrap();
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn since_and_tail_choose_the_last_lines() {
    if !able("since_and_tail_choose_the_last_lines") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let id = sandbox_id();
    // Lines that are read in one go share a time: each waits until the one before was read.
    let script = "for line in a b c; do echo $line; while [ ! -e /run/chiton/go-$line ]; do sleep 0.01; done; done";
    let call = with_agent(call(&driver, &request("host", &["sh", "-c", script]), &id).await, "one");
    driver.create(&call).await.unwrap();
    driver.start(&call).await.unwrap();
    let mut stream = driver.logs(&id, LogOptions { follow: true, ..LogOptions::default() }).await.unwrap();
    let mut all = Vec::new();
    within("the log", async {
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.unwrap();
            if let [line @ (b'a' | b'b' | b'c'), b'\n'] = chunk.data[..] {
                std::fs::write(driver.agent_folder(&id).join(format!("go-{}", char::from(line))), "").unwrap();
                all.push(chunk);
            }
        }
    })
    .await;
    assert_eq!(all.len(), 3);
    let read = |options: LogOptions| {
        let stream = driver.logs(&id, options);
        async { stream.await.unwrap().map(|chunk| chunk.unwrap().data).collect::<Vec<_>>().await.concat() }
    };
    assert_eq!(read(LogOptions { since: Some(all[1].at), ..LogOptions::default() }).await, b"b\nc\n");
    assert_eq!(read(LogOptions { tail: Some(1), ..LogOptions::default() }).await, b"c\n");
    assert_eq!(read(LogOptions { tail: Some(0), ..LogOptions::default() }).await, b"");
    driver.delete(&id).await.unwrap();
    world.assert_no_traces();
}
