//! What is shown in the sandbox.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a bind is relabelled on a host with SELinux.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SelinuxLabel {
    /// For every container: `z`.
    Shared,
    /// For this container alone: `Z`.
    Private,
}

/// Something shown at a path of the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum MountPlan {
    /// A file or folder of the host.
    Bind {
        /// Absolute path on the host; must exist.
        source: String,
        /// Absolute path in the sandbox.
        target: String,
        /// Whether it cannot be written there.
        #[serde(default = "yes")]
        read_only: bool,
        /// How it is relabelled; left as it is without.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        selinux_label: Option<SelinuxLabel>,
    },
    /// A volume of the engine that somebody else looks after.
    Volume {
        /// Its name on the engine; must exist.
        source: String,
        /// Absolute path in the sandbox.
        target: String,
        /// Whether it cannot be written there.
        #[serde(default = "yes")]
        read_only: bool,
    },
    /// A file system in memory, empty at each start.
    Tmpfs {
        /// Absolute path in the sandbox.
        target: String,
        /// The most bytes that it holds; half of the machine's memory without. On Podman with a mode and without a size as
        /// many as the sandbox's memory.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size_bytes: Option<u64>,
        /// Permissions of its root, as a number: 511 is octal 777. Without, 1023: everybody may write there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mode: Option<u32>,
    },
    /// The files of an image, read-only.
    Image {
        /// The image; the engine must have it.
        source: String,
        /// Absolute path in the sandbox.
        target: String,
    },
}

fn yes() -> bool {
    true
}

impl MountPlan {
    /// Where it is in the sandbox.
    pub fn target(&self) -> &str {
        match self {
            Self::Bind { target, .. }
            | Self::Volume { target, .. }
            | Self::Tmpfs { target, .. }
            | Self::Image { target, .. } => target,
        }
    }
}
