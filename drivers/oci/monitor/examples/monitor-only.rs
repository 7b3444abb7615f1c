//! The monitor as a program of its own, to measure its memory as a static binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next() {
        Some(mode) if mode == "monitor" => chiton_oci_monitor::main(args),
        _ => ExitCode::from(2),
    }
}
