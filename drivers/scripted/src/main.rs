//! `scripted-driver`: a compute driver behind a socket for tests and measurements, with faults on demand.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use chiton_driver_scripted::{Fault, Faults, Platform, Script, Server};
use clap::Parser;

/// A compute driver behind a socket whose sandboxes are plain processes of this machine. For tests and measurements.
#[derive(Parser)]
#[command(name = "scripted-driver", version)]
struct Options {
    /// Where it listens.
    #[arg(long, required_unless_present = "list_faults")]
    socket: Option<PathBuf>,
    /// A rule to break; may be repeated.
    #[arg(long = "fault", value_name = "NAME")]
    faults: Vec<Fault>,
    /// Knows only the public contract, without any additions.
    #[arg(long)]
    stock: bool,
    /// An address at which its sandboxes want to call the gateway; may be repeated.
    #[arg(long = "listener", value_name = "ADDRESS:PORT")]
    listeners: Vec<String>,
    /// Names the faults and says what each does.
    #[arg(long)]
    list_faults: bool,
    /// How long a sandbox takes from its create to its main process.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 0)]
    start_delay: u64,
    /// How late late answers are.
    #[arg(long, value_name = "SECONDS", default_value_t = 61)]
    late: u64,
    /// A file that keeps its sandboxes over restarts.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if options.list_faults {
        for fault in Fault::ALL {
            println!("{:28} {}", fault.name(), fault.about());
        }
        return ExitCode::SUCCESS;
    }
    match serve(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("scripted-driver: {why}");
            ExitCode::FAILURE
        }
    }
}

fn serve(options: Options) -> Result<(), String> {
    let Some(socket) = options.socket else { return Err("no --socket".to_owned()) };
    let faults: Faults = options.faults.into_iter().collect();
    let platform = Platform::new(faults.clone(), Duration::from_millis(options.start_delay), options.state)
        .map_err(|error| error.to_string())?;
    let late = Duration::from_secs(options.late);
    let script = Script { faults, late, stock: options.stock, listeners: options.listeners, revive: false };
    let mut server = Server::start(&socket, &platform, script).map_err(|error| match error.cure {
        Some(cure) => format!("{}; {cure}", error.message),
        None => error.message,
    })?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    println!("scripted-driver: listening on {}", socket.display());
    runtime.block_on(async {
        let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
            .map_err(|error| error.to_string())?;
        tokio::select! {
            _ = term.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
            () = server.ended() => return Err("it crashed, as it was told to".to_owned()),
        }
        Ok(())
    })
}
