//! Between wire and model.

use std::collections::BTreeMap;
use std::str::FromStr as _;

use chiton_lifecycle::journal::{
    ChainEntry, Obligation, ObligationReason, ObligationStatus, OperationOutcome, OperationRecord, StepKey, StepTiming,
};
use chiton_lifecycle::plan::Explained;
use chiton_lifecycle::{CreateRequest, SandboxView, Selector};
use chiton_model::{
    Condition, ConditionStatus, CpuQuantity, DriverId, Error, ExitStatus, ExtensionName, MemoryQuantity, NetworkSpec,
    Resources, SandboxId, SandboxName, SandboxSpec, VolumeMount, VolumeName, WorkspaceName,
};
use chiton_proto::v1 as wire;
use jiff::Timestamp;

use chiton_client::to_detail;

/// Absent means absent: proto3 has no other way to leave a string out.
fn present(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

pub(super) fn workspace(text: &str) -> Result<WorkspaceName, Error> {
    present(text).map_or_else(|| Ok(WorkspaceName::default()), WorkspaceName::new)
}

pub(super) fn selector(selector: Option<wire::SandboxSelector>) -> Result<Selector, Error> {
    let missing = || Error::invalid("sandbox", "no sandbox is selected").cure("set an id or a name");
    let selector = selector.ok_or_else(missing)?;
    match selector.by.ok_or_else(missing)? {
        wire::sandbox_selector::By::Id(id) => Ok(Selector::Id(SandboxId::new(id)?)),
        wire::sandbox_selector::By::Name(name) => {
            Ok(Selector::Name(workspace(&selector.workspace)?, SandboxName::new(name)?))
        }
    }
}

pub(super) fn create(request: wire::CreateSandboxRequest) -> Result<CreateRequest, Error> {
    Ok(CreateRequest {
        id: None,
        name: present(&request.name).map(SandboxName::new).transpose()?,
        workspace: workspace(&request.workspace)?,
        spec: spec(request.spec.unwrap_or_default())?,
        expect_plan: present(&request.expect_plan).map(digest).transpose()?,
    })
}

/// A plan's digest. One that has not even its form is a slip, which says nothing about the plan.
fn digest(text: &str) -> Result<String, Error> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    match text.strip_prefix("sha256:") {
        Some(digits) if digits.len() == 64 && digits.bytes().all(is_digit) => Ok(text.to_owned()),
        _ => Err(Error::invalid(
            "expect_plan",
            format!("{text:?} is not a plan's digest: sha256: and 64 lower-case hexadecimal digits"),
        )
        .cure("pass the digest that chiton plan prints, whole")),
    }
}

fn spec(spec: wire::SandboxSpec) -> Result<SandboxSpec, Error> {
    let resources = spec.resources.unwrap_or_default();
    let mut driver_config = BTreeMap::new();
    for (driver, text) in spec.driver_config {
        let field = format!("driver_config.{driver}");
        let value: serde_json::Value = serde_json::from_str(&text).map_err(|error| {
            Error::invalid(&field, format!("the options of driver {driver:?} are not JSON: {error}"))
                .cure("write {\"option\": value}")
        })?;
        if !value.is_object() {
            return Err(Error::invalid(&field, format!("the options of driver {driver:?} are not a JSON object"))
                .cure("write {\"option\": value}"));
        }
        driver_config.insert(driver, value);
    }
    Ok(SandboxSpec {
        image: spec.image,
        command: spec.command,
        env: spec.env.into_iter().collect(),
        labels: spec.labels.into_iter().collect(),
        resources: Resources {
            cpu: present(&resources.cpu).map(|text| CpuQuantity::parse("resources.cpu", text)).transpose()?,
            memory: present(&resources.memory)
                .map(|text| MemoryQuantity::parse("resources.memory", text))
                .transpose()?,
            pids: (resources.pids != 0).then_some(resources.pids),
            disk: present(&resources.disk).map(|text| MemoryQuantity::parse("resources.disk", text)).transpose()?,
            inodes: (resources.inodes != 0).then_some(resources.inodes),
            open_files: (resources.open_files != 0).then_some(resources.open_files),
        },
        network: network(&spec.network.unwrap_or_default())?,
        volumes: spec.volumes.into_iter().map(volume).collect::<Result<_, _>>()?,
        workdir: spec.workdir,
        secrets: spec.secrets.into_iter().collect(),
        extensions: spec.extensions.into_iter().map(ExtensionName::new).collect::<Result<_, _>>()?,
        driver: present(&spec.driver).map(DriverId::from_str).transpose()?,
        driver_config,
    })
}

