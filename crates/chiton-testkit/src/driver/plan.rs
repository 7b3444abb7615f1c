//! The scripted driver's plan: one field for every kind of rule.

use std::collections::BTreeMap;

use chiton_driver::{DefaultPlan, FieldRule, PlanRequest, Point, PortableWrite, Rule, marker, slots};
use chiton_model::{Error, label};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What the scripted driver creates.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScriptedPlan {
    /// No rule, so it is sealed.
    pub image: String,
    /// No rule, so it is sealed.
    pub command: Vec<String>,
    /// Merged by key.
    pub env: BTreeMap<String, String>,
    /// Merged by key.
    pub labels: BTreeMap<String, String>,
    /// Merged by key.
    pub annotations: BTreeMap<String, String>,
    /// Appended, by target.
    pub mounts: Vec<ScriptedMount>,
    /// Appended, by path.
    pub devices: Vec<ScriptedDevice>,
    /// Appended, without a key.
    pub init: Vec<String>,
    /// Its address is set once.
    pub network: ScriptedNetwork,
    /// Each is set once.
    pub resources: ScriptedResources,
    /// Sealed by a rule.
    pub sealed: ScriptedSealed,
}

/// A mount.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScriptedMount {
    /// Host path.
    pub source: String,
    /// Path in the sandbox.
    pub target: String,
    /// Read-only in the sandbox.
    pub read_only: bool,
}

/// A device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScriptedDevice {
    /// Host path.
    pub path: String,
}

/// The network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScriptedNetwork {
    /// An address, empty for none.
    pub address: String,
}

/// Limits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScriptedResources {
    /// A Kubernetes quantity.
    pub cpu: Option<String>,
    /// A Kubernetes quantity.
    pub memory: Option<String>,
    /// A number.
    pub pids: Option<String>,
}

/// What only the gateway fills.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScriptedSealed {
    /// The sandbox's id, a slot.
    pub id: String,
    /// The sandbox's name, a slot when it is generated.
    pub hostname: String,
    /// The workspace.
    pub workspace: String,
}

/// This driver's block of a request.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    annotations: BTreeMap<String, String>,
}

/// The rules, one of every kind.
pub(super) fn rules() -> Vec<FieldRule> {
    vec![
        FieldRule::new("/env", Rule::MergeMap),
        FieldRule::new("/labels", Rule::MergeMap),
        FieldRule::new("/annotations", Rule::MergeMap),
        FieldRule::new("/mounts", Rule::Append { key: Some("target".to_owned()) }),
        FieldRule::new("/devices", Rule::Append { key: Some("path".to_owned()) }),
        FieldRule::new("/init", Rule::Append { key: None }),
        FieldRule::new("/network/address", Rule::SetOnce),
        FieldRule::new("/resources/*", Rule::SetOnce),
        FieldRule::new("/sealed", Rule::Sealed),
    ]
}

fn pointer(parent: &str, key: &str) -> String {
    format!("/{parent}/{}", key.replace('~', "~0").replace('/', "~1"))
}

fn encode(plan: &ScriptedPlan) -> Result<Value, Error> {
    serde_json::to_value(plan).map_err(|error| Error::internal(format!("a scripted plan cannot be written: {error}")))
}

