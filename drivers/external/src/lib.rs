//! Sandboxes of a compute driver that runs as a process of its own behind a Unix socket.
//!
//! The process speaks `openshell.compute.v1` (crate `chiton-compute-wire`). It may be one of ours, served by
//! `chiton driver serve`, or anybody's. What it does not say of itself is assumed the careful way: it creates and starts in
//! one call, its effects may come late, and nothing that it lists is ever deleted unasked.
//!
//! - [`ExternalDriver`]: the driver, made from [`ExternalOptions`]
//! - `link`: the connection: looked at, greeted, given up when it breaks
//! - `handshake`: what the process says of itself, remembered for when it is away
//! - `listeners`: where its sandboxes call, held against where they are listened for
//! - `plan`: the request document as a plan that extensions can write to
//! - `message`: a plan as the contract's message
//! - `act`, `watch`: the calls and the news
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod act;
mod driver;
mod handshake;
mod link;
mod listeners;
mod message;
mod options;
mod plan;
mod watch;

pub use driver::ExternalDriver;
pub use options::ExternalOptions;
pub use plan::ExternalPlan;
