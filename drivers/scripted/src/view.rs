//! A sandbox as the driver tells of it.

use chiton_compute_wire::names::conditions;
use chiton_compute_wire::sandbox::status;
use chiton_compute_wire::v1::{DriverCondition, DriverSandbox};
use chiton_driver::ObservedStatus;
use chiton_model::ExitStatus;

use crate::fault::{Fault, Faults};
use crate::platform::{Object, Phase};

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    Get,
    List,
    Watch,
}

/// A sandbox as it is now.
pub(crate) fn observed(object: &Object, view: View, faults: &Faults) -> DriverSandbox {
    let mut sandbox = object.sandbox.clone();
    if let Some(spec) = &mut sandbox.spec {
        if faults.has(Fault::ShowsToken) {
            spec.sandbox_token.clone_from(&object.secret.sandbox_token);
        }
        if faults.has(Fault::ShowsSecretEnvironment) {
            spec.environment.extend(object.secret.secret_environment.clone());
        }
    }
    let exited = |reason: &str| {
        let code = if faults.has(Fault::WrongExitCode) { Some(0) } else { object.code };
        ObservedStatus::Exited(ExitStatus { code, reason: reason.to_owned(), at: None })
    };
    let found = match object.phase {
        Phase::Running if faults.has(Fault::NeverReady) => ObservedStatus::Created,
        Phase::Running if view == View::List && faults.has(Fault::ListDisagrees) => ObservedStatus::Created,
        Phase::Stopped if faults.has(Fault::LiesAboutReady) => ObservedStatus::Running,
        Phase::Starting => ObservedStatus::Created,
        Phase::Running | Phase::Stopping | Phase::Deleting => ObservedStatus::Running,
        Phase::Stopped => exited("Stopped"),
        Phase::Exited { signaled: false } => exited("Exited"),
        Phase::Exited { signaled: true } => exited("Signaled"),
    };
    let attempt = object.sandbox.spec.as_ref().map(|spec| spec.agent_attempt.as_str());
    let mut told = status(&sandbox.name, &found, attempt, "");
    let going = match object.phase {
        Phase::Stopping => Some("Stopping"),
        Phase::Deleting => Some("Deleting"),
        _ => None,
    };
    for ready in &mut told.conditions {
        if let Some(going) = going {
            "False".clone_into(&mut ready.status);
            going.clone_into(&mut ready.reason);
        }
        if faults.has(Fault::BadConditions) && ready.status == "False" {
            "no".clone_into(&mut ready.status);
        }
    }
    if object.phase == Phase::Stopped && !faults.has(Fault::LiesAboutReady) {
        told.conditions.push(DriverCondition {
            r#type: conditions::SUSPENDED.to_owned(),
            status: "True".to_owned(),
            reason: "Stopped".to_owned(),
            ..DriverCondition::default()
        });
    }
    told.deleting = object.phase == Phase::Deleting;
    sandbox.status = Some(told);
    sandbox
}
