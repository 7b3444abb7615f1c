//! Measures what Chiton costs beside the floor, alternating, in one run: `cargo xtask bench [ROUNDS] [PART]`,
//! where a part is `engine`, `beyond`, `recovery`, `machine`, `engines` or `crowd`, and none means all.
//!
//! Absolute times say as much about the machine as about Chiton; the ratios are what counts. F is the median of an
//! fdatasync of the store's folder, measured between the rounds.

mod beyond;
mod crowd;
mod docker;
mod engine;
mod engines;
mod figures;
mod gateway;
mod library;
mod machine;
mod null_driver;
mod recovery;
mod steps;

use std::error::Error;
use std::process::ExitCode;

use beyond::SERVE;

/// How many sandboxes live at once in the last part.
const CROWD: usize = 200;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    if let Some(socket) = std::env::args_os().nth(2).filter(|_| std::env::args().nth(1).is_some_and(|one| one == SERVE))
    {
        return beyond::serve(socket.as_ref());
    }
    let rounds = std::env::args().nth(1).map_or(Ok(50), |text| text.parse())?;
    let only = std::env::args().nth(2);
    let parts = ["engine", "beyond", "recovery", "machine", "engines", "crowd"];
    if let Some(unknown) = only.as_deref().filter(|only| !parts.contains(only)) {
        return Err(format!("there is no part {unknown:?}; there are {}", parts.join(", ")).into());
    }
    let wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if wanted("engine") {
        runtime.block_on(engine::run(rounds))?;
    }
    if wanted("beyond") {
        runtime.block_on(beyond::run(rounds))?;
    }
    if wanted("recovery") {
        runtime.block_on(recovery::run())?;
    }
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED real sandboxes: not root");
        return Ok(());
    }
    if wanted("machine") {
        runtime.block_on(machine::run(rounds))?;
    }
    if wanted("engines") {
        runtime.block_on(engines::run(rounds))?;
    }
    if wanted("crowd") {
        runtime.block_on(crowd::run(CROWD))?;
    }
    Ok(())
}
