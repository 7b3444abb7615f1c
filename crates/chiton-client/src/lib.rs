//! How a program finds a gateway and talks to it.
//!
//! Three things that every client needs and that are easily done three times differently: where the gateway listens,
//! a connection over its Unix socket, and the error condition inside a gRPC status. The server uses the last one too,
//! so that both directions of the translation stand side by side.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod address;
mod connect;
mod status;
#[cfg(test)]
mod tests;

pub use address::{Address, GATEWAY_VARIABLE, default_socket, discover};
pub use connect::{CONNECT_DEADLINE, Client, connect};
pub use status::{from_detail, from_status, to_detail, to_status};
