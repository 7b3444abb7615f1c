//! Generated code only: the wire forms of Chiton's protocols. Meaning lives in the crates that translate them.
#![forbid(unsafe_code)]
#![allow(clippy::all, clippy::pedantic, unreachable_pub)]

/// What a gateway asks of the agent inside a sandbox.
pub mod agent {
    pub use chiton_agent_proto::{frame, headers, requests, v1};
}

/// The gateway's own API.
pub mod v1 {
    tonic::include_proto!("chiton.v1");
}

/// All protocol files as one encoded `FileDescriptorSet`, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
