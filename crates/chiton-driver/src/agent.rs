//! Whose program a driver puts into its sandboxes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whose program in a sandbox talks to the gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhoseAgent {
    /// Chiton's own agent, which dials the gateway.
    #[default]
    Chiton,
    /// The supervisor of an `OpenShell` gateway.
    Openshell,
    /// Nobody's: the main process is the request's command, ready is the driver's word, and there is no exec.
    None,
}

impl WhoseAgent {
    /// The word that configs, plans and messages use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chiton => "chiton",
            Self::Openshell => "openshell",
            Self::None => "none",
        }
    }

    /// Whether it is the one that plans do not mention.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
