//! The sandbox's network.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The kinds of network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// A loopback interface and nothing else.
    None,
}

/// Network of the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkPlan {
    /// Its kind; sealed.
    pub mode: NetworkMode,
    /// An address that an extension reserved. It is recorded; no interface carries it while `mode` is `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}