fn network(network: &wire::Network) -> Result<NetworkSpec, Error> {
    let dns = |text: &String| {
        text.parse().map_err(|_| {
            Error::invalid("network.dns", format!("{text:?} is not the address of a name server"))
                .cure("write an IPv4 or IPv6 address, for example 192.0.2.53")
        })
    };
    Ok(NetworkSpec {
        mode: present(&network.mode).map(str::parse).transpose()?.unwrap_or_default(),
        allow: network.allow.iter().map(|text| text.parse()).collect::<Result<_, _>>()?,
        dns: network.dns.iter().map(dns).collect::<Result<_, _>>()?,
    })
}

fn volume(volume: wire::VolumeMount) -> Result<VolumeMount, Error> {
    Ok(VolumeMount { name: VolumeName::new(volume.name)?, target: volume.target, read_only: volume.read_only })
}

pub(super) fn time(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() }
}

pub(super) fn timestamp(at: prost_types::Timestamp) -> Result<Timestamp, Error> {
    Timestamp::new(at.seconds, at.nanos).map_err(|error| {
        Error::invalid("since", format!("the time is none that there is: {error}"))
            .cure("give seconds since 1970 and 0 to 999,999,999 nanoseconds")
    })
}

fn spec_out(spec: &SandboxSpec) -> wire::SandboxSpec {
    let text = |quantity: Option<String>| quantity.unwrap_or_default();
    wire::SandboxSpec {
        image: spec.image.clone(),
        command: spec.command.clone(),
        env: spec.env.clone().into_iter().collect(),
        labels: spec.labels.clone().into_iter().collect(),
        resources: Some(wire::Resources {
            cpu: text(spec.resources.cpu.as_ref().map(ToString::to_string)),
            memory: text(spec.resources.memory.as_ref().map(ToString::to_string)),
            pids: spec.resources.pids.unwrap_or_default(),
            disk: text(spec.resources.disk.as_ref().map(ToString::to_string)),
            inodes: spec.resources.inodes.unwrap_or_default(),
            open_files: spec.resources.open_files.unwrap_or_default(),
        }),
        network: Some(wire::Network {
            mode: spec.network.mode.to_string(),
            allow: spec.network.allow.iter().map(ToString::to_string).collect(),
            dns: spec.network.dns.iter().map(ToString::to_string).collect(),
        }),
        volumes: spec
            .volumes
            .iter()
            .map(|volume| wire::VolumeMount {
                name: volume.name.to_string(),
                target: volume.target.clone(),
                read_only: volume.read_only,
            })
            .collect(),
        workdir: spec.workdir.clone(),
        secrets: spec.secrets.clone().into_iter().collect(),
        extensions: spec.extensions.iter().map(ToString::to_string).collect(),
        driver: spec.driver.as_ref().map(ToString::to_string).unwrap_or_default(),
        driver_config: spec.driver_config.iter().map(|(driver, value)| (driver.clone(), value.to_string())).collect(),
    }
}

pub(super) fn condition(condition: &Condition) -> wire::Condition {
    let status = match condition.status {
        ConditionStatus::True => "True",
        ConditionStatus::False => "False",
        ConditionStatus::Unknown => "Unknown",
    };
    wire::Condition {
        r#type: condition.kind.clone(),
        status: status.to_owned(),
        reason: condition.reason.clone(),
        message: condition.message.clone(),
        last_transition: Some(time(condition.last_transition)),
    }
}

fn exit(exit: &ExitStatus) -> wire::ExitStatus {
    wire::ExitStatus { code: exit.code, reason: exit.reason.clone(), at: exit.at.map(time) }
}

