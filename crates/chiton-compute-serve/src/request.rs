//! The contract's sandbox as a request to the engine, read strictly: what cannot be done is refused, never left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use chiton_compute_wire::json::from_struct;
use chiton_compute_wire::names::{ENABLED, EXTENSION_LABEL};
use chiton_compute_wire::v1;
use chiton_driver::AgentLaunch;
use chiton_lifecycle::CreateRequest;
use chiton_model::label::is_reserved;
use chiton_model::{
    CpuQuantity, DriverId, Error, ExtensionName, MemoryQuantity, NetworkSpec, Resources, SandboxId, SandboxName,
    SandboxSpec, WorkspaceName,
};
use serde_json::{Value, json};

use crate::credentials::{Credentials, Handed};
use crate::relay::Way;

/// How requests are read.
pub(crate) struct Reading {
    /// The base driver.
    pub(crate) base: DriverId,
    /// The name that callers have for what is served.
    pub(crate) name: String,
    /// The extensions that are on the chain when somebody asks for them.
    pub(crate) on_request: BTreeSet<ExtensionName>,
    /// Whether this is more than the base driver: then a request's block is the wrapper's, and the base driver's own must
    /// be delegated.
    pub(crate) composed: bool,
    /// Whether the base driver's block may be in the wrapper's.
    pub(crate) delegate: bool,
    /// The network of its sandboxes.
    pub(crate) network: NetworkSpec,
    /// Whether a supervisor starts the main process: only it can give it a terminal, and says how much it logs.
    pub(crate) supervisor: bool,
}

fn missing(field: &str) -> Error {
    Error::invalid(field, format!("{field} is missing")).cure("send it")
}

fn lacks(field: &str, what: &str) -> Error {
    Error::invalid(field, format!("this driver cannot do what {field} asks for: {what}")).cure("leave it out")
}

