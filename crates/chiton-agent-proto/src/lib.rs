//! The protocol between a gateway and the agent inside a sandbox.
//!
//! It is a crate of its own because both ends of it are built very differently: the gateway carries every feature of the
//! gRPC stack, the agent must stay small and is compiled once more inside another build. Here is only what both need: the
//! generated messages, client and server, the frames of the handshake that comes before HTTP/2, the bound on the headers of
//! tar streams, the memory of request ids, and the document that a driver may launch an agent with.
#![forbid(unsafe_code)]

pub mod frame;
pub mod headers;
pub mod launch;
pub mod requests;

/// Version 1, generated from `proto/chiton/agent/v1/agent.proto`; `tests/current.rs` proves that it is what the
/// compiler makes of that file today.
#[allow(clippy::all, clippy::pedantic, unreachable_pub, missing_docs)]
#[rustfmt::skip]
pub mod v1;
