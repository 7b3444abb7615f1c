//! The binary that drivers put into a sandbox. One file holds several modes, because it is embedded and mounted once.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    // The mode is chosen before any runtime exists: each mode pays only for what it uses.
    let mut args = std::env::args_os().skip(1);
    let mode = args.next().unwrap_or_default();
    match mode.to_str() {
        Some("agent") => chiton_agent::run::main(args),
        Some("monitor") => chiton_oci_monitor::main(args),
        Some("--version") => {
            println!("chiton-agent {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!(
                "chiton-agent: unknown mode {}; use: chiton-agent agent -- [COMMAND...], or monitor",
                mode.display()
            );
            ExitCode::from(2)
        }
    }
}
