//! In the place of a handshake.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};

use super::Door;

/// How long an answer may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether the other side has closed, or does so soon.
async fn closed(stream: &mut UnixStream) -> bool {
    // Zero bytes and an error are both an end; anything else is none, and so is waiting.
    !matches!(timeout(PATIENCE, stream.read(&mut [0; 64])).await, Ok(Ok(1..)) | Err(_))
}

/// Two sessions of one agent, one after the other.
pub(super) async fn twice(door: &Door) -> io::Result<String> {
    let mut first = door.enter().await?;
    let mut second = door.enter().await?;
    let first = closed(&mut first).await;
    let wait = timeout(Duration::from_millis(500), second.read(&mut [0; 64])).await;
    Ok(format!(
        "first {}, second {}",
        if first { "closed" } else { "open" },
        if wait.is_err() { "open" } else { "closed" }
    ))
}

/// Until it is let in, as an agent dials.
pub(super) async fn come_back(door: &Door) -> io::Result<String> {
    let begin = Instant::now();
    // The kernel's queue may be full of connections that were never looked at.
    while door.enter().await.is_err() {
        sleep(Duration::from_millis(100)).await;
    }
    Ok(format!("accepted after {:?}", begin.elapsed()))
}

/// So many MiB that are no handshake, over as many connections as are cut meanwhile.
pub(super) async fn garbage(door: &Door, mebibytes: u64) -> io::Result<String> {
    let piece = vec![0xa5_u8; 64 * 1024];
    let (mut sent, mut connections) = (0, 0_u64);
    while sent < mebibytes * 1024 * 1024 {
        let mut stream = door.connect().await?;
        connections += 1;
        while let Ok(Ok(length)) = timeout(PATIENCE, stream.write(&piece)).await {
            sent += length as u64;
            if sent >= mebibytes * 1024 * 1024 {
                break;
            }
        }
    }
    Ok(format!("{sent} bytes over {connections} connections"))
}

/// As many connections as can be had, none of which says a word; held until killed.
pub(super) async fn silence(door: &Door, count: u64) -> io::Result<String> {
    let mut held = Vec::new();
    for _ in 0..count {
        match timeout(Duration::from_millis(200), door.connect()).await {
            Ok(Ok(stream)) => held.push(stream),
            Ok(Err(_)) | Err(_) => break,
        }
    }
    println!("holding {}", held.len());
    // A byte of a frame's length now and then keeps a clock that looks at bytes from running out.
    loop {
        for stream in &mut held {
            drop(stream.try_write(&[0]));
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// One good handshake after the other for so many seconds.
pub(super) async fn storm(door: &Door, seconds: u64) -> io::Result<String> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut accepted, mut refused) = (0_u64, 0_u64);
    while Instant::now() < end {
        match timeout(PATIENCE, door.enter()).await {
            Ok(Ok(_)) => accepted += 1,
            Ok(Err(_)) | Err(_) => refused += 1,
        }
    }
    Ok(format!("accepted {accepted}, refused {refused}"))
}

/// A frame that announces four gigabytes.
pub(super) async fn long(door: &Door) -> io::Result<String> {
    let mut stream = door.connect().await?;
    stream.write_all(&u32::MAX.to_be_bytes()).await?;
    Ok(if closed(&mut stream).await { "closed" } else { "open" }.to_owned())
}
