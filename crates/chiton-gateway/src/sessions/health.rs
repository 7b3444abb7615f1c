//! Agents that do not answer.
//!
//! An agent can be connected and dead to the world: stopped by a signal, or with no processor time. Nobody asks idle agents,
//! because most sandboxes wait long for their first call and each question wakes a process. So silence is found by the
//! calls themselves: one that is not answered soon asks whether the agent lives, and when that is not answered either the
//! agent counts as silent. From then on it is asked again and again, calls fail at once, and with its first answer all is
//! as before. An agent whose connection has ended is missing: it dials by itself, and is told of only when it does not.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use chiton_proto::agent::v1::HealthRequest;
use jiff::Timestamp;
use tokio::time::{sleep, timeout};
use tonic::Status;

use super::AgentClient;
use super::hub::Door;

/// After how long a call that was not answered asks for a sign of life, and how long that may take.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(8));
/// Between two questions to an agent that is silent.
const AGAIN: Duration = Duration::from_secs(1);
/// How long an agent may be without a connection before that is worth a word: it dials again within a second.
pub(super) const MISSING: Duration = Duration::from_secs(3);

/// What is wrong with a sandbox's agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It is connected and does not answer, since then.
    Silent(Timestamp),
    /// It is not connected, since then.
    Missing(Timestamp),
}

impl Trouble {
    /// One word for programs.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Silent(_) => "AgentSilent",
            Self::Missing(_) => "AgentMissing",
        }
    }

    /// When it began.
    pub fn since(self) -> Timestamp {
        match self {
            Self::Silent(since) | Self::Missing(since) => since,
        }
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Silent(since) => write!(to, "the agent has not answered since {since:.0}; it is asked every second"),
            Self::Missing(since) => write!(to, "the agent is not connected since {since:.0}; it dials by itself"),
        }
    }
}

/// Why a call to an agent failed.
#[derive(Debug)]
pub enum CallError {
    /// The agent's own answer, or that of the connection.
    Status(Status),
    /// The agent is silent.
    Silent,
}

/// Makes a call that an agent answers when it is done, as long as the agent lives.
pub(super) async fn watched<T>(
    door: &Arc<Door>,
    client: AgentClient,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, CallError> {
    let number = door.number();
    tokio::select! {
        result = call => result.map_err(CallError::Status),
        () = silence(client.clone()) => {
            if door.is_silent(number) {
                tokio::spawn(listen(Arc::downgrade(door), client, number));
            }
            Err(CallError::Silent)
        }
    }
}

/// Resolves when an agent gives no sign of life.
async fn silence(mut client: AgentClient) {
    loop {
        sleep(PATIENCE.0).await;
        match timeout(PATIENCE.1, client.health(HealthRequest {})).await {
            Ok(Ok(_)) => {}
            // The connection has ended, and so does the call.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}

/// Asks a silent agent until it answers, its connection ends, or another takes its place.
async fn listen(door: std::sync::Weak<Door>, mut client: AgentClient, number: u64) {
    loop {
        let answered = timeout(PATIENCE.1, client.health(HealthRequest {})).await;
        let Some(door) = door.upgrade().filter(|door| door.number() == number) else { return };
        match answered {
            Ok(Ok(_)) => return door.answers(number),
            Ok(Err(_)) => return,
            Err(_) => {}
        }
        drop(door);
        sleep(AGAIN).await;
    }
}
