//! Confinement, readable before anything runs.

use chiton_confine::{Landlock, Seccomp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Confinement: the engine's own (namespaces, its seccomp profile, hidden paths) and, within it, what the agent applies
/// to itself and all that it starts. Without the agent nobody applies more than the engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecurityPlan {
    /// Whether programs cannot gain privileges by execution.
    pub no_new_privileges: bool,
    /// Capabilities, without `CAP_`. Those that the operator allows and the request asks for.
    pub capabilities: Vec<String>,
    /// Whether the image's files cannot be written.
    pub read_only_root: bool,
    /// System calls; applied by the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<Seccomp>,
    /// Paths; applied by the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub landlock: Option<Landlock>,
}

impl Default for SecurityPlan {
    fn default() -> Self {
        Self {
            no_new_privileges: true,
            capabilities: Vec::new(),
            read_only_root: false,
            seccomp: Some(Seccomp::standard()),
            landlock: Some(Landlock::standard()),
        }
    }
}
