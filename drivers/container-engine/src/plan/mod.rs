//! The plan of a container: what is asked of the engine, as data that can be read before anything runs.

mod config;
mod default;
mod mounts;
mod network;
mod resources;
mod security;

use std::collections::BTreeMap;

use chiton_driver::{FieldRule, PortableWrite, Rule};
use chiton_model::{Error, printable};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use chiton_driver::{DevicePlan, SandboxRef, VolumePlan};
pub(crate) use default::{Found, PlanContext, check_config, default_plan};
pub use mounts::{MountPlan, SelinuxLabel};
pub use network::NetworkPlan;
pub(crate) use network::allowed as allowed_network;
pub use resources::ResourcesPlan;
pub use security::SecurityPlan;

use crate::options::PullPolicy;
use crate::supervisor::AgentPlan;

/// The version of the plan's schema.
pub const PLAN_SCHEMA: u32 = 1;

/// What the driver is handed for a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EnginePlan {
    /// Which sandbox this is; sealed.
    pub sandbox: SandboxRef,
    /// The image; sealed.
    pub image: ImagePlan,
    /// What is put into the sandbox beside its image; sealed.
    #[serde(default, skip_serializing_if = "AgentPlan::is_default")]
    pub agent: AgentPlan,
    /// The main process; empty when the agent alone keeps the sandbox. Sealed.
    pub command: Vec<String>,
    /// Environment, which whoever may look at the engine can read.
    pub env: BTreeMap<String, String>,
    /// Environment that only the sandbox's programs see: it is handed to the agent and never to the engine. Sealed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, String>,
    /// Labels of the container; the managed ones come over them.
    pub labels: BTreeMap<String, String>,
    /// What of the host and of the engine is shown in the sandbox.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<MountPlan>,
    /// Host devices shown in the sandbox.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DevicePlan>,
    /// Devices by their CDI names; sealed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cdi_devices: Vec<String>,
    /// Named volumes of the gateway; sealed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumePlan>,
    /// Who everything runs as, `user[:group]` by name or number; empty is the image's own. Sealed.
    pub user: String,
    /// Working folder of the main process; empty is the image's own.
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

/// An image of which every byte is fixed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImagePlan {
    /// As the request, or the operator's default, names it.
    pub reference: String,
    /// What the container is made of: an image id of the engine, `NAME@sha256:…` of a registry, or a name that holds the
    /// digest of a file's image.
    pub pin: String,
    /// The file or folder that the image is loaded from when the engine does not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// When a registry may be asked for it.
    pub pull: PullPolicy,
}

impl EnginePlan {
    /// Reads a plan strictly.
    pub fn decode(plan: &Value) -> Result<Self, Error> {
        serde_json::from_value(plan.clone()).map_err(|error| {
            let why = printable(&error.to_string());
            Error::invalid("plan", format!("the plan is not one of a container engine's: {why}"))
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
        FieldRule::new("/mounts", keyed("target")),
        FieldRule::new("/devices", keyed("path")),
        FieldRule::new("/workdir", Rule::SetOnce),
        FieldRule::new("/hostname", Rule::SetOnce),
        FieldRule::new("/resources/cpu", Rule::SetOnce),
        FieldRule::new("/resources/memory", Rule::SetOnce),
        FieldRule::new("/resources/pids", Rule::SetOnce),
        FieldRule::new("/resources/open_files", Rule::SetOnce),
        FieldRule::new("/network/address", Rule::SetOnce),
    ]
}

/// Applies a driver-independent write.
pub(crate) fn write_portable(driver: &str, plan: &mut Value, write: &PortableWrite) -> Result<(), Error> {
    let mut typed = EnginePlan::decode(plan)?;
    match write.clone() {
        PortableWrite::Env { name, value } => drop(typed.env.insert(name, value)),
        PortableWrite::Label { key, value } => drop(typed.labels.insert(key, value)),
        PortableWrite::Annotation { .. } => {
            return Err(Error::unsupported(driver, "annotation", format!("driver {driver:?} has no annotations"))
                .cure("write a label, whose value the engine does not limit"));
        }
        PortableWrite::Mount { source, target, read_only } => {
            let mount = MountPlan::Bind { source, target, read_only, selinux_label: None };
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
        PortableWrite::Resource { name, quantity } => typed.resources.write(&name, &quantity)?,
    }
    *plan = json!(typed);
    Ok(())
}
