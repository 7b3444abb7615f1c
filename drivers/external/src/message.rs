//! A plan as the contract's message.

use chiton_compute_wire::json::to_struct;
use chiton_compute_wire::names::{ENABLED, EXTENSION_LABEL, features};
use chiton_compute_wire::v1;
use chiton_driver::{CreateCall, WhoseAgent, has_open_slot};
use chiton_model::{Error, OperationId, SandboxId};
use serde_json::{Value, json};

use crate::handshake::Handshake;
use crate::options::ExternalOptions;
use crate::plan::ExternalPlan;

/// What stands where a value is not known yet, when a driver is only asked whether it could: fit for labels and names.
const PENDING: &str = "pending";

/// The plan's part of the message.
fn sandbox(plan: ExternalPlan) -> v1::DriverSandbox {
    let mut platform = serde_json::Map::new();
    if !plan.annotations.is_empty() {
        platform.insert("annotations".to_owned(), json!(plan.annotations));
    }
    let block = (!plan.driver_config.is_empty()).then(|| to_struct(&json!(plan.driver_config)));
    let template = v1::DriverSandboxTemplate {
        image: plan.image,
        labels: plan.labels.into_iter().collect(),
        resources: Some(v1::DriverResourceRequirements {
            cpu_limit: plan.resources.cpu_limit.map(|limit| limit.to_string()).unwrap_or_default(),
            memory_limit: plan.resources.memory_limit.map(|limit| limit.to_string()).unwrap_or_default(),
            ..v1::DriverResourceRequirements::default()
        }),
        platform_config: (!platform.is_empty()).then(|| to_struct(&Value::Object(platform))),
        driver_config: block,
        ..v1::DriverSandboxTemplate::default()
    };
    let spec = v1::DriverSandboxSpec {
        environment: plan.environment.into_iter().collect(),
        secret_environment: plan.secret_environment.into_iter().collect(),
        template: Some(template),
        command: plan.command,
        ..v1::DriverSandboxSpec::default()
    };
    v1::DriverSandbox {
        id: plan.sandbox.id,
        name: plan.sandbox.name,
        workspace: plan.sandbox.workspace,
        spec: Some(spec),
        ..v1::DriverSandbox::default()
    }
}

/// What the driver is asked to look at: the plan, with something that fits wherever a slot is open.
pub(crate) fn to_validate(plan: &Value) -> Result<v1::DriverSandbox, Error> {
    let mut plan = plan.clone();
    close(&mut plan);
    let mut plan = ExternalPlan::decode(&plan)?;
    plan.sandbox.id = SandboxId::generate(0, [0; 10]).to_string();
    // Never a secret's value; whether there is one decides.
    plan.secret_environment.values_mut().for_each(|value| PENDING.clone_into(value));
    Ok(sandbox(plan))
}

fn close(value: &mut Value) {
    match value {
        Value::String(text) if has_open_slot(text) => PENDING.clone_into(text),
        Value::Array(items) => items.iter_mut().for_each(close),
        Value::Object(entries) => entries.values_mut().for_each(close),
        _ => {}
    }
}

/// What the driver is asked to make or start. Holds secrets.
pub(crate) fn to_act(
    call: &CreateCall,
    said: &Handshake,
    options: &ExternalOptions,
) -> Result<v1::DriverSandbox, Error> {
    let identity = &call.identity;
    let mut plan = ExternalPlan::decode(&call.plan)?;
    // Last, so that nothing overrides them.
    for extension in &identity.extensions {
        plan.labels.insert(format!("{EXTENSION_LABEL}{extension}"), ENABLED.to_owned());
    }
    plan.labels.extend(identity.labels().map(|(key, value)| (key.to_owned(), value)));
    let mut made = sandbox(plan);
    made.id = identity.sandbox.to_string();
    made.name = identity.name.to_string();
    made.workspace = identity.workspace.to_string();
    if let (Some(agent), Some(spec)) = (&call.agent, &mut made.spec) {
        spec.sandbox_token.clone_from(&agent.token);
        spec.agent_attempt.clone_from(&agent.attempt);
        if options.agent == WhoseAgent::Chiton && said.can(features::CHITON_AGENT) {
            let socket = agent_folder(options, &identity.sandbox).join("agent.sock");
            spec.agent_socket = socket.to_string_lossy().into_owned();
        }
    }
    Ok(made)
}

/// Where the gateway binds a sandbox's agent socket.
pub(crate) fn agent_folder(options: &ExternalOptions, id: &SandboxId) -> std::path::PathBuf {
    options.run_dir.join("agent").join(id.as_str())
}

/// The operation that a driver's own news are about is not known to it.
pub(crate) fn attempt(status: Option<&v1::DriverSandboxStatus>) -> Option<String> {
    status.map(|status| status.attempt.clone()).filter(|attempt| OperationId::new(attempt.as_str()).is_ok())
}
