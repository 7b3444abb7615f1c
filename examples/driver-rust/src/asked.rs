//! What a request may say.

use std::collections::BTreeMap;

use chiton_compute_wire::json::from_struct;
use chiton_compute_wire::status::to_status;
use chiton_compute_wire::v1::{DriverResourceRequirements, DriverSandbox};
use chiton_compute_wire::{CpuQuantity, MemoryQuantity, SandboxId, nearest};
use serde::{Deserialize, Serialize};
use tonic::Status;

/// One argument or variable may have so many bytes with its end: execve(2).
const LONGEST: usize = 128 << 10;
/// With less address space no program starts.
const SMALLEST: u64 = 16 << 20;
/// The keys of `driver_config`: whole numbers, their default and the largest.
const KNOBS: [(&str, u64, u64); 2] = [("niceness", 0, 19), ("grace_seconds", 10, 60)];

/// What is kept of a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Asked {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) workspace: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) command: Vec<String>,
    pub(crate) environment: BTreeMap<String, String>,
    /// Bytes of address space for each process; 0 leaves it open.
    pub(crate) memory: u64,
    pub(crate) niceness: i32,
    /// Seconds from TERM to KILL.
    pub(crate) grace: u64,
}

/// Text from outside in a message: one line, and not an endless one.
fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(80).collect::<String>())
}

fn need(sound: bool, otherwise: impl FnOnce() -> String) -> Result<(), Status> {
    if sound { Ok(()) } else { Err(Status::invalid_argument(otherwise())) }
}

fn need_offer(sound: bool, otherwise: &str) -> Result<(), Status> {
    if sound { Ok(()) } else { Err(Status::failed_precondition(otherwise)) }
}

/// An id becomes a folder's name: what it may hold is decided here, before anything looks at it.
pub(crate) fn check_id(id: &str) -> Result<(), Status> {
    SandboxId::new(id).map(drop).map_err(|error| to_status(&error))
}

fn memory(asked: &DriverResourceRequirements) -> Result<u64, Status> {
    let mut cpu = 0;
    for (field, text) in [("cpu_request", &asked.cpu_request), ("cpu_limit", &asked.cpu_limit)] {
        cpu +=
            if text.is_empty() { 0 } else { CpuQuantity::parse(field, text).map_err(|e| to_status(&e))?.millicores() };
    }
    let read = |field, text: &str| match text {
        "" => Ok(0),
        text => MemoryQuantity::parse(field, text).map(|found| found.bytes()).map_err(|error| to_status(&error)),
    };
    let (request, limit) = (read("memory_request", &asked.memory_request)?, read("memory_limit", &asked.memory_limit)?);
    need_offer(cpu == 0, "cpu cannot be limited here; there is driver_config.niceness")?;
    need_offer(request <= limit, "memory_request is more than memory_limit; nothing is reserved here")?;
    need_offer(limit == 0 || limit >= SMALLEST, "memory_limit: no program starts with less than 16Mi")?;
    Ok(limit)
}

/// What is kept of a request, or why it is refused.
pub(crate) fn checked(sandbox: Option<&DriverSandbox>) -> Result<Asked, Status> {
    let missing = |what: &str| Status::invalid_argument(format!("{what} is missing"));
    let sandbox = sandbox.ok_or_else(|| missing("sandbox"))?;
    let spec = sandbox.spec.as_ref().ok_or_else(|| missing("sandbox.spec"))?;
    let template = spec.template.clone().unwrap_or_default();
    check_id(&sandbox.id)?;
    need(matches!(sandbox.name.len(), 1..=253), || "name is empty or longer than 253 bytes".to_owned())?;
    let names = [("name", &sandbox.name), ("namespace", &sandbox.namespace), ("workspace", &sandbox.workspace)];
    for (what, text) in names.into_iter().chain(template.labels.iter().map(|(key, value)| (key.as_str(), value))) {
        need(!what.contains(char::is_control) && !text.contains(char::is_control), || {
            format!("name or label {}: {} has a control character", shown(what), shown(text))
        })?;
    }
    let words = &spec.command;
    need(words.first().is_some_and(|word| !word.is_empty()), || {
        "command is empty, and there are no images here that could bring one".to_owned()
    })?;
    let mut environment: BTreeMap<_, _> = template.environment.into_iter().collect();
    environment.extend(spec.environment.clone());
    for name in environment.keys() {
        need(!name.is_empty() && !name.contains('='), || format!("environment: {} is no name", shown(name)))?;
    }
    for text in words.iter().cloned().chain(environment.iter().map(|(name, value)| format!("{name}={value}"))) {
        need(!text.contains('\0') && text.len() < LONGEST, || {
            format!("command or environment: {} has a NUL or more than {} bytes", shown(&text), LONGEST - 1)
        })?;
    }
    let config = from_struct(&template.driver_config.unwrap_or_default());
    for key in config.as_object().into_iter().flat_map(|config| config.keys()) {
        let known = KNOBS.map(|knob| knob.0);
        need(known.contains(&key.as_str()), || match nearest(key, known) {
            Some(near) => format!("driver_config: unknown key {}; did you mean {near:?}?", shown(key)),
            None => format!("driver_config: unknown key {}; known are {}", shown(key), known.join(", ")),
        })?;
    }
    let knob = |(key, default, largest): (&str, u64, u64)| match config.get(key).map(serde_json::Value::as_u64) {
        None => Ok(default),
        Some(Some(value)) if value <= largest => Ok(value),
        Some(_) => {
            Err(Status::invalid_argument(format!("driver_config.{key} must be a whole number from 0 to {largest}")))
        }
    };
    let (niceness, grace) = (knob(KNOBS[0])?, knob(KNOBS[1])?);
    let memory = memory(&template.resources.unwrap_or_default())?;
    let image = template.image.as_str();
    let other = format!("image {}: only the host's programs are here; leave it out", shown(image));
    need_offer(matches!(image, "" | "host"), &other)?;
    let more = spec.tty || spec.resource_requirements.is_some() || !spec.secret_environment.is_empty();
    need_offer(!more, "terminals, GPUs and secret variables are not to be had here")?;
    Ok(Asked {
        id: sandbox.id.clone(),
        name: sandbox.name.clone(),
        namespace: sandbox.namespace.clone(),
        workspace: sandbox.workspace.clone(),
        labels: template.labels.into_iter().collect(),
        command: words.clone(),
        environment,
        memory,
        niceness: i32::try_from(niceness).unwrap_or_default(),
        grace,
    })
}
