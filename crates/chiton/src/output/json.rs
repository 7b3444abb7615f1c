//! JSON shapes. Stable: fields are added, never renamed or removed within a major version.

use chiton_proto::v1 as wire;
use jiff::Timestamp;
use serde_json::{Value, json};

/// A wire time as RFC 3339; null when absent.
pub(crate) fn time(at: Option<&prost_types::Timestamp>) -> Value {
    at.and_then(|at| Timestamp::new(at.seconds, at.nanos).ok()).map_or(Value::Null, |at| json!(at.to_string()))
}

/// Absent texts are null: an empty one says the same on the wire.
fn text(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { json!(text) }
}

/// A document that came as text.
fn embedded(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| json!(text))
}

pub(crate) fn sandbox(sandbox: &wire::Sandbox) -> Value {
    let spec = sandbox.spec.clone().unwrap_or_default();
    let resources = spec.resources.unwrap_or_default();
    let network = spec.network.unwrap_or_default();
    json!({
        "id": sandbox.id,
        "name": sandbox.name,
        "workspace": sandbox.workspace,
        "driver": sandbox.driver,
        "phase": sandbox.phase,
        "image": spec.image,
        "command": spec.command,
        "env": spec.env,
        "labels": spec.labels,
        "resources": {
            "cpu": text(&resources.cpu),
            "memory": text(&resources.memory),
            "pids": (resources.pids != 0).then_some(resources.pids),
            "disk": text(&resources.disk),
            "inodes": (resources.inodes != 0).then_some(resources.inodes),
            "open_files": (resources.open_files != 0).then_some(resources.open_files),
        },
        "network": { "mode": if network.mode.is_empty() { "none" } else { &network.mode }, "allow": network.allow, "dns": network.dns },
        "volumes": spec.volumes.iter().map(|volume| json!({
            "name": volume.name, "target": volume.target, "read_only": volume.read_only,
        })).collect::<Vec<_>>(),
        "workdir": text(&spec.workdir),
        "secrets": spec.secrets,
        "extensions": spec.extensions,
        "driver_config": spec.driver_config.iter().map(|(driver, config)| (driver.clone(), embedded(config))).collect::<serde_json::Map<_, _>>(),
        "conditions": sandbox.conditions.iter().map(|condition| json!({
            "type": condition.r#type, "status": condition.status, "reason": condition.reason, "message": condition.message,
            "last_transition": time(condition.last_transition.as_ref()),
        })).collect::<Vec<_>>(),
        "exit": sandbox.exit.as_ref().map(|exit| json!({ "code": exit.code, "reason": exit.reason, "at": time(exit.at.as_ref()) })),
        "failure": text(&sandbox.failure),
        "plan_digest": sandbox.plan_digest,
        "chain": sandbox.chain.iter().map(link).collect::<Vec<_>>(),
        "slots": sandbox.slots,
        "created_at": time(sandbox.created_at.as_ref()),
        "updated_at": time(sandbox.updated_at.as_ref()),
        "operation": text(&sandbox.operation),
        "obligations": sandbox.obligations,
        "held": text(&sandbox.held),
        "principal": sandbox.principal,
    })
}

fn link(entry: &wire::ChainEntry) -> Value {
    json!({ "extension": entry.extension, "version": entry.version, "config": entry.config, "activation": entry.activation, "observe": entry.observe })
}

fn step(step: &wire::Step) -> Value {
    json!({
        "name": step.name, "phase": step.phase, "extension": text(&step.extension),
        "begin_us": step.begin_us, "took_us": step.took_us, "error": text(&step.error),
    })
}

pub(crate) fn operation(operation: &wire::Operation) -> Value {
    json!({
        "id": operation.id, "kind": operation.kind, "reason": text(&operation.reason), "state": operation.state,
        "started_at": time(operation.started_at.as_ref()), "ended_at": time(operation.ended_at.as_ref()),
        "error": operation.error.as_ref().map(|error| json!({ "code": error.code, "message": error.message, "cure": text(&error.cure) })),
        "steps": operation.steps.iter().map(step).collect::<Vec<_>>(),
        "total_us": operation.total_us, "principal": operation.principal,
    })
}

