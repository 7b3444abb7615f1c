//! Agent sessions as the engine sees them.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use chiton_lifecycle::Engine;
use chiton_lifecycle::runtime::Agents;
use chiton_model::{DriverId, Error, ExitStatus, SandboxId};
use futures::future::BoxFuture;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio_util::task::AbortOnDropHandle;

use crate::plugin::AgentFolder;
use crate::sessions::{Exits, Sessions, Tokens, same_digest};

/// The session hub, and where each driver's agents dial.
pub(crate) struct AgentSessions {
    pub(crate) sessions: Sessions,
    pub(crate) folders: BTreeMap<DriverId, Arc<AgentFolder>>,
}

impl Agents for AgentSessions {
    fn open<'a>(&'a self, driver: &'a DriverId, sandbox: &'a SandboxId) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let Some(folder) = self.folders.get(driver) else {
                // Its agents are of another make: whoever serves those brings their connections.
                self.sessions.admit(sandbox);
                return Ok(());
            };
            let folder = folder(sandbox);
            // The driver fills it later; the socket has to be there when the agent begins to dial.
            std::fs::create_dir_all(&folder)
                .map_err(|error| Error::internal(format!("the agent folder {folder:?} could not be made: {error}")))?;
            self.sessions.listen(sandbox, &folder).map_err(|error| Error::internal(error.to_string()))
        })
    }

    fn connected(&self, sandbox: &SandboxId, attempt: &str) -> BoxFuture<'static, ()> {
        let (sessions, sandbox, attempt) = (self.sessions.clone(), sandbox.clone(), attempt.to_owned());
        // On a task of its own, which looks from now on whether anybody polls this or not.
        let waiting = AbortOnDropHandle::new(tokio::spawn(async move {
            if sessions.wait_connected(&sandbox, &attempt).await.is_err() {
                // Nobody listens for it (any more): it will not connect.
                futures::future::pending::<()>().await;
            }
        }));
        Box::pin(async move { drop(waiting.await) })
    }

    fn close<'a>(&'a self, sandbox: &'a SandboxId) -> BoxFuture<'a, ()> {
        self.sessions.forget(sandbox);
        Box::pin(std::future::ready(()))
    }
}

/// Exits for the engine.
pub(crate) struct EngineExits(pub(crate) Engine);

#[async_trait]
impl Exits for EngineExits {
    async fn exited(&self, sandbox: &SandboxId, attempt: &str, code: i32) -> Result<(), Error> {
        let exit = ExitStatus { code: Some(code), reason: "Exited".to_owned(), at: Some(Timestamp::now()) };
        self.0.report_exit(sandbox, attempt, exit).await
    }
}

/// Tokens as the store has them. The engine comes after the sessions, so it is put in later.
#[derive(Default)]
pub(crate) struct StoredTokens(Mutex<Option<Engine>>);

impl StoredTokens {
    pub(crate) fn attach(&self, engine: Engine) {
        *self.0.lock() = Some(engine);
    }

    /// From here on no token is anybody's.
    pub(crate) fn detach(&self) {
        drop(self.0.lock().take());
    }
}

#[async_trait]
impl Tokens for StoredTokens {
    async fn verify(&self, sandbox: &SandboxId, sha256: &[u8; 32]) -> bool {
        self.start_of(sandbox, sha256).await.is_some()
    }

    async fn start_of(&self, sandbox: &SandboxId, sha256: &[u8; 32]) -> Option<String> {
        let engine = self.0.lock().clone()?;
        let (stored, attempt) = engine.agent_start(sandbox).await?;
        let mut digest = [0; 32];
        hex::decode_to_slice(stored, &mut digest).ok()?;
        same_digest(&digest, sha256).then_some(attempt)
    }
}
