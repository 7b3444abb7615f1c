//! OpenShell's supervisor at our gateway.
//!
//! Some external drivers inject a supervisor of another make into their sandboxes. It dials its gateway over TCP, in a
//! protocol of its own, and offers an SSH server inside the sandbox where our agent offers gRPC. This crate serves the calls
//! of that supervisor and presents each live session to the gateway's hub as if an agent of ours had connected, so that
//! nothing else in the gateway knows the difference.
//!
//! - [`openshell()`]: as what a gateway plugs it in
//! - [`serve()`]: the listener and its life
//! - [`wire`]: the supervisor's protocol, generated
//! - `service`: its calls, each authenticated; `auth`: by what
//! - `places`: who may have how many connections
//! - `session`: the supervisors that are there; `relay`: the byte streams into their sandboxes
//! - `ssh`: a client of the supervisor's SSH server; `line`: programs as lines for its shell
//! - `agent`: our agent's protocol, carried out through all that
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod agent;
mod auth;
mod line;
mod places;
mod policy;
mod relay;
mod serve;
mod service;
mod session;
mod ssh;
pub mod wire;

pub use auth::{Issued, Mint, SameToken};
pub use line::quote;
pub use serve::{Handle, Limits, Options, openshell, serve};
pub use service::NoExits;
