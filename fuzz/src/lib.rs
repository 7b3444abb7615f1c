//! Fuzz targets for everything that reads what comes from outside: files, requests, frames, archives, words.
//!
//! A target is a function of some bytes that panics when a property does not hold. It is run in three ways: by
//! `cargo test -p chiton-fuzz` (short), by this crate's program (as long as one likes, on the stable toolchain), and by
//! cargo-fuzz (`cargo-fuzz/`, guided by coverage). See `docs/testing.md`.
//!
//! - [`mod@targets`]: the targets, one file each
//! - [`run`]: from a seed to inputs, and what happens when one fails
//! - [`mutate`]: from one input to the next
//! - [`behaviour`]: what a target tells about an input, so that a new kind of answer is worth keeping
//! - [`cursor`]: bytes as choices, for targets whose inputs have a structure
//! - [`check`]: properties that several targets ask for
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod behaviour;
pub mod check;
pub mod cursor;
pub mod mutate;
pub mod run;
pub mod targets;

pub use targets::{TARGETS, Target, target};

/// Runs one input of the target of that name.
pub fn run_named(name: &str, data: &[u8]) {
    let target = target(name).unwrap_or_else(|| panic!("there is no target {name:?}"));
    (target.run)(data);
}
