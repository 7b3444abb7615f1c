//! The operator's secrets. A value is read when a driver call needs it and is kept nowhere.

use std::collections::BTreeMap;
use std::fmt;

use chiton_lifecycle::runtime::Secrets;
use chiton_model::{Error, Principal, WorkspaceName};
use futures::future::BoxFuture;

use crate::config::{SecretRef, SecretSource};

/// The largest secret: one that does not fit into an environment variable is a mistake.
const LARGEST: u64 = 64 * 1024;

/// All secrets, by reference.
#[derive(Clone, Default)]
pub(crate) struct SecretStore(pub BTreeMap<String, SecretRef>);

impl fmt::Debug for SecretStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Secrets for SecretStore {
    fn check(&self, reference: &str, principal: &Principal, workspace: &WorkspaceName) -> Result<(), Error> {
        // One answer for "unknown" and "not allowed", so that nobody can find out which secrets exist.
        match self.0.get(reference) {
            Some(secret) if secret.allows(principal, workspace) => Ok(()),
            _ => Err(Error::refused(
                "policy",
                format!(
                    "secret {reference:?} is not one that {} may use in workspace {:?}",
                    principal.subject,
                    workspace.as_str()
                ),
            )
            .cure("ask the operator to define it and to allow it: [secrets.NAME] allow")),
        }
    }

    fn read<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<String, Error>> {
        Box::pin(async move {
            let unreadable = |why: String| {
                Error::unavailable("secrets", format!("secret {reference:?} cannot be read: {why}"))
                    .cure("ask the operator to look at its source in [secrets]")
            };
            let rule = self.0.get(reference).ok_or_else(|| unreadable("it is not configured".to_owned()))?;
            match &rule.source {
                SecretSource::Env(name) => {
                    std::env::var(name).map_err(|_| unreadable(format!("the gateway has no variable {name:?}")))
                }
                SecretSource::File(path) => {
                    let size = tokio::fs::metadata(path).await.map_err(|error| unreadable(error.to_string()))?.len();
                    if size > LARGEST {
                        return Err(unreadable(format!("its file has {size} bytes, the limit is {LARGEST}")));
                    }
                    let text = tokio::fs::read_to_string(path).await.map_err(|error| unreadable(error.to_string()))?;
                    Ok(text.strip_suffix('\n').map(str::to_owned).unwrap_or(text))
                }
            }
        })
    }
}
