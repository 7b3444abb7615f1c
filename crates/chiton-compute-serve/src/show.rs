//! A record as the contract's sandbox.

use chiton_compute_wire::names::conditions;
use chiton_compute_wire::v1::gateway_listener_requirement::Selector;
use chiton_compute_wire::{sandbox, v1};
use chiton_driver::{GatewayListener, ListenAt, ObservedStatus};
use chiton_lifecycle::journal::SandboxRecord;
use chiton_model::condition::{holds, kinds};
use chiton_model::{ExitStatus, SandboxPhase};

/// What is told of a sandbox; nothing once it is gone from its platform. No spec: nothing that was asked is told again.
pub(crate) fn sandbox(record: &SandboxRecord, attempt: Option<&str>) -> Option<v1::DriverSandbox> {
    let cause = record.failure.as_ref().map(ToString::to_string).unwrap_or_default();
    let stopped = ExitStatus { code: None, reason: "Stopped".to_owned(), at: None };
    let (observed, message) = match record.phase {
        SandboxPhase::Deleted => return None,
        SandboxPhase::Provisioning | SandboxPhase::Starting => (ObservedStatus::Created, String::new()),
        SandboxPhase::Stopped | SandboxPhase::Completed if may_run(record) => {
            (ObservedStatus::Running, condition(record, kinds::STOP_UNCONFIRMED))
        }
        // It may still run; what it was is all that is known.
        SandboxPhase::Ready | SandboxPhase::Stopping => (ObservedStatus::Running, String::new()),
        SandboxPhase::Stopped => {
            (ObservedStatus::Exited(record.exit.clone().unwrap_or(stopped)), condition(record, kinds::START_FAILED))
        }
        SandboxPhase::Completed => (ObservedStatus::Exited(record.exit.clone().unwrap_or(stopped)), String::new()),
        SandboxPhase::Error => (ObservedStatus::Broken(cause.clone()), cause),
        SandboxPhase::Deleting => (ObservedStatus::Broken("it is being deleted".to_owned()), String::new()),
    };
    let mut status = sandbox::status(record.name.as_str(), &observed, attempt, &message);
    status.instance_id = record.id.to_string();
    status.deleting = record.phase == SandboxPhase::Deleting;
    let since = record.updated_at.to_string();
    for condition in &mut status.conditions {
        condition.last_transition_time.clone_from(&since);
        if record.phase == SandboxPhase::Error {
            "CreateFailed".clone_into(&mut condition.reason);
        }
        if may_run(record) {
            "Unknown".clone_into(&mut condition.status);
            kinds::STOP_UNCONFIRMED.clone_into(&mut condition.reason);
        }
    }
    if record.phase == SandboxPhase::Stopped && !may_run(record) {
        status.conditions.push(v1::DriverCondition {
            r#type: conditions::SUSPENDED.to_owned(),
            status: "True".to_owned(),
            reason: "Stopped".to_owned(),
            message: String::new(),
            last_transition_time: since,
        });
    }
    Some(v1::DriverSandbox {
        id: record.id.to_string(),
        name: record.name.to_string(),
        workspace: record.workspace.to_string(),
        status: Some(status),
        ..v1::DriverSandbox::default()
    })
}

/// Whether nothing of it is on its platform any more.
pub(crate) fn is_absent(record: &SandboxRecord) -> bool {
    record.phase == SandboxPhase::Deleted
}

/// Whether its stop was not confirmed: its row says that it is stopped, and its main process may run.
pub(crate) fn may_run(record: &SandboxRecord) -> bool {
    let over = matches!(record.phase, SandboxPhase::Stopped | SandboxPhase::Completed);
    over && holds(&record.conditions, kinds::STOP_UNCONFIRMED)
}

/// What a condition says, if the record has it: why the last start failed, or its stop.
fn condition(record: &SandboxRecord, kind: &str) -> String {
    record.conditions.iter().find(|one| one.kind == kind).map(|one| one.message.clone()).unwrap_or_default()
}

/// What a gateway is told of a place where it has to listen.
pub(crate) fn listener(listener: GatewayListener) -> v1::GatewayListenerRequirement {
    let selector = match listener.at {
        ListenAt::Address(address) => Selector::ExactBindAddress(address.to_string()),
        ListenAt::DefaultRoute => Selector::DefaultRouteInterface(v1::GatewayDefaultRouteInterfaceRequirement {}),
        ListenAt::Loopback => Selector::LoopbackInterface(v1::GatewayLoopbackInterfaceRequirement {}),
    };
    v1::GatewayListenerRequirement { reason: listener.reason, selector: Some(selector) }
}
