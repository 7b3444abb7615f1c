//! The handshake on one connection.

use std::sync::Arc;

use async_trait::async_trait;
use chiton_model::SandboxId;
use tokio::net::UnixStream;

use super::hub::Door;
use super::{Tokens, accept};

/// One token, by its digest.
struct One([u8; 32]);

#[async_trait]
impl Tokens for One {
    async fn verify(&self, _: &SandboxId, sha256: &[u8; 32]) -> bool {
        super::same_digest(&self.0, sha256)
    }

    async fn start_of(&self, _: &SandboxId, _: &[u8; 32]) -> Option<String> {
        // Agents that dial say themselves which start they belong to.
        None
    }
}

/// Lets whoever is on the connection try to come in. Gives the attempt that is connected afterwards, or why it is not.
pub async fn handshake(
    stream: UnixStream,
    sandbox: &SandboxId,
    token_sha256: [u8; 32],
    awaited: &str,
) -> Result<(), String> {
    let door = Arc::new(Door::awaiting(sandbox.clone(), awaited));
    accept::welcome(stream, &door, &One(token_sha256)).await.map_err(|refusal| refusal.to_string())
}
