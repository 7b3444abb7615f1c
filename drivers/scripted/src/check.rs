//! What a request may say.

use std::time::Duration;

use chiton_compute_wire::json::from_struct;
use chiton_compute_wire::status::to_status;
use chiton_compute_wire::v1::{DriverResourceRequirements, DriverSandbox, DriverSandboxTemplate};
use chiton_model::{CpuQuantity, Error, MemoryQuantity, SandboxId, nearest};
use tonic::Status;

use crate::fault::{Fault, Faults};

/// The longest name, as DNS has it.
const LONGEST_NAME: usize = 253;
/// No shell starts in less.
const LEAST_MEMORY: u64 = 4 << 20;
/// The only image; with any tag.
const IMAGE: &str = "scripted";
/// Milliseconds from create to the main process of this sandbox.
const READY_AFTER: &str = "ready_after_ms";
/// What `driver_config` may hold.
const KNOWN: [&str; 1] = [READY_AFTER];

/// An id of a request that looks for something.
pub(crate) fn id(text: &str) -> Result<(), Status> {
    SandboxId::new(text).map(drop).map_err(|error| to_status(&error))
}

/// A sandbox that is to be made.
pub(crate) fn sandbox(sandbox: Option<DriverSandbox>, faults: &Faults) -> Result<DriverSandbox, Status> {
    let Some(mut sandbox) = sandbox else {
        let wrong = faults.has(Fault::WrongCodeForMalformed);
        return Err(if wrong { Status::internal("it did not work") } else { missing() });
    };
    let token = sandbox.spec.as_ref().map(|spec| spec.sandbox_token.clone()).unwrap_or_default();
    if faults.has(Fault::StripsControl) {
        sandbox.name.retain(|letter| !letter.is_control());
    }
    let words = sandbox.spec.iter().flat_map(|spec| &spec.command);
    if faults.has(Fault::BreaksOnUnicode) && words.into_iter().any(|word| !word.is_ascii()) {
        return Err(Status::internal("'ascii' codec cannot encode a character"));
    }
    match checked(&sandbox, faults) {
        Ok(()) => {}
        Err(_) if faults.has(Fault::WrongCodeForMalformed) => return Err(Status::internal("it did not work")),
        Err(error) if faults.has(Fault::TokenInMessages) => {
            return Err(Status::new(to_status(&error).code(), format!("{} (token {token})", error.message)));
        }
        Err(error) => return Err(to_status(&error)),
    }
    if faults.has(Fault::GarblesNames) {
        sandbox.name = ascii(&sandbox.name);
    }
    if faults.has(Fault::CutsLongNames) {
        sandbox.name = sandbox.name.chars().take(LONGEST_NAME).collect();
    }
    if let (true, Some(template)) =
        (faults.has(Fault::GarblesLabels), sandbox.spec.as_mut().and_then(|spec| spec.template.as_mut()))
    {
        template.labels.values_mut().for_each(|value| *value = ascii(value));
    }
    sandbox.status = None;
    Ok(sandbox)
}

fn missing() -> Status {
    Status::invalid_argument("sandbox is missing; send the sandbox to make")
}

fn ascii(text: &str) -> String {
    text.chars().map(|letter| if letter.is_ascii() { letter } else { '?' }).collect()
}

fn checked(sandbox: &DriverSandbox, faults: &Faults) -> Result<(), Error> {
    let odd = sandbox.id.is_empty() && faults.has(Fault::AcceptsEmptyId)
        || sandbox.id.contains(['/', '.']) && faults.has(Fault::AcceptsPaths)
        || sandbox.id.contains(char::is_control) && faults.has(Fault::AcceptsControl);
    if !odd {
        SandboxId::new(&*sandbox.id)?;
    }
    name(&sandbox.name, faults)?;
    let Some(spec) = &sandbox.spec else {
        return if faults.has(Fault::AcceptsNoSpec) {
            Ok(())
        } else {
            Err(Error::invalid("spec", "spec is missing").cure("send what the sandbox is to be"))
        };
    };
    let template = spec.template.clone().unwrap_or_default();
    if faults.has(Fault::AcceptsNul) {
        quantities(&template.resources.clone().unwrap_or_default(), faults)?;
        return config(&template, faults);
    }
    let variables = spec.environment.iter().chain(&template.environment).chain(&spec.secret_environment);
    for (name, value) in variables {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(Error::invalid("environment", format!("variable {name:?} cannot be passed to a process"))
                .cure("names have no '=', and neither names nor values a NUL"));
        }
    }
    if let Some(word) = spec.command.iter().find(|word| word.contains('\0')) {
        return Err(
            Error::invalid("command", format!("{word:?} cannot be passed to a process")).cure("leave out the NUL")
        );
    }
    image(&template.image)?;
    quantities(&template.resources.clone().unwrap_or_default(), faults)?;
    config(&template, faults)
}