/// Splits what the user `caller` asked for into what is stored and what is not.
pub(crate) fn read(
    sandbox: Option<v1::DriverSandbox>,
    reading: &Reading,
    caller: u32,
) -> Result<(CreateRequest, SandboxId, Handed), Error> {
    let sandbox = sandbox.ok_or_else(|| missing("sandbox"))?;
    let spec = sandbox.spec.ok_or_else(|| missing("sandbox.spec"))?;
    let id = SandboxId::new(sandbox.id)?;
    let name = SandboxName::new(sandbox.name)?;
    let workspace =
        if sandbox.workspace.is_empty() { WorkspaceName::default() } else { WorkspaceName::new(sandbox.workspace)? };
    let template = spec.template.unwrap_or_default();
    if spec.resource_requirements.is_some_and(|asked| asked.gpu.is_some()) {
        return Err(lacks("sandbox.spec.resource_requirements.gpu", "a GPU"));
    }
    if !template.agent_socket_path.is_empty() {
        return Err(lacks("sandbox.spec.template.agent_socket_path", "another agent"));
    }
    let platform = template.platform_config.as_ref().map(from_struct).unwrap_or_default();
    if let Some((key, _)) = platform.as_object().into_iter().flatten().find(|(_, value)| !is_empty(value)) {
        return Err(lacks(&format!("sandbox.spec.template.platform_config.{key}"), "something of another platform"));
    }
    let (labels, extensions) = labels(template.labels.into_iter().collect(), reading);
    let mut env: BTreeMap<String, String> = template.environment.into_iter().collect();
    env.extend(spec.environment);
    let secrets: BTreeMap<String, String> = spec.secret_environment.into_iter().collect();
    let handed = Handed {
        agent: (!spec.sandbox_token.is_empty())
            .then_some(AgentLaunch { token: spec.sandbox_token, attempt: spec.agent_attempt }),
        way: Some(PathBuf::from(spec.agent_socket))
            .filter(|path| path.is_absolute())
            .map(|socket| Way { socket, uid: caller }),
        secrets: secrets.clone(),
    };
    let block = template.driver_config.as_ref().map(from_struct);
    let mut driver_config = own_block(block, reading)?;
    if reading.supervisor {
        let own = driver_config.entry(reading.base.to_string()).or_insert_with(|| json!({}));
        own["tty"] = json!(spec.tty);
        if !spec.log_level.is_empty() {
            own["log_level"] = json!(spec.log_level);
        }
    } else if spec.tty {
        return Err(lacks("sandbox.spec.tty", "a terminal for the main process"));
    }
    let spec = SandboxSpec {
        image: template.image,
        command: spec.command,
        env,
        labels,
        resources: resources(&template.resources.unwrap_or_default())?,
        network: reading.network.clone(),
        secrets: secrets.keys().map(|name| (name.clone(), Credentials::reference(&id, name))).collect(),
        extensions,
        driver_config,
        ..SandboxSpec::default()
    };
    let create = CreateRequest { id: Some(id.clone()), name: Some(name), workspace, spec, expect_plan: None };
    Ok((create, id, handed))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.values().all(is_empty),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

/// The user's labels, and the extensions that the caller's gateway says are on. Other reserved labels are the calling
/// gateway's own; the objects made here carry ours.
fn labels(all: BTreeMap<String, String>, reading: &Reading) -> (BTreeMap<String, String>, BTreeSet<ExtensionName>) {
    let asked = all.iter().filter(|(_, value)| value.as_str() == ENABLED);
    let asked = asked.filter_map(|(key, _)| ExtensionName::new(key.strip_prefix(EXTENSION_LABEL)?).ok());
    // The others are the caller's own.
    let asked = asked.filter(|name| reading.on_request.contains(name)).collect();
    (all.into_iter().filter(|(key, _)| !is_reserved(key)).collect(), asked)
}

fn resources(asked: &v1::DriverResourceRequirements) -> Result<Resources, Error> {
    const FIELD: &str = "sandbox.spec.template.resources";
    for (name, text) in [("cpu_request", &asked.cpu_request), ("memory_request", &asked.memory_request)] {
        if !text.is_empty() {
            return Err(lacks(&format!("{FIELD}.{name}"), "a reservation; it can only limit"));
        }
    }
    let mut resources = Resources::default();
    if !asked.cpu_limit.is_empty() {
        resources.cpu = Some(CpuQuantity::parse(&format!("{FIELD}.cpu_limit"), &asked.cpu_limit)?);
    }
    if !asked.memory_limit.is_empty() {
        resources.memory = Some(MemoryQuantity::parse(&format!("{FIELD}.memory_limit"), &asked.memory_limit)?);
    }
    Ok(resources)
}

/// The base driver's block. The base driver's config and the wrapper's are never taken for each other.
fn own_block(block: Option<Value>, reading: &Reading) -> Result<BTreeMap<String, Value>, Error> {
    let Some(Value::Object(block)) = block.filter(|block| !is_empty(block)) else { return Ok(BTreeMap::new()) };
    let base = reading.base.as_str();
    if !reading.composed {
        return Ok(BTreeMap::from([(base.to_owned(), Value::Object(block))]));
    }
    let mut delegated = BTreeMap::new();
    for (key, value) in block {
        if key != base {
            return Err(Error::invalid(
                format!("driver_config.{key}"),
                format!("driver {:?} has no option {key:?}", reading.name),
            )
            .cure(if reading.delegate {
                format!("its only option is {base:?}, the options of its base driver")
            } else {
                "it has no options".to_owned()
            }));
        }
        if !reading.delegate {
            return Err(Error::refused(
                "policy",
                format!("driver {:?} does not let requests set options of its base driver {base:?}", reading.name),
            )
            .cure("leave them out, or ask the operator to serve it with --delegate"));
        }
        if !value.is_object() {
            let field = format!("driver_config.{}.{base}", reading.name);
            return Err(Error::invalid(&field, format!("{field} is no table of options"))
                .cure("send a table of the base driver's options, or leave it out"));
        }
        delegated.insert(key, value);
    }
    Ok(delegated)
}

#[cfg(test)]
mod tests;
