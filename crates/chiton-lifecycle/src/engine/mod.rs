//! The engine.

use chiton_model::ExtensionName;
use serde_json::Value;

use crate::policy::Policy;

/// An extension as the operator configured it.
#[derive(Clone, Debug)]
pub struct ExtensionConfig {
    /// Its name.
    pub name: ExtensionName,
    /// Its own config.
    pub document: Value,
    /// The operator's rules about it.
    pub policy: Policy,
}
