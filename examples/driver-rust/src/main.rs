//! The program; it is a library for tests that run it beside a gateway.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    chiton_example_driver_rust::main()
}
