//! The monitor: one small process beside each sandbox of the `oci` driver.
//!
//! An exit status is given once, to the parent. A gateway that is the parent of its sandboxes loses every status that
//! falls into its absence, so the parent must be somebody who never restarts: a process with nothing to upgrade, little
//! to do and next to no memory. The monitor spawns the launch child, becomes the parent of the container's init (it is
//! a subreaper), copies its output to a bounded file, and writes how it ended to disk before it says so on its socket.
//! Gateways come and go; each finds the monitor by that socket.
//!
//! What the driver and the monitor must agree on lives here too, so that there is one definition of each: the wire
//! ([`wire`]), the cgroup layout ([`cgroup`]), the lock and the tombstone ([`lock`]), the log format ([`log`]) and the
//! exit record ([`exit`]). This crate has no async runtime and no thread.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod cgroup;
pub mod exit;
pub mod files;
pub mod lock;
pub mod log;
mod run;
pub mod user;
pub mod wire;

pub use run::main;