/// The plan of a request.
pub(super) fn default_plan(driver: &str, default_image: &str, request: &PlanRequest) -> Result<DefaultPlan, Error> {
    let options: Options = match &request.driver_config {
        Value::Null => Options::default(),
        block => serde_json::from_value(block.clone())
            .map_err(|error| Error::invalid(format!("driver_config.{driver}"), error.to_string()))?,
    };
    let mut slots = BTreeMap::from([("/sealed/id".to_owned(), slots::SANDBOX_ID.to_owned())]);
    let mut from_request = Vec::new();
    let mut env = request.env.clone();
    from_request.extend(env.keys().map(|name| pointer("env", name)));
    for (name, reference) in &request.secrets {
        let slot = format!("{}{reference}", slots::SECRET_PREFIX);
        env.insert(name.clone(), marker(&slot));
        slots.insert(pointer("env", name), slot);
        from_request.push(pointer("env", name));
    }
    from_request.extend(request.labels.keys().map(|key| pointer("labels", key)));
    from_request.extend(options.annotations.keys().map(|key| pointer("annotations", key)));
    let image = if request.image.is_empty() {
        default_image.to_owned()
    } else {
        from_request.push("/image".to_owned());
        request.image.clone()
    };
    if !request.command.is_empty() {
        from_request.push("/command".to_owned());
    }
    let hostname = if let Some(name) = &request.name {
        from_request.push("/sealed/hostname".to_owned());
        name.clone()
    } else {
        slots.insert("/sealed/hostname".to_owned(), slots::SANDBOX_NAME.to_owned());
        marker(slots::SANDBOX_NAME)
    };
    let resources = ScriptedResources {
        cpu: request.resources.cpu.as_ref().map(ToString::to_string),
        memory: request.resources.memory.as_ref().map(ToString::to_string),
        pids: request.resources.pids.map(|pids| pids.to_string()),
    };
    let set = [("cpu", &resources.cpu), ("memory", &resources.memory), ("pids", &resources.pids)];
    from_request.extend(set.iter().filter(|(_, value)| value.is_some()).map(|(name, _)| pointer("resources", name)));
    let plan = ScriptedPlan {
        image,
        command: request.command.clone(),
        env,
        labels: request.labels.clone(),
        annotations: options.annotations,
        resources,
        sealed: ScriptedSealed {
            id: marker(slots::SANDBOX_ID),
            hostname,
            workspace: request.workspace.as_str().to_owned(),
        },
        ..ScriptedPlan::default()
    };
    Ok(DefaultPlan { plan: encode(&plan)?, slots, from_request, from_image: Vec::new() })
}

/// A portable write, where its point is offered.
pub(super) fn write_portable(
    driver: &str,
    points: &std::collections::BTreeSet<Point>,
    plan: &mut Value,
    write: &PortableWrite,
) -> Result<(), Error> {
    let point = write.point();
    if !points.contains(&point) {
        let point = point.as_str();
        return Err(Error::unsupported(driver, point, format!("driver {driver:?} does not offer {point}")));
    }
    let mut typed: ScriptedPlan = serde_json::from_value(plan.clone())
        .map_err(|error| Error::internal(format!("not a plan of driver {driver:?}: {error}")))?;
    match write.clone() {
        PortableWrite::Env { name, value } => drop(typed.env.insert(name, value)),
        PortableWrite::Label { key, value } => {
            if label::is_reserved(&key) {
                return Err(Error::refused("driver", format!("label {key:?} is reserved")));
            }
            typed.labels.insert(key, value);
        }
        PortableWrite::Annotation { key, value } => drop(typed.annotations.insert(key, value)),
        PortableWrite::Mount { source, target, read_only } => {
            typed.mounts.push(ScriptedMount { source, target, read_only });
        }
        PortableWrite::Device { path } => typed.devices.push(ScriptedDevice { path }),
        PortableWrite::Network { address } => typed.network.address = address,
        PortableWrite::Resource { name, quantity } => match name.as_str() {
            "cpu" => typed.resources.cpu = Some(quantity),
            "memory" => typed.resources.memory = Some(quantity),
            "pids" => typed.resources.pids = Some(quantity),
            other => return Err(Error::invalid("resource", format!("there is no limit {other:?}"))),
        },
    }
    *plan = encode(&typed)?;
    Ok(())
}

/// Whether any string in a plan is still a slot's marker.
pub(super) fn unfilled(plan: &Value) -> bool {
    match plan {
        Value::String(text) => text.starts_with("<known after apply: "),
        Value::Array(elements) => elements.iter().any(unfilled),
        Value::Object(fields) => fields.values().any(unfilled),
        _ => false,
    }
}
