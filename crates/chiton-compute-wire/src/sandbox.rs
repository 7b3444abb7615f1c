//! A sandbox on the wire and what is known of it here.

use chiton_driver::ObservedStatus;
use chiton_model::ExitStatus;

use crate::names::{PASSING, conditions};
use crate::text;
use crate::v1::{DriverCondition, DriverSandboxStatus};

/// The words of `DriverSandboxStatus.state`.
mod states {
    pub(super) const CREATED: &str = "created";
    pub(super) const RUNNING: &str = "running";
    pub(super) const EXITED: &str = "exited";
    pub(super) const BROKEN: &str = "broken";
}

fn condition<'a>(status: &'a DriverSandboxStatus, kind: &str) -> Option<&'a DriverCondition> {
    // The newest of several is the last one.
    status.conditions.iter().rev().find(|condition| condition.r#type == kind)
}

/// What a driver says of a sandbox. One that says nothing is being made.
pub fn observed(status: Option<&DriverSandboxStatus>) -> ObservedStatus {
    let Some(status) = status else { return ObservedStatus::Created };
    if status.deleting {
        return ObservedStatus::Broken("it is being deleted".to_owned());
    }
    let ready = condition(status, conditions::READY);
    let reason = ready.map(|ready| text::told(&ready.reason, text::NAME)).unwrap_or_default();
    let exited = |reason: &str| {
        let reason = if reason.is_empty() { "Unknown" } else { reason };
        ObservedStatus::Exited(ExitStatus { code: status.exit_code, reason: reason.to_owned(), at: None })
    };
    match status.state.as_str() {
        states::CREATED => return ObservedStatus::Created,
        states::RUNNING => return ObservedStatus::Running,
        states::EXITED => return exited(&reason),
        states::BROKEN => return ObservedStatus::Broken(words(ready)),
        _ => {}
    }
    if condition(status, conditions::SUSPENDED).is_some_and(|found| found.status == "True") {
        return exited("Stopped");
    }
    match ready {
        Some(found) if found.status == "True" => ObservedStatus::Running,
        Some(found) if found.status == "False" && !PASSING.contains(&reason.to_lowercase().as_str()) => exited(&reason),
        _ => ObservedStatus::Created,
    }
}

/// Why a sandbox is not ready, for people.
pub fn why(status: Option<&DriverSandboxStatus>) -> String {
    words(status.and_then(|status| condition(status, conditions::READY)))
}

fn words(ready: Option<&DriverCondition>) -> String {
    match ready {
        None => "the driver says nothing of it".to_owned(),
        Some(ready) if ready.message.is_empty() => text::told(&ready.reason, text::NAME),
        Some(ready) => {
            format!("{}: {}", text::told(&ready.reason, text::NAME), text::told(&ready.message, text::MESSAGE))
        }
    }
}

/// The status that says this: both in the conditions, which every peer reads, and more exactly beside them.
pub fn status(name: &str, observed: &ObservedStatus, attempt: Option<&str>, message: &str) -> DriverSandboxStatus {
    let (state, ready, reason, code) = match observed {
        ObservedStatus::Created => (states::CREATED, "False", "Starting", None),
        ObservedStatus::Running => (states::RUNNING, "True", "Running", None),
        ObservedStatus::Exited(exit) => (states::EXITED, "False", exit.reason.as_str(), exit.code),
        ObservedStatus::Broken(_) => (states::BROKEN, "False", "Broken", None),
    };
    let message = match observed {
        ObservedStatus::Broken(why) if message.is_empty() => why,
        _ => message,
    };
    DriverSandboxStatus {
        sandbox_name: name.to_owned(),
        conditions: vec![DriverCondition {
            r#type: conditions::READY.to_owned(),
            status: ready.to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            last_transition_time: String::new(),
        }],
        state: state.to_owned(),
        exit_code: code,
        attempt: attempt.unwrap_or_default().to_owned(),
        ..DriverSandboxStatus::default()
    }
}
