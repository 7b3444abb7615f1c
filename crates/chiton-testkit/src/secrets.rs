//! The operator's secrets.

use std::collections::BTreeMap;
use std::sync::Arc;

use chiton_lifecycle::runtime::Secrets;
use chiton_model::{Error, Principal, WorkspaceName};
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;

#[derive(Debug)]
struct Secret {
    value: String,
    /// Who alone may use it.
    only: Option<String>,
}

/// Secrets by reference, with whom may use them. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct ScriptedSecrets(Arc<Mutex<BTreeMap<String, Secret>>>);

impl ScriptedSecrets {
    /// Adds or replaces a secret that everybody may use.
    pub fn set(&self, reference: &str, value: &str) {
        self.0.lock().insert(reference.to_owned(), Secret { value: value.to_owned(), only: None });
    }

    /// Adds or replaces a secret that only this principal may use.
    pub fn set_for(&self, reference: &str, value: &str, principal: &str) {
        self.0
            .lock()
            .insert(reference.to_owned(), Secret { value: value.to_owned(), only: Some(principal.to_owned()) });
    }

    /// Takes a secret away.
    pub fn remove(&self, reference: &str) {
        self.0.lock().remove(reference);
    }
}

impl Secrets for ScriptedSecrets {
    fn check(&self, reference: &str, principal: &Principal, workspace: &WorkspaceName) -> Result<(), Error> {
        match self.0.lock().get(reference) {
            None => Err(Error::refused("policy", format!("there is no secret {reference:?}"))),
            Some(Secret { only: Some(only), .. }) if *only != principal.subject => Err(Error::refused(
                "policy",
                format!("{} may not use secret {reference:?} in workspace {:?}", principal.subject, workspace.as_str()),
            )),
            Some(_) => Ok(()),
        }
    }

    fn read<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<String, Error>> {
        let value = self.0.lock().get(reference).map(|secret| secret.value.clone());
        async move { value.ok_or_else(|| Error::not_found(format!("there is no secret {reference:?}"))) }.boxed()
    }
}
