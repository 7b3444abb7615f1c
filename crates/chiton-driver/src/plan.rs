//! Plans as drivers make them: a JSON document of the driver's own typed struct, rules for its fields, and slots.

use std::collections::BTreeMap;

use chiton_model::{NetworkSpec, Resources, VolumeMount, WorkspaceName};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::capabilities::Point;

/// Slots that every driver may use in its default plan; the engine fills them.
pub mod slots {
    /// The sandbox's id, known when the create is committed.
    pub const SANDBOX_ID: &str = "sandbox.id";
    /// The sandbox's name, when the gateway generates it.
    pub const SANDBOX_NAME: &str = "sandbox.name";
    /// Secret slots are `secret.` and the operator's reference; filled only in what the driver is handed.
    pub const SECRET_PREFIX: &str = "secret.";
}

/// The text that stands in a plan where a slot's value will be.
pub fn marker(slot: &str) -> String {
    format!("<known after apply: {slot}>")
}

/// What a driver may look at when it makes a plan: the request without identity and without secrets' values.
#[derive(Clone, Debug)]
pub struct PlanRequest {
    /// Image reference; empty means the driver's default.
    pub image: String,
    /// The main process.
    pub command: Vec<String>,
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// Variable → secret reference; the plan holds `marker("secret.REF")` there and declares the slot.
    pub secrets: BTreeMap<String, String>,
    /// The sandbox's labels.
    pub labels: BTreeMap<String, String>,
    /// Limits.
    pub resources: Resources,
    /// How it reaches other machines; only what the capabilities name is ever asked for.
    pub network: NetworkSpec,
    /// Named volumes; empty unless the capabilities name the feature.
    pub volumes: Vec<VolumeMount>,
    /// Working folder.
    pub workdir: String,
    /// The name, or none when it will be generated (use the slot).
    pub name: Option<String>,
    /// The workspace.
    pub workspace: WorkspaceName,
    /// This driver's own block of the request, `{}` when there is none. To be decoded strictly.
    pub driver_config: Value,
}

/// A driver's plan before any extension wrote to it.
#[derive(Clone, Debug, PartialEq)]
pub struct DefaultPlan {
    /// The plan.
    pub plan: Value,
    /// JSON pointer (RFC 6901) → slot name, for each string that holds a slot's marker.
    pub slots: BTreeMap<String, String>,
    /// JSON pointers whose value came from the request.
    pub from_request: Vec<String>,
    /// JSON pointers whose value came from the image; everything else is the driver's default.
    pub from_image: Vec<String>,
}

/// What may happen to a plan field after the driver made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Only the driver and the gateway write it.
    Sealed,
    /// One extension may write it.
    SetOnce,
    /// A map: one extension per key.
    MergeMap,
    /// A list to which extensions append.
    Append {
        /// The field that identifies an element; the same value from two writers is a conflict. Without it the old list
        /// must stay a prefix of the new one.
        key: Option<String>,
    },
}

/// One rule and the fields it is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldRule {
    /// A JSON pointer in which a `*` segment matches any one segment. The longest matching pattern decides.
    pub path: String,
    /// What may happen there.
    pub rule: Rule,
}

impl FieldRule {
    /// A rule for a path.
    pub fn new(path: &str, rule: Rule) -> Self {
        Self { path: path.to_owned(), rule }
    }
}

/// A driver-independent write that an extension asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum PortableWrite {
    /// Sets an environment variable.
    Env {
        /// Variable name.
        name: String,
        /// Value, or a slot's marker.
        value: String,
    },
    /// Sets a label.
    Label {
        /// Key.
        key: String,
        /// Value.
        value: String,
    },
    /// Sets an annotation.
    Annotation {
        /// Key.
        key: String,
        /// Value.
        value: String,
    },
    /// Shows a host path in the sandbox.
    Mount {
        /// Absolute host path.
        source: String,
        /// Absolute path in the sandbox.
        target: String,
        /// Whether it is read-only there.
        read_only: bool,
    },
    /// Shows a host device in the sandbox.
    Device {
        /// Absolute host path below `/dev`.
        path: String,
    },
    /// Sets the sandbox's address.
    Network {
        /// An IP address, or a slot's marker.
        address: String,
    },
    /// Sets a limit that the request left open.
    Resource {
        /// `cpu`, `memory` or `pids`.
        name: String,
        /// A Kubernetes quantity.
        quantity: String,
    },
}

impl PortableWrite {
    /// The point that it is for.
    pub fn point(&self) -> Point {
        match self {
            Self::Env { .. } => Point::Env,
            Self::Label { .. } => Point::Label,
            Self::Annotation { .. } => Point::Annotation,
            Self::Mount { .. } => Point::Mount,
            Self::Device { .. } => Point::Device,
            Self::Network { .. } => Point::Network,
            Self::Resource { .. } => Point::Resource,
        }
    }
}
