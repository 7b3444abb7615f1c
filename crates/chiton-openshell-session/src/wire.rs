//! The supervisor's protocol, generated from `proto/openshell`.

/// Package `openshell`.
pub mod openshell {
    /// Package `openshell.v1`.
    #[allow(clippy::all, clippy::pedantic, unreachable_pub, missing_docs)]
    pub mod v1 {
        tonic::include_proto!("openshell.v1");
    }

    /// What the supervisor is told about its sandbox.
    pub mod sandbox {
        /// Package `openshell.sandbox.v1`.
        #[allow(clippy::all, clippy::pedantic, unreachable_pub, missing_docs)]
        pub mod v1 {
            tonic::include_proto!("openshell.sandbox.v1");
        }
    }
}

pub use openshell::sandbox::v1 as sandbox;
pub use openshell::v1::*;

/// The protocol as its compiler sees it: an encoded `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