pub(super) fn chain(entry: &ChainEntry) -> wire::ChainEntry {
    wire::ChainEntry {
        extension: entry.name.to_string(),
        version: entry.version.clone(),
        config: entry.config.clone(),
        activation: entry.activation.rule.clone(),
        observe: entry.observe,
    }
}

pub(super) fn sandbox(view: &SandboxView) -> wire::Sandbox {
    let record = &view.record;
    wire::Sandbox {
        id: record.id.to_string(),
        name: record.name.to_string(),
        workspace: record.workspace.to_string(),
        driver: record.driver.to_string(),
        phase: record.phase.to_string(),
        spec: Some(spec_out(&record.spec)),
        conditions: record.conditions.iter().map(condition).collect(),
        exit: record.exit.as_ref().map(exit),
        failure: record.failure.as_ref().map(ToString::to_string).unwrap_or_default(),
        plan_digest: record.plan.digest.clone(),
        chain: record.chain.iter().map(chain).collect(),
        slots: record.slots.clone().into_iter().collect(),
        created_at: Some(time(record.created_at)),
        updated_at: Some(time(record.updated_at)),
        operation: view.running.as_ref().map(ToString::to_string).unwrap_or_default(),
        obligations: u32::try_from(view.obligations).unwrap_or(u32::MAX),
        held: view.held.clone().unwrap_or_default(),
        principal: record.principal.subject.clone(),
    }
}

pub(super) fn step(step: &StepTiming) -> wire::Step {
    let (extension, phase) = key(&step.step);
    wire::Step {
        name: step.step.to_string(),
        extension,
        phase,
        begin_us: step.begin_us,
        took_us: step.took_us,
        error: step.error.clone().unwrap_or_default(),
    }
}

pub(super) fn key(step: &StepKey) -> (String, String) {
    match step {
        StepKey::Hook { phase, extension } => (extension.to_string(), phase.to_string()),
        StepKey::Driver(call) => (String::new(), call.as_str().to_owned()),
    }
}

pub(super) fn operation(record: &OperationRecord) -> wire::Operation {
    let reason = record
        .stop_reason
        .map(|reason| reason.to_string())
        .or_else(|| record.start_reason.map(|reason| reason.to_string()));
    let (state, error) = match &record.outcome {
        None => ("running", None),
        Some(OperationOutcome::Succeeded) => ("succeeded", None),
        Some(OperationOutcome::Failed(error)) => ("failed", Some(to_detail(error))),
    };
    wire::Operation {
        id: record.id.to_string(),
        kind: record.kind.to_string(),
        reason: reason.unwrap_or_default(),
        started_at: Some(time(record.started_at)),
        ended_at: record.ended_at.map(time),
        state: state.to_owned(),
        error,
        steps: record.steps.iter().map(step).collect(),
        total_us: record.total_us,
        principal: record.principal.subject.clone(),
    }
}

pub(super) fn obligation(obligation: &Obligation) -> wire::Obligation {
    let reason = match obligation.reason {
        ObligationReason::CleanupFailed => "cleanup_failed",
        ObligationReason::HookStillRunning => "hook_still_running",
        ObligationReason::Confirming => "confirming",
    };
    let status = match obligation.status {
        ObligationStatus::Open => "open",
        ObligationStatus::Abandoned => "abandoned",
    };
    wire::Obligation {
        id: obligation.id.clone(),
        subject: obligation.subject.to_string(),
        name: obligation.name.clone(),
        extension: obligation.debt.extension.to_string(),
        phase: obligation.debt.phase.to_string(),
        reason: reason.to_owned(),
        status: status.to_owned(),
        opened_at: Some(time(obligation.opened_at)),
        attempts: obligation.attempts,
        last_error: obligation.last_error.clone(),
        next_attempt_at: Some(time(obligation.next_attempt_at)),
        operation: obligation.operation.to_string(),
        expires_at: obligation.expires_at.map(time),
    }
}

pub(super) fn explained(value: &Explained) -> wire::ExplainedValue {
    wire::ExplainedValue {
        path: value.path.clone(),
        value: value.value.to_string(),
        writer: value.writer.to_string(),
        slot: value.slot.clone().unwrap_or_default(),
    }
}
