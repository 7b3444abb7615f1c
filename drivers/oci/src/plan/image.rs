//! What the root is made of.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The kinds of image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImageKind {
    /// A read-only view of the host's programs and libraries.
    Host,
    /// A folder of the host as the lowest layer.
    Dir,
}

/// What the root is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImagePlan {
    /// Its kind.
    pub kind: ImageKind,
    /// As the request named it.
    pub reference: String,
    /// The folder, with links resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Whether the root cannot be written; `/tmp` then is a tmpfs.
    pub read_only: bool,
}
