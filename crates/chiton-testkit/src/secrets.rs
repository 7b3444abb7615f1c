//! The operator's secrets.

use std::collections::BTreeMap;
use std::sync::Arc;

use chiton_lifecycle::runtime::Secrets;
use chiton_model::{Error, Principal, WorkspaceName};
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;

/// Secrets by reference, with whom may use them. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct ScriptedSecrets(Arc<Mutex<BTreeMap<String, (String, Option<String>)>>>);

impl ScriptedSecrets {
    /// Adds or replaces a secret that everybody may use.
    pub fn set(&self, reference: &str, value: &str) {
        self.0.lock().insert(reference.to_owned(), (value.to_owned(), None));
    }

    /// Adds or replaces a secret that only this principal may use.
    pub fn set_for(&self, reference: &str, value: &str, principal: &str) {
        self.0.lock().insert(reference.to_owned(), (value.to_owned(), Some(principal.to_owned())));
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
            Some((_, Some(only))) if *only != principal.subject => Err(Error::refused(
                "policy",
                format!("{} may not use secret {reference:?} in workspace {:?}", principal.subject, workspace.as_str()),
            )),
            Some(_) => Ok(()),
        }
    }

    fn read<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<String, Error>> {
        let value = self.0.lock().get(reference).map(|(value, _)| value.clone());
        async move { value.ok_or_else(|| Error::not_found(format!("there is no secret {reference:?}"))) }.boxed()
    }
}
