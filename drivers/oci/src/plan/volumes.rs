//! Named volumes of a sandbox.

use chiton_model::{VolumeMount, VolumeName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A named volume shown in the sandbox: always `nosuid` and `nodev`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumePlan {
    /// The volume, within the sandbox's workspace.
    pub name: VolumeName,
    /// Absolute path in the sandbox.
    pub target: String,
    /// Whether it cannot be written there.
    pub read_only: bool,
}

impl From<&VolumeMount> for VolumePlan {
    fn from(asked: &VolumeMount) -> Self {
        Self { name: asked.name.clone(), target: asked.target.clone(), read_only: asked.read_only }
    }
}
