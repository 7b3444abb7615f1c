//! Extensions in processes of their own, spoken to as `proto/chiton/v1/extension.proto` says.
//!
//! - [`client`]: the gateway's side: an [`ExtensionKind`](chiton_lifecycle::extension::ExtensionKind) behind a socket
//! - [`server`]: the extension's side: serves any kind of extension that could be compiled in
//! - [`local`]: both in one process, for tests and measurements
//! - [`proto`]: the generated code
//!
//! The rules are those of every extension; what is added is rule 6a of the lifecycle: a hook that runs elsewhere is over
//! when its process says so, or is gone.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod client;
pub mod local;
pub mod server;
mod wire;

/// Generated code.
#[allow(clippy::all, clippy::pedantic, missing_docs, unreachable_pub)]
pub mod proto {
    tonic::include_proto!("chiton.v1");
}

/// The contract's version.
pub const CONTRACT: u32 = 1;
