//! Measures what Chiton costs beside the floor, alternating, in one run: `cargo xtask bench [ROUNDS]`.
//!
//! Absolute times say as much about the machine as about Chiton; the ratios are what counts. F is the median of an
//! fdatasync of the store's folder, measured between the rounds.

mod engine;
mod figures;
mod machine;
mod null_driver;
mod recovery;

use std::error::Error;
use std::process::ExitCode;

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
    let rounds = std::env::args().nth(1).map_or(Ok(50), |text| text.parse())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(engine::run(rounds))?;
    runtime.block_on(recovery::run())?;
    if rustix::process::geteuid().is_root() {
        runtime.block_on(machine::run(rounds))?;
    } else {
        println!("SKIPPED real sandboxes: not root");
    }
    Ok(())
}