pub(crate) fn obligation(obligation: &wire::Obligation) -> Value {
    json!({
        "id": obligation.id, "subject": obligation.subject, "name": obligation.name, "extension": obligation.extension,
        "phase": obligation.phase, "reason": obligation.reason, "status": obligation.status,
        "opened_at": time(obligation.opened_at.as_ref()), "attempts": obligation.attempts,
        "last_error": text(&obligation.last_error), "next_attempt_at": time(obligation.next_attempt_at.as_ref()),
        "operation": obligation.operation, "expires_at": time(obligation.expires_at.as_ref()),
    })
}

pub(crate) fn explained(value: &wire::ExplainedValue) -> Value {
    json!({ "path": value.path, "value": embedded(&value.value), "writer": value.writer, "slot": text(&value.slot) })
}

pub(crate) fn plan(plan: &wire::PlanSandboxResponse) -> Value {
    let write = |write: &wire::PlanWrite| {
        let side = |text: &str| if text.is_empty() { Value::Null } else { embedded(text) };
        json!({ "path": write.path, "before": side(&write.before), "after": side(&write.after), "overrides": text(&write.overrides) })
    };
    json!({
        "driver": plan.driver,
        "digest": plan.digest,
        "plan": embedded(&plan.plan),
        "chain": plan.chain.iter().map(link).collect::<Vec<_>>(),
        "writes": plan.writes.iter().map(|writes| json!({
            "extension": writes.extension, "writes": writes.writes.iter().map(write).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "values": plan.values.iter().map(explained).collect::<Vec<_>>(),
        "notes": plan.notes,
    })
}

pub(crate) fn volume(volume: &wire::Volume) -> Value {
    json!({
        "name": volume.name,
        "workspace": volume.workspace,
        "driver": volume.driver,
        "size": (volume.size != 0).then_some(volume.size),
        "created_at": time(volume.created_at.as_ref()),
        "created_by": volume.created_by,
        "epoch": volume.epoch,
        "used_by": volume.used_by.iter().map(|user| json!({ "id": user.id, "name": user.name })).collect::<Vec<_>>(),
    })
}

pub(crate) fn orphan(orphan: &wire::Orphan) -> Value {
    json!({
        "driver": orphan.driver, "id": orphan.id, "status": orphan.status, "verdict": orphan.verdict,
        "epoch": orphan.epoch, "gateway": orphan.gateway,
    })
}

pub(crate) fn extension(extension: &wire::Extension) -> Value {
    json!({
        "name": extension.name, "version": extension.version, "summary": extension.summary, "phases": extension.phases,
        "position": extension.position, "activation": extension.activation, "failure": extension.failure,
        "reconcile": extension.reconcile, "deadline_ms": extension.deadline_ms, "sandboxes": extension.sandboxes,
        "draining": extension.draining, "config_schema": embedded(&extension.config_schema),
    })
}

pub(crate) fn driver(driver: &wire::Driver) -> Value {
    json!({
        "id": driver.id, "kind": driver.kind, "version": driver.version, "default_image": driver.default_image,
        "default": driver.is_default, "points": driver.points, "features": driver.features,
        "limits": driver.limits, "networks": driver.networks, "backend": text(&driver.backend),
        "agent": text(&driver.agent), "socket": text(&driver.socket), "sandboxes": driver.sandboxes, "since": time(driver.since.as_ref()),
        "gateway_manages_lifecycle": driver.gateway_manages_lifecycle,
        "unavailable": text(&driver.unavailable), "cure": text(&driver.cure), "plan_schema": embedded(&driver.plan_schema),
        "field_rules": driver.field_rules.iter().map(|rule| json!({ "path": rule.path, "rule": rule.rule })).collect::<Vec<_>>(),
    })
}
