//! From a connection to a session: the handshake. Whoever is in the sandbox can reach the socket, so everything here is
//! bounded: how many connections are looked at, how long, how much of them is read, and how often one may fail.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use chiton_model::SandboxId;
use chiton_proto::agent::frame;
use chiton_proto::agent::v1::{Hello, Welcome};
use sha2::{Digest as _, Sha256};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Tokens;
use super::hub::Door;

/// Connections of one sandbox that are in the handshake at a time. More wait in the kernel.
const PENDING: usize = 4;
/// How long a step of the handshake may take.
const STEP: Duration = Duration::from_secs(5);
/// How long a failed handshake keeps its place: at most `PENDING` failures in this time.
const PENALTY: Duration = Duration::from_secs(1);
/// How long to leave a listener alone that cannot accept, as when no descriptor is left.
const REST: Duration = Duration::from_millis(100);

/// Why an agent was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the handshake broke off: {0}")]
    Broken(#[from] io::Error),
    #[error("the handshake took too long")]
    Late,
    #[error("the token is not this sandbox's")]
    Token,
    #[error("the agent names no attempt")]
    Nameless,
    #[error("another start of this sandbox is awaited")]
    Attempt,
}

/// Accepts until told to stop.
pub(super) async fn serve(listener: UnixListener, door: Arc<Door>, tokens: Arc<dyn Tokens>, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(PENDING));
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = stop.cancelled() => return,
            next = next => next,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(sandbox = %door.sandbox, %error, "cannot accept an agent; trying again");
                sleep(REST).await;
                continue;
            }
        };
        let (door, tokens, stop) = (Arc::clone(&door), Arc::clone(&tokens), stop.clone());
        tokio::spawn(async move {
            let _place = place;
            let refused = tokio::select! {
                () = stop.cancelled() => return,
                result = welcome(stream, &door, &*tokens) => result.err(),
            };
            if let Some(error) = refused {
                tracing::warn!(sandbox = %door.sandbox, %error, "an agent was refused");
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = sleep(PENALTY) => {}
                }
            }
        });
    }
}

pub(super) async fn welcome(mut stream: UnixStream, door: &Arc<Door>, tokens: &dyn Tokens) -> Result<(), Refusal> {
    let hello: Hello = timeout(STEP, frame::read(&mut stream)).await.map_err(|_| Refusal::Late)??;
    let verdict = judge(&hello, door, tokens).await;
    let error = verdict.as_ref().err().map(ToString::to_string).unwrap_or_default();
    timeout(STEP, frame::write(&mut stream, &Welcome { error })).await.map_err(|_| Refusal::Late)??;
    verdict?;
    // Another start may be awaited by now; then the agent's connection just ends and it dials again to hear so.
    if door.enter(&hello.attempt, stream) { Ok(()) } else { Err(Refusal::Attempt) }
}

async fn judge(hello: &Hello, door: &Door, tokens: &dyn Tokens) -> Result<(), Refusal> {
    let digest: [u8; 32] = Sha256::digest(hello.token.as_bytes()).into();
    if !verify(tokens, &door.sandbox, &digest).await? {
        return Err(Refusal::Token);
    }
    if hello.attempt.is_empty() {
        return Err(Refusal::Nameless);
    }
    if door.awaits(&hello.attempt) { Ok(()) } else { Err(Refusal::Attempt) }
}

async fn verify(tokens: &dyn Tokens, sandbox: &SandboxId, digest: &[u8; 32]) -> Result<bool, Refusal> {
    timeout(STEP, tokens.verify(sandbox, digest)).await.map_err(|_| Refusal::Late)
}
