//! The driver's plan: all that will be made, readable before it is.

use std::collections::BTreeMap;

use chiton_driver::{FieldRule, PortableWrite, Rule};
use chiton_model::{CpuQuantity, Error, MemoryQuantity, printable};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

mod default;

pub(crate) use default::{check_hostname, default_plan, resolve};

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

/// Which sandbox a plan is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SandboxRef {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its workspace.
    pub workspace: String,
}

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

/// A host device shown in the sandbox under its own path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DevicePlan {
    /// Absolute path below `/dev`.
    pub path: String,
}

/// Limits; an absent one is not applied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResourcesPlan {
    /// Processor time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuQuantity>,
    /// Memory, swap included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryQuantity>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
}

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

/// Confinement. It stands in the plan so that it can be read and is covered by the digest; nobody may change it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecurityPlan {
    /// Whether programs cannot gain privileges by execution.
    pub no_new_privileges: bool,
    /// Capabilities of the main process.
    pub capabilities: Vec<String>,
    /// Namespaces of its own.
    pub namespaces: Vec<String>,
    /// How many ids are mapped into the sandbox, all to unprivileged host ids.
    pub mapped_ids: u32,
    /// Paths that cannot be seen.
    pub masked_paths: Vec<String>,
    /// Paths that cannot be written.
    pub readonly_paths: Vec<String>,
    /// The most open files of a process; lowered to the gateway's own hard limit when that is lower.
    pub open_files: u64,
}

impl Default for SecurityPlan {
    fn default() -> Self {
        let list = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
        Self {
            no_new_privileges: true,
            capabilities: Vec::new(),
            namespaces: list(&["user", "mount", "pid", "network", "uts", "ipc", "cgroup"]),
            mapped_ids: 65_536,
            masked_paths: list(&[
                "/proc/acpi",
                "/proc/asound",
                "/proc/interrupts",
                "/proc/kcore",
                "/proc/keys",
                "/proc/latency_stats",
                "/proc/sched_debug",
                "/proc/scsi",
                "/proc/timer_list",
                "/proc/timer_stats",
                "/sys/devices/virtual/powercap",
                "/sys/firmware",
            ]),
            readonly_paths: list(&["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]),
            open_files: 65_536,
        }
    }
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

fn write_resource(resources: &mut ResourcesPlan, name: &str, quantity: &str) -> Result<(), Error> {
    let field = format!("resources.{name}");
    match name {
        "cpu" => resources.cpu = Some(CpuQuantity::parse(&field, quantity)?),
        "memory" => resources.memory = Some(MemoryQuantity::parse(&field, quantity)?),
        "pids" => {
            let pids = quantity.parse().ok().filter(|pids| *pids > 0);
            let pids = pids.ok_or_else(|| {
                Error::invalid(&field, format!("pids limit {quantity:?} is not a positive whole number"))
                    .cure("write a number, for example \"256\"")
            })?;
            resources.pids = Some(pids);
        }
        _ => {
            return Err(Error::invalid(&field, format!("there is no limit called {name:?}"))
                .cure("the limits are \"cpu\", \"memory\" and \"pids\""));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
