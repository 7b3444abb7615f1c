//! The operator's secrets.

use std::collections::BTreeMap;
use std::sync::Arc;

use chiton_lifecycle::runtime::Secrets;
use chiton_model::{Error, Principal, WorkspaceName};
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;

/// Secrets by reference, which everybody may use. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct ScriptedSecrets(Arc<Mutex<BTreeMap<String, String>>>);

impl ScriptedSecrets {
    /// Adds or replaces a secret.
    pub fn set(&self, reference: &str, value: &str) {
        self.0.lock().insert(reference.to_owned(), value.to_owned());
    }

    /// Takes a secret away.
    pub fn remove(&self, reference: &str) {
        self.0.lock().remove(reference);
    }
}

impl Secrets for ScriptedSecrets {
    fn check(&self, reference: &str, _: &Principal, _: &WorkspaceName) -> Result<(), Error> {
        let known = self.0.lock().contains_key(reference);
        if known { Ok(()) } else { Err(Error::refused("policy", format!("there is no secret {reference:?}"))) }
    }

    fn read<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<String, Error>> {
        let value = self.0.lock().get(reference).cloned();
        async move { value.ok_or_else(|| Error::not_found(format!("there is no secret {reference:?}"))) }.boxed()
    }
}
