//! A compute driver: each sandbox is a process with a session and a folder of its own.
//!
//! THERE IS NO ISOLATION: what runs in a sandbox may do all that the user may who runs the driver. This program shows what the
//! contract asks of a driver, and nothing else.
//!
//! Each sandbox has a [`keeper`], which outlives the driver. What a sandbox is lies in `STATE/sandboxes/ID/`: `sandbox.json`
//! (what was asked), `run.json` (its latest start), `token`, `output`, `files/`.
//!
//! - [`asked`]: what a request may say; [`service`]: the contract's calls
//! - [`driver`]: all sandboxes, and what is done to them; [`sandbox`]: one of them; [`files`]: how they are written down
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![allow(rustdoc::private_intra_doc_links)]

mod asked;
mod driver;
mod files;
mod keeper;
mod sandbox;
mod service;

use std::error::Error;
use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chiton_compute_wire::v1::compute_driver_server::ComputeDriverServer;
use chiton_socket::{Access, PeerListener, own_and_root};
use clap::Parser;
use rustix::fs::Mode;
use tokio::signal::unix::{SignalKind, signal};

use crate::driver::Driver;

/// How long calls that are under way may take when the driver is to end.
const DRAIN: Duration = Duration::from_mins(1);
/// How long whoever is just ending may keep the lock of the state.
const DYING: Duration = Duration::from_secs(3);

/// A compute driver whose sandboxes are processes, without any isolation.
#[derive(Parser)]
struct Options {
    /// Where to listen; left out when systemd hands over a socket.
    #[arg(long, default_value = "/run/process-driver/driver.sock")]
    socket: PathBuf,
    /// The folder in which sandboxes are kept.
    #[arg(long)]
    state: PathBuf,
}

/// The program.
pub fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    let ended = match words.get(1).and_then(|word| word.to_str()) {
        Some(keeper::KEEP) if words.len() == 3 => keeper::keep(Path::new(&words[2])).map_err(Into::into),
        Some(keeper::ENTER) if words.len() == 3 => keeper::enter(Path::new(&words[2])).map_err(Into::into),
        _ => serve(&Options::parse()),
    };
    let Err(error) = ended else { return ExitCode::SUCCESS };
    eprintln!("driver: {error}");
    ExitCode::FAILURE
}

#[tokio::main]
async fn serve(options: &Options) -> Result<(), Box<dyn Error>> {
    // Nothing that is written here is for others: not the state, not the tokens in it.
    rustix::process::umask(Mode::from_raw_mode(0o077));
    DirBuilder::new().recursive(true).mode(0o700).create(&options.state)?;
    let lock = File::create(options.state.join("lock"))?;
    // One that was killed while it spawned a program left a child that has the lock until the program is executed.
    let end = Instant::now() + DYING;
    while lock.try_lock().is_err() {
        if Instant::now() >= end {
            return Err(format!("another driver works on {:?}", options.state).into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let driver = Driver::find_again(&options.state).await?;
    let access = Access {
        who: "driver",
        cure: "name another path by --socket",
        allowed: Arc::new(own_and_root()),
        private: true,
    };
    let listener = match PeerListener::from_systemd(&access)? {
        Some(handed_over) => handed_over,
        None => PeerListener::bind(&options.socket, &access)?,
    };
    let service = ComputeDriverServer::new(driver.clone());
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<ComputeDriverServer<Driver>>().await;
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    eprintln!("driver: listening on {:?}", options.socket);
    let (ending, begun) = tokio::sync::oneshot::channel();
    let over = async move {
        tokio::select! { _ = term.recv() => {} _ = int.recv() => {} }
        // Nothing new, the watches end, what is under way goes on to its end. Sandboxes stay.
        reporter.set_not_serving::<ComputeDriverServer<Driver>>().await;
        driver.end_watches();
        let _ = ending.send(());
    };
    let server = tonic::transport::Server::builder().add_service(health).add_service(service);
    tokio::select! {
        ended = server.serve_with_incoming_shutdown(listener.incoming(), over) => Ok(ended?),
        // Callers who hang do not keep it.
        () = async { drop(begun.await); tokio::time::sleep(DRAIN).await } => Ok(()),
    }
}
