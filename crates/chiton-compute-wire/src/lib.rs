//! The contract with compute drivers behind a socket, `openshell.compute.v1`: its messages and what they mean.
//!
//! - [`v1`]: generated code
//! - [`names`]: the words of the contract that are no field names
//! - [`sandbox`]: a sandbox on the wire and what is known of it here
//! - [`status`]: what an answer says of a call's outcome
//! - [`text`]: a driver's words as they may be stored and shown
//! - [`json`]: the contract's free-form structures as JSON
//!
//! What drivers of other trees check requests with comes along: ids, quantities, "did you mean".
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod json;
pub mod names;
pub mod sandbox;
pub mod status;
pub mod text;

pub use chiton_driver::ObservedStatus;
pub use chiton_model::{CpuQuantity, Error, ExitStatus, MemoryQuantity, SandboxId, nearest, printable};

/// Generated code.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
pub mod v1 {
    tonic::include_proto!("openshell.compute.v1");
}

/// The contract as one encoded `FileDescriptorSet`, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
