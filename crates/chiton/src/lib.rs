//! Chiton's program, as a library: a derived build adds its own drivers and extensions and forks nothing.
//!
//! ```no_run
//! fn main() -> std::process::ExitCode {
//!     chiton::Distribution::new().driver(chiton::oci()).extension(chiton_fleet_labels::extension()).main()
//! }
//! ```
//!
//! - [`Distribution`]: what is compiled in, and the way into the program
//! - `cli`: the command line's form
//! - `commands`: one file per group of commands
//! - `output`: tables, JSON and errors
//! - `wait`: following an operation to its end
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod builtin;
mod cli;
mod commands;
mod distribution;
mod escape;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod output;
mod parse;
mod progress;
mod terminal;
mod usage;
mod wait;

pub use builtin::{docker, external, oci, podman};
pub use chiton_openshell_session::openshell as supervisors;
pub use distribution::Distribution;
