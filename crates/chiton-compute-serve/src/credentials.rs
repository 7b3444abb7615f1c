//! What callers hand over with a sandbox and nobody may store: its agent's token, and secret variables.
//!
//! It is kept in memory only. After a restart a sandbox that runs goes on running; one that is to be started again needs it
//! anew, and a caller that can do that carries it with the start.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use chiton_driver::AgentLaunch;
use chiton_lifecycle::runtime::Secrets;
use chiton_model::{Error, Principal, SandboxId, WorkspaceName};
use futures::future::BoxFuture;
use parking_lot::Mutex;

use crate::relay::Way;

/// Of one sandbox.
#[derive(Clone, Default)]
pub(crate) struct Handed {
    /// How its agent proves itself to the caller.
    pub(crate) agent: Option<AgentLaunch>,
    /// The caller's socket for its agent.
    pub(crate) way: Option<Way>,
    /// Secret variables.
    pub(crate) secrets: BTreeMap<String, String>,
}

/// Of all sandboxes.
#[derive(Clone, Default)]
pub(crate) struct Credentials(Arc<Mutex<HashMap<SandboxId, Handed>>>);

impl Credentials {
    pub(crate) fn hand(&self, id: &SandboxId, handed: Handed) {
        self.0.lock().insert(id.clone(), handed);
    }

    pub(crate) fn of(&self, id: &SandboxId) -> Option<Handed> {
        self.0.lock().get(id).cloned()
    }

    /// The caller's name for the present start.
    pub(crate) fn attempt(&self, id: &SandboxId) -> Option<String> {
        self.0.lock().get(id)?.agent.as_ref().map(|agent| agent.attempt.clone())
    }

    pub(crate) fn forget(&self, id: &SandboxId) {
        self.0.lock().remove(id);
    }

    /// What stands in a request for a secret variable.
    pub(crate) fn reference(id: &SandboxId, variable: &str) -> String {
        // An id has no dot.
        format!("{id}.{variable}")
    }

    fn secret(&self, reference: &str) -> Option<String> {
        let (id, variable) = reference.split_once('.')?;
        let id = SandboxId::new(id).ok()?;
        self.0.lock().get(&id)?.secrets.get(variable).cloned()
    }
}

fn unknown(reference: &str) -> Error {
    let variable = reference.split_once('.').map_or(reference, |(_, variable)| variable);
    Error::refused("driver", format!("the value of the secret variable {variable:?} is not known (any more)"))
        .cure("hand it over with the start; a restarted driver does not remember secrets")
}

impl Secrets for Credentials {
    fn check(&self, reference: &str, _: &Principal, _: &WorkspaceName) -> Result<(), Error> {
        self.secret(reference).map(drop).ok_or_else(|| unknown(reference))
    }

    fn read<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<String, Error>> {
        Box::pin(async move { self.secret(reference).ok_or_else(|| unknown(reference)) })
    }
}
