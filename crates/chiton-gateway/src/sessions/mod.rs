//! Sessions with the agents inside sandboxes, which dial out to us.
//!
//! Usually each sandbox has a folder that only it can see, and in it a socket of ours: which socket an agent comes in by says
//! which sandbox it is. The token it sends is the second factor, so that a folder shown to the wrong sandbox by mistake
//! opens nothing. After the handshake we are the client on the agent's own connection.
//!
//! Where a driver injects an agent of another make, somebody else takes its connections, speaks its protocol and brings us
//! a stream on which [`chiton_proto::agent::v1`] is served in its name: [`Sessions::admit`] and [`Sessions::attach`].
//!
//! Either side may go and come back: a restarted gateway binds the sockets anew and the agents dial again.
//!
//! - [`Sessions`]: the hub; everything the gateway asks goes through it
//! - [`Tokens`]: what the hub asks the store; [`Exits`]: what agents of another make tell the engine
//! - `socket`: binding, also where the path is too long for an address
//! - `accept`: the handshake, bounded in time, size and number
//! - `health`: agents that do not answer
//! - `link`: one accepted connection, idle until its first call

mod accept;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod health;
mod hub;
mod link;
mod socket;

use async_trait::async_trait;
use chiton_model::{Error, SandboxId};

pub use health::{CallError, Trouble};
pub use hub::{SessionError, Sessions};
pub use socket::{Socket as AgentSocket, bind_in as bind_agent_socket};

/// A client for the agent of one sandbox.
pub type AgentClient = chiton_proto::agent::v1::agent_client::AgentClient<tonic::transport::Channel>;

/// Which token is a sandbox's.
#[async_trait]
pub trait Tokens: Send + Sync + 'static {
    /// Whether the digest is that of the sandbox's token; no when the sandbox has none or is gone. To be compared by
    /// [`same_digest`].
    async fn verify(&self, sandbox: &SandboxId, sha256: &[u8; 32]) -> bool;

    /// The start that the token with this digest counts for; none when it is not the sandbox's. For agents that do not
    /// know which start they belong to.
    async fn start_of(&self, sandbox: &SandboxId, sha256: &[u8; 32]) -> Option<String>;
}

/// Hears what agents tell of main processes that ended.
#[async_trait]
pub trait Exits: Send + Sync + 'static {
    /// The main process of one start of a sandbox ended with this code.
    ///
    /// # Errors
    /// Why it could not be taken in; the agent may tell it again.
    async fn exited(&self, sandbox: &SandboxId, attempt: &str, code: i32) -> Result<(), Error>;
}

/// Compares two digests in a time that does not depend on where they differ.
pub fn same_digest(left: &[u8; 32], right: &[u8; 32]) -> bool {
    // Through `black_box`, so that the compiler does not find a way to stop early.
    std::hint::black_box(left.iter().zip(right).fold(0, |difference, (left, right)| difference | (left ^ right))) == 0
}
