//! The driver's plan: all that will be made, readable before it is.

use std::collections::BTreeMap;

use chiton_driver::{FieldRule, PortableWrite, Rule, WhoseAgent};
use chiton_model::{Error, printable};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

mod default;
mod image;
mod network;
mod resources;
mod security;
mod tighten;

pub use chiton_driver::{DevicePlan, SandboxRef, VolumePlan};
pub(crate) use default::{default_plan, resolve};
pub use image::{ImageKind, ImagePlan, LayerPlan};
pub use network::{DnsSource, NetworkMode, NetworkPlan};
use resources::write_resource;
pub use resources::{DiskMeans, ResourcesPlan};
pub use security::SecurityPlan;

/// The version of [`OciPlan`]'s schema.
pub const PLAN_SCHEMA: u32 = 1;

/// A sandbox of the `oci` driver before it is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OciPlan {
    /// Which sandbox it is; sealed.
    pub sandbox: SandboxRef,
    /// What the root is made of; sealed.
    pub image: ImagePlan,
    /// Whose program is the sandbox's first process: the agent's, or none but the command itself. Sealed.
    #[serde(default, skip_serializing_if = "WhoseAgent::is_default")]
    pub agent: WhoseAgent,
    /// The main process; empty means that the agent alone keeps the sandbox alive.
    pub command: Vec<String>,
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Host paths shown in the sandbox.
    pub mounts: Vec<MountPlan>,
    /// Host devices shown in the sandbox.
    pub devices: Vec<DevicePlan>,
    /// Named volumes shown in the sandbox; sealed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumePlan>,
    /// Working folder of the main process.
    pub workdir: String,
    /// Host name in the sandbox.
    pub hostname: String,
    /// Limits.
    pub resources: ResourcesPlan,
    /// Network.
    pub network: NetworkPlan,
    /// Confinement; sealed.
    pub security: SecurityPlan,
    /// How long the main process may take to end by itself, in seconds; sealed.
    pub stop_grace_seconds: u64,
}

/// A host path shown in the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MountPlan {
    /// Absolute host path.
    pub source: String,
    /// Absolute path in the sandbox.
    pub target: String,
    /// Whether it cannot be written there.
    pub read_only: bool,
}

impl OciPlan {
    /// Reads a plan strictly.
    pub fn decode(plan: &Value) -> Result<Self, Error> {
        serde_json::from_value(plan.clone()).map_err(|error| {
            let why = printable(&error.to_string());
            Error::invalid("plan", format!("the plan is not one of the oci driver: {why}"))
                .cure("give each field the form that the driver's schema says (chiton drivers --json)")
        })
    }
}

/// What may happen to each field; what is not named is sealed.
pub(crate) fn field_rules() -> Vec<FieldRule> {
    let keyed = |key: &str| Rule::Append { key: Some(key.to_owned()) };
    vec![
        FieldRule::new("/env", Rule::MergeMap),
        FieldRule::new("/labels", Rule::MergeMap),
        FieldRule::new("/annotations", Rule::MergeMap),
        FieldRule::new("/mounts", keyed("target")),
        FieldRule::new("/devices", keyed("path")),
        FieldRule::new("/workdir", Rule::SetOnce),
        FieldRule::new("/hostname", Rule::SetOnce),
        FieldRule::new("/resources/cpu", Rule::SetOnce),
        FieldRule::new("/resources/memory", Rule::SetOnce),
        FieldRule::new("/resources/pids", Rule::SetOnce),
        FieldRule::new("/resources/disk", Rule::SetOnce),
        FieldRule::new("/resources/inodes", Rule::SetOnce),
        FieldRule::new("/resources/open_files", Rule::SetOnce),
        FieldRule::new("/network/address", Rule::SetOnce),
    ]
}

/// Applies a driver-independent write.
pub(crate) fn write_portable(plan: &mut Value, write: &PortableWrite) -> Result<(), Error> {
    let mut typed = OciPlan::decode(plan)?;
    match write.clone() {
        PortableWrite::Env { name, value } => drop(typed.env.insert(name, value)),
        PortableWrite::Label { key, value } => drop(typed.labels.insert(key, value)),
        PortableWrite::Annotation { key, value } => drop(typed.annotations.insert(key, value)),
        PortableWrite::Mount { source, target, read_only } => {
            let mount = MountPlan { source, target, read_only };
            if !typed.mounts.contains(&mount) {
                typed.mounts.push(mount);
            }
        }
        PortableWrite::Device { path } => {
            let device = DevicePlan { path };
            if !typed.devices.contains(&device) {
                typed.devices.push(device);
            }
        }
        PortableWrite::Network { address } => typed.network.address = Some(address),
        PortableWrite::Resource { name, quantity } => write_resource(&mut typed.resources, &name, &quantity)?,
    }
    *plan = json!(typed);
    Ok(())
}

#[cfg(test)]
mod tests;
