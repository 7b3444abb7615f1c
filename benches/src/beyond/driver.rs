//! What a call of a driver costs more when the driver is behind a socket: the same looks at a map in this process, by a
//! bare client of the contract, and by the external driver; in turns. The floor is a byte to another thread and back.

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use chiton_compute_wire::v1::compute_driver_client::ComputeDriverClient;
use chiton_compute_wire::v1::{
    CreateSandboxRequest, DriverSandbox, DriverSandboxSpec, DriverSandboxTemplate, GetSandboxRequest,
};
use chiton_driver::{CallError, ComputeDriver, ObservedStatus};
use chiton_driver_external::{ExternalDriver, ExternalOptions};
use chiton_driver_scripted::{Faults, Platform, Script, Server};
use chiton_model::{DriverId, GatewayId, SandboxId, StoreEpoch};
use chiton_socket::{Dial, own_and_root};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::transport::Endpoint;

use crate::figures::Figures;
use crate::null_driver::NullDriver;

const GOAL: Duration = Duration::from_micros(80);
/// Looks in one round; the first of them wakes whoever sleeps.
const LOOKS: usize = 20;

pub(super) async fn run(rounds: usize) -> Result<(), Box<dyn Error>> {
    // As the engine's operations: a task, and not the thread that waits for the runtime.
    tokio::spawn(measure(rounds)).await?.map_err(|error| error as Box<dyn Error>)
}

async fn measure(rounds: usize) -> Result<(), Box<dyn Error + Send + Sync>> {
    let folder = tempfile::Builder::new().prefix("chiton-bench-").tempdir()?;
    let socket = folder.path().join("private").join("driver.sock");
    let platform = Platform::new(Faults::default(), Duration::ZERO, None)?;
    let server = Server::start(&socket, &platform, Script::default())?;
    let dial = Dial {
        what: "the scripted driver".to_owned(),
        path: socket.clone(),
        peers: own_and_root(),
        limit: Duration::from_secs(5),
    };
    let (channel, _) = dial.channel(Endpoint::from_static("http://localhost")).await?;
    let mut bare = ComputeDriverClient::new(channel);
    bare.create_sandbox(CreateSandboxRequest { sandbox: Some(sandbox()) }).await?;
    let options = ExternalOptions::new(
        DriverId::new("bench")?,
        GatewayId::new("bench")?,
        folder.path().join("state"),
        folder.path().join("run"),
        socket,
    );
    let (inside, beyond) =
        (NullDriver::new(DriverId::new("null")?, GatewayId::new("bench")?), ExternalDriver::new(options));
    let (here, there) = (SandboxId::new("here")?, SandboxId::new("there")?);
    inside.hold(here.clone(), ObservedStatus::Running, StoreEpoch::new("bench")?, 0);
    let mut echo = echo()?;
    let (mut own, mut floor, mut raw, mut hop) =
        (Figures::default(), Figures::default(), Figures::default(), Figures::default());
    for round in 0..rounds + 5 {
        for _ in 0..LOOKS {
            let begin = Instant::now();
            let found = inside.get(&here).await.map_err(CallError::into_error)?;
            let in_process = begin.elapsed();
            found.ok_or("the driver in this process lost its sandbox")?;
            let begin = Instant::now();
            echo.write_all(&[7]).await?;
            echo.read_exact(&mut [0]).await?;
            let there_and_back = begin.elapsed();
            let begin = Instant::now();
            bare.get_sandbox(GetSandboxRequest { sandbox_id: there.to_string(), sandbox_name: String::new() }).await?;
            let by_hand = begin.elapsed();
            let begin = Instant::now();
            let found = beyond.get(&there).await.map_err(CallError::into_error)?;
            let over_socket = begin.elapsed();
            found.ok_or("the driver behind the socket lost its sandbox")?;
            // The first rounds fill caches.
            if round >= 5 {
                own.add(in_process);
                floor.add(there_and_back);
                raw.add(by_hand);
                hop.add(over_socket);
            }
        }
    }
    drop(server);
    println!("# drivers behind a socket, one look at a time");
    own.report("a look, driver in process");
    floor.report("a byte over a socket and back");
    raw.report("a look over a socket, bare client");
    hop.report("a look over a socket, external driver");
    let added = hop.median().saturating_sub(own.median());
    println!(
        "added by the socket: {:.1} µs, {:.2} × the bare client; goal {} µs",
        added.as_secs_f64() * 1e6,
        hop.median().as_secs_f64() / raw.median().as_secs_f64(),
        GOAL.as_micros()
    );
    Ok(())
}

/// One end of a socket whose other end answers byte by byte, on a thread that ends with it.
fn echo() -> std::io::Result<tokio::net::UnixStream> {
    let (ours, mut theirs) = UnixStream::pair()?;
    std::thread::spawn(move || {
        let mut byte = [0];
        while theirs.read_exact(&mut byte).is_ok() && theirs.write_all(&byte).is_ok() {}
    });
    ours.set_nonblocking(true)?;
    tokio::net::UnixStream::from_std(ours)
}

fn sandbox() -> DriverSandbox {
    let template = DriverSandboxTemplate { image: "scripted".to_owned(), ..DriverSandboxTemplate::default() };
    let command = vec!["sleep".to_owned(), "600".to_owned()];
    let spec = DriverSandboxSpec { template: Some(template), command, ..DriverSandboxSpec::default() };
    DriverSandbox {
        id: "there".to_owned(),
        name: "there".to_owned(),
        namespace: "default".to_owned(),
        spec: Some(spec),
        ..DriverSandbox::default()
    }
}
