//! The example driver in Rust as a program beside the gateways of these tests.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    chiton_example_driver_rust::main()
}
