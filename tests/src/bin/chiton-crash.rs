//! Kills a real gateway over and over and looks at the machine between. `cargo xtask crash` builds and starts it.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use chiton_tests::crash::{Options, run};
use clap::Parser;
use rand::Rng as _;

/// Kills a real gateway over and over while much is asked of it, and looks for what nobody owns.
#[derive(Parser)]
#[command(name = "chiton-crash")]
struct Arguments {
    /// The driver whose sandboxes are made: oci, docker, podman, links. The engine of docker and podman is the one that
    /// `ENGINES_DOCKER` or `ENGINES_PODMAN` names.
    #[arg(long, default_value = "oci")]
    driver: String,
    /// How often the gateway is killed.
    #[arg(long, default_value_t = 300)]
    kills: u64,
    /// Plays the choices of an earlier run again.
    #[arg(long)]
    seed: Option<u64>,
    /// The world is looked at after every so many kills.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    audit_every: u64,
    /// Kills the engine, too, at one in so many kills of the gateway; 0: never. It must be nobody else's.
    #[arg(long, default_value_t = 0)]
    engine_kills: u64,
    /// How many seconds a create or start whose answer was lost may still land on an engine. The gateway's default is 600.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    late: u64,
    /// Waits at the end until nothing can land any more and everything is released, however long that is.
    #[arg(long)]
    wait_late: bool,
    /// Where the JSON report goes; standard output when absent.
    #[arg(long)]
    report: Option<PathBuf>,
    /// The gateway to kill; the one beside this program when absent.
    #[arg(long)]
    program: Option<PathBuf>,
    /// Say nothing while it goes on.
    #[arg(long)]
    quiet: bool,
}

fn main() -> ExitCode {
    match crash(Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("crash: {why}");
            ExitCode::from(2)
        }
    }
}

fn crash(arguments: Arguments) -> Result<bool, String> {
    let beside = || Ok(std::env::current_exe()?.with_file_name("chiton-test"));
    let program: std::io::Result<PathBuf> = arguments.program.map_or_else(beside, Ok);
    let options = Options {
        program: program.map_err(|error| format!("this program's own path: {error}"))?,
        driver: arguments.driver,
        kills: arguments.kills,
        seed: arguments.seed.unwrap_or_else(|| rand::rng().random()),
        audit_every: arguments.audit_every,
        engine_kills: arguments.engine_kills,
        late: Duration::from_secs(arguments.late),
        wait_late: arguments.wait_late,
        verbose: !arguments.quiet,
    };
    eprintln!("crash: seed {}", options.seed);
    let report = run(&options)?;
    let text = serde_json::to_string_pretty(&report).map_err(|error| error.to_string())? + "\n";
    match &arguments.report {
        Some(path) => std::fs::write(path, text).map_err(|error| format!("the report {path:?}: {error}"))?,
        None => print!("{text}"),
    }
    let good = report.leaks.is_empty();
    if good {
        eprintln!("crash: {} kills, nothing leaked", report.kills.gateway);
    } else {
        eprintln!("crash: {} leaks:\n{}\nagain: {}", report.leaks.len(), report.leaks.join("\n"), report.replay);
    }
    Ok(good)
}
