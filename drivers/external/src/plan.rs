//! The request document as a plan: what the driver is sent, readable before anything is sent.

use std::collections::BTreeMap;

use chiton_driver::{
    Capabilities, DefaultPlan, FieldRule, PlanRequest, PortableWrite, Rule, SandboxRef, marker, pointer_segment, slots,
};
use chiton_model::{CpuQuantity, Error, MemoryQuantity, printable};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The version of the plan's schema.
pub(crate) const PLAN_SCHEMA: u32 = 1;

/// What a driver behind a socket is asked for. Its names are those of the contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExternalPlan {
    /// Which sandbox this is; sealed.
    pub sandbox: SandboxRef,
    /// The image; empty leaves it to the driver. Sealed.
    pub image: String,
    /// The main process; empty leaves it to the driver. Sealed.
    pub command: Vec<String>,
    /// Environment, which whoever may look at the driver's platform can read.
    pub environment: BTreeMap<String, String>,
    /// Environment that the driver must neither store nor show. Sealed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secret_environment: BTreeMap<String, String>,
    /// Labels; the managed ones come over them.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Limits.
    pub resources: ResourcesPlan,
    /// What the request asks of this driver and nobody else; what it means is the driver's to say.
    pub driver_config: BTreeMap<String, Value>,
}

/// Limits as Kubernetes quantities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResourcesPlan {
    /// Processor time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_limit: Option<CpuQuantity>,
    /// Memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<MemoryQuantity>,
}

impl ExternalPlan {
    /// Reads a plan strictly.
    pub fn decode(plan: &Value) -> Result<Self, Error> {
        serde_json::from_value(plan.clone()).map_err(|error| {
            let why = printable(&error.to_string());
            Error::invalid("plan", format!("the plan is not one of an external driver's: {why}"))
                .cure("give each field the form that the driver's schema says (chiton drivers --json)")
        })
    }
}

/// What may happen to each field; what is not named is sealed.
pub(crate) fn field_rules() -> Vec<FieldRule> {
    vec![
        FieldRule::new("/environment", Rule::MergeMap),
        FieldRule::new("/labels", Rule::MergeMap),
        FieldRule::new("/annotations", Rule::MergeMap),
        FieldRule::new("/resources/cpu_limit", Rule::SetOnce),
        FieldRule::new("/resources/memory_limit", Rule::SetOnce),
        FieldRule::new("/driver_config", Rule::MergeMap),
    ]
}

fn lacks(capabilities: &Capabilities, point: &str, what: &str) -> Error {
    let id = capabilities.id.as_str();
    Error::unsupported(id, point, format!("driver {id:?} cannot be told {what}"))
        .cure("leave it out, or use another driver")
}

/// Makes the plan. It depends on the request and on what the driver said of itself, and on nothing else.
pub(crate) fn default_plan(
    request: &PlanRequest,
    capabilities: &Capabilities,
    secrets: bool,
) -> Result<DefaultPlan, Error> {
    capabilities.check_offers(&request.resources, &request.network, &request.volumes)?;
    if !request.workdir.is_empty() {
        return Err(lacks(capabilities, "workdir", "a working folder"));
    }
    if !request.secrets.is_empty() && !secrets {
        let text = "a secret without showing it to whoever may look at its platform";
        return Err(lacks(capabilities, "secrets", text));
    }
    let mut from_request: Vec<String> = [
        (!request.image.is_empty(), "/image"),
        (!request.command.is_empty(), "/command"),
        (request.name.is_some(), "/sandbox/name"),
        (request.resources.cpu.is_some(), "/resources/cpu_limit"),
        (request.resources.memory.is_some(), "/resources/memory_limit"),
    ]
    .into_iter()
    .filter(|(given, _)| *given)
    .map(|(_, pointer)| pointer.to_owned())
    .collect();
    let mut filled = BTreeMap::from([("/sandbox/id".to_owned(), slots::SANDBOX_ID.to_owned())]);
    let mut said = |map: &str, key: &str| {
        let pointer = format!("/{map}/{}", pointer_segment(key));
        from_request.push(pointer.clone());
        pointer
    };
    let Value::Object(block) = &request.driver_config else {
        return Err(Error::invalid("driver_config", "the driver's block is not an object").cure("write a table"));
    };
    for key in request.env.keys() {
        said("environment", key);
    }
    for key in request.labels.keys() {
        said("labels", key);
    }
    for key in block.keys() {
        said("driver_config", key);
    }
    let mut secret_environment = BTreeMap::new();
    for (name, reference) in &request.secrets {
        let slot = format!("{}{reference}", slots::SECRET_PREFIX);
        secret_environment.insert(name.clone(), marker(&slot));
        filled.insert(said("secret_environment", name), slot);
    }
    let mut environment = request.env.clone();
    environment.retain(|name, _| !secret_environment.contains_key(name));
    let name = request.name.clone().unwrap_or_else(|| {
        filled.insert("/sandbox/name".to_owned(), slots::SANDBOX_NAME.to_owned());
        marker(slots::SANDBOX_NAME)
    });
    let image = if request.image.is_empty() { &capabilities.default_image } else { &request.image };
    let plan = ExternalPlan {
        sandbox: SandboxRef { id: marker(slots::SANDBOX_ID), name, workspace: request.workspace.to_string() },
        image: image.clone(),
        command: request.command.clone(),
        environment,
        secret_environment,
        labels: request.labels.clone(),
        annotations: BTreeMap::new(),
        resources: ResourcesPlan {
            cpu_limit: request.resources.cpu.clone(),
            memory_limit: request.resources.memory.clone(),
        },
        driver_config: block.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
    };
    Ok(DefaultPlan { plan: json!(plan), slots: filled, from_request, from_image: Vec::new() })
}

/// Applies a portable write where the driver takes such.
pub(crate) fn write_portable(
    capabilities: &Capabilities,
    plan: &mut Value,
    write: &PortableWrite,
) -> Result<(), Error> {
    let point = write.point();
    let mut typed = ExternalPlan::decode(plan)?;
    let refused = || {
        let id = capabilities.id.as_str();
        let known: Vec<&str> = capabilities.points.iter().map(|point| point.as_str()).collect();
        let message = format!("driver {id:?} has no point {:?} in its plans", point.as_str());
        Error::unsupported(id, point.as_str(), message).cure(format!("it has: {}", known.join(", ")))
    };
    if !capabilities.points.contains(&point) {
        return Err(refused());
    }
    match write {
        PortableWrite::Env { name, value } => drop(typed.environment.insert(name.clone(), value.clone())),
        PortableWrite::Label { key, value } => drop(typed.labels.insert(key.clone(), value.clone())),
        PortableWrite::Annotation { key, value } => drop(typed.annotations.insert(key.clone(), value.clone())),
        PortableWrite::Resource { name, quantity } => {
            let field = format!("resources.{name}");
            match name.as_str() {
                "cpu" => typed.resources.cpu_limit = Some(CpuQuantity::parse(&field, quantity)?),
                "memory" => typed.resources.memory_limit = Some(MemoryQuantity::parse(&field, quantity)?),
                _ => {
                    let error = lacks(capabilities, &field, &format!("a limit of {name}"));
                    return Err(error.cure("it has limits of cpu and memory"));
                }
            }
        }
        PortableWrite::Mount { .. } | PortableWrite::Device { .. } | PortableWrite::Network { .. } => {
            return Err(refused());
        }
    }
    *plan = json!(typed);
    Ok(())
}