fn image(name: &str) -> Result<(), Error> {
    if name.is_empty() || name.split(':').next() == Some(IMAGE) {
        return Ok(());
    }
    Err(Error::refused("image", format!("there is no image {name:?}")).cure(format!("use {IMAGE:?}, or name none")))
}

fn name(name: &str, faults: &Faults) -> Result<(), Error> {
    let why = match name {
        "" => "it is empty".to_owned(),
        _ if name.len() > LONGEST_NAME && !faults.has(Fault::CutsLongNames) => {
            format!("it has {} bytes, the limit is {LONGEST_NAME}", name.len())
        }
        _ => match name.chars().find(|letter| letter.is_control()) {
            Some(letter) => format!("it contains {letter:?}"),
            None => return Ok(()),
        },
    };
    let shown: String = name.chars().take(40).collect();
    Err(Error::invalid("name", format!("name {shown:?} is not valid: {why}")).cure("use another name"))
}

fn quantities(resources: &DriverResourceRequirements, faults: &Faults) -> Result<(), Error> {
    if faults.has(Fault::AcceptsNonsense) {
        return Ok(());
    }
    let all = [
        ("cpu_request", &resources.cpu_request, true),
        ("cpu_limit", &resources.cpu_limit, true),
        ("memory_request", &resources.memory_request, false),
        ("memory_limit", &resources.memory_limit, false),
    ];
    for (field, text, cpu) in all.into_iter().filter(|(_, text, _)| !text.is_empty()) {
        if faults.has(Fault::RefusesQuantities) && !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Error::invalid(field, format!("{text:?} is no number")).cure("write digits"));
        }
        if cpu {
            CpuQuantity::parse(field, text)?;
        } else if MemoryQuantity::parse(field, text)?.bytes() < LEAST_MEMORY {
            return Err(
                Error::invalid(field, format!("nothing runs in {text} of memory")).cure("write \"4Mi\" or more")
            );
        }
    }
    Ok(())
}

fn config(template: &DriverSandboxTemplate, faults: &Faults) -> Result<(), Error> {
    let Some(config) = &template.driver_config else { return Ok(()) };
    if let Some(unknown) = config.fields.keys().find(|key| !KNOWN.contains(&key.as_str())) {
        if faults.has(Fault::AcceptsUnknownConfig) {
            return Ok(());
        }
        if faults.has(Fault::SilentAboutConfig) {
            return Err(Error::invalid("driver_config", "the configuration is not valid"));
        }
        let cure = match nearest(unknown, KNOWN) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("known keys: {}", KNOWN.join(", ")),
        };
        return Err(Error::invalid("driver_config", format!("driver_config has no key {unknown:?}")).cure(cure));
    }
    match from_struct(config).get(READY_AFTER) {
        Some(value) if value.as_u64().is_none() => {
            Err(Error::invalid("driver_config", format!("{READY_AFTER} is {value}, not a number of milliseconds"))
                .cure("write a whole number, for example 200"))
        }
        _ => Ok(()),
    }
}

/// What a sandbox's own configuration says of the time to its main process.
pub(crate) fn ready_after(sandbox: &DriverSandbox) -> Option<Duration> {
    let config = sandbox.spec.as_ref()?.template.as_ref()?.driver_config.as_ref()?;
    Some(Duration::from_millis(from_struct(config).get(READY_AFTER)?.as_u64()?))
}
