//! A gateway that comes back to much: a thousand creates that it was killed in, or many sandboxes that just are.
//!
//! The real program with the real store over the driver [`crate::links`], so that what is measured is the engine and the
//! store. Everything that was made is looked for afterwards.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use chiton_client::Client;
use chiton_proto::v1 as wire;
use futures::{StreamExt as _, TryStreamExt as _};

use crate::crash::process::{DEADLINE, Process, rows, settled};

/// Requests at once, and connections that carry them.
const AT_ONCE: usize = 256;
const CONNECTIONS: usize = 8;
/// How long the driver makes the gateway wait for a create that is to be interrupted.
const HANGS_MS: u64 = 55_000;

/// A gateway that came back.
#[derive(Clone, Copy, Debug)]
pub struct Recovery {
    /// From the start of the process to serving.
    pub serving: Duration,
    /// From the start of the process until nothing interrupted was left.
    pub settled: Duration,
    /// Sandboxes that live.
    pub live: usize,
    /// Creates that were undone.
    pub unwound: usize,
}

fn configure(folder: &Path, create_ms: u64, extensions: &str) -> Result<(), String> {
    let text = format!(
        r#"[compute]
drivers = ["links"]
extensions = [{extensions}]
[compute.driver.links]
create_ms = {create_ms}
[compute.extension."fleet-labels"]
labels = {{ fleet = "recovery" }}
[compute.extension."fault"]
folder = "{}"
[log]
level = "warn"
"#,
        folder.display()
    );
    fs::write(folder.join("chiton.toml"), text).map_err(|error| format!("the config cannot be written: {error}"))
}

fn count(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, |listing| {
        listing.flatten().filter(|entry| !entry.file_name().to_string_lossy().starts_with('.')).count()
    })
}

async fn create_all(process: &Process, count: usize) -> Result<(), String> {
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(process.client().await?);
    }
    let sent = futures::stream::iter(0..count).map(|index| {
        let mut client = clients[index % CONNECTIONS].clone();
        async move { client.create_sandbox(wire::CreateSandboxRequest::default()).await.map(drop) }
    });
    let sent: Result<Vec<()>, _> = sent.buffer_unordered(AT_ONCE).try_collect().await;
    sent.map(drop).map_err(|status| format!("a create: {status}"))
}

/// Kills a gateway with so many creates in flight, half of the way through each, and starts it again.
///
/// # Errors
/// It did not come back, or something that it had made is left.
pub async fn creates_in_flight(program: &Path, folder: &Path, creates: usize) -> Result<Recovery, String> {
    configure(folder, HANGS_MS, r#""fleet-labels", "fault", "noop""#)?;
    let mut process = Process::new(program, folder);
    process.begin().map_err(|error| format!("{program:?}: {error}"))?;
    process.served().await?;
    create_all(&process, creates).await?;
    let objects = folder.join("data/drivers/links/objects");
    let begun = Instant::now();
    while count(&objects) < creates {
        if begun.elapsed() > DEADLINE {
            return Err(format!("only {} of {creates} creates are in flight", count(&objects)));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    process.kill().await.map_err(|error| error.to_string())?;
    let recovery = come_back(&mut process).await?;
    for left in [objects, folder.join("effects")] {
        // What a workspace was given stays.
        let left_over = fs::read_dir(&left).map_err(|error| format!("{left:?}: {error}"))?.flatten();
        let left_over: Vec<_> = left_over
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| !name.ends_with(".ensure_workspace") && !name.starts_with('.'))
            .collect();
        if !left_over.is_empty() {
            return Err(format!("{left:?} holds {} things, {:?} among them", left_over.len(), left_over[0]));
        }
    }
    process.terminate().await?;
    Ok(recovery)
}

/// Makes so many sandboxes, kills the gateway and starts it again.
///
/// # Errors
/// It did not come back.
pub async fn many_sandboxes(program: &Path, folder: &Path, sandboxes: usize) -> Result<Recovery, String> {
    configure(folder, 0, r#""fleet-labels", "noop""#)?;
    let mut process = Process::new(program, folder);
    process.begin().map_err(|error| format!("{program:?}: {error}"))?;
    process.served().await?;
    create_all(&process, sandboxes).await?;
    settled(&mut process.client().await?).await?;
    process.kill().await.map_err(|error| error.to_string())?;
    let recovery = come_back(&mut process).await?;
    process.terminate().await?;
    Ok(recovery)
}

async fn come_back(process: &mut Process) -> Result<Recovery, String> {
    process.begin().map_err(|error| error.to_string())?;
    let serving = process.served().await?;
    let mut client = process.client().await?;
    settled(&mut client).await?;
    let took = process.begun().elapsed();
    let rows = rows(&mut client).await.map_err(|status| format!("a list: {status}"))?;
    let of = |phase: &str| rows.iter().filter(|row| row.phase == phase).count();
    Ok(Recovery { serving, settled: took, live: of("Ready"), unwound: of("Error") })
}
