//! The agent inside a sandbox.
//!
//! It dials the gateway instead of listening, because a sandbox may have no network and because an open port inside is
//! one more thing to guard. The gateway then calls it over that very connection. It is usually process 1 of the sandbox,
//! so it also does what an init does: starts the main program, forwards signals, reaps what nobody waits for and leaves
//! with the main program's exit code.
//!
//! One thread does everything but file work; a sandbox that was just created waits for this program, so it does nothing
//! at its start that it does not need.
//!
//! - [`config`]: what the driver hands over, and [`launch`]: the part of it that may come by standard input
//! - [`run`]: the life of the agent from start to exit
//! - [`dial`]: connecting, again and again, and the handshake
//! - [`service`]: the gRPC service, [`exec`] and [`files`] behind it
//! - [`processes`]: the one place that waits for children; [`spawn`] starts them, the only module with `unsafe`
//! - [`blocking`]: threads for file work
#![deny(unsafe_code)]

pub mod blocking;
pub mod config;
pub mod dial;
mod environment;
pub mod exec;
pub mod files;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod launch;
mod output;
pub mod processes;
mod pty;
pub mod run;
pub mod service;
#[allow(unsafe_code)]
pub mod spawn;
