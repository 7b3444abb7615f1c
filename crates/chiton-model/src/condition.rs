//! Conditions: what is notable about a sandbox right now, in the shape of Kubernetes' `metav1.Condition`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Nobody can say.
    Unknown,
}

/// One notable fact about a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// Its kind, in camel case: `Ready`, `ExtensionDegraded`, `CleanupPending`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// One word in camel case for programs.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    /// When `status` last changed.
    pub last_transition: Timestamp,
}

/// Sets a condition in a list; the time moves only when the status does.
pub fn set(conditions: &mut Vec<Condition>, new: Condition) {
    match conditions.iter_mut().find(|old| old.kind == new.kind) {
        Some(old) => {
            let since = if old.status == new.status { old.last_transition } else { new.last_transition };
            *old = Condition { last_transition: since, ..new };
        }
        None => conditions.push(new),
    }
}

/// Whether a condition is in a list and holds.
pub fn holds(conditions: &[Condition], kind: &str) -> bool {
    conditions.iter().any(|condition| condition.kind == kind && condition.status == ConditionStatus::True)
}

/// The types of a sandbox's conditions. `docs/operations.md` has their reasons and cures.
pub mod kinds {
    /// The driver did not confirm a stop: it may still run.
    pub const STOP_UNCONFIRMED: &str = "StopUnconfirmed";
    /// It does not run, and a start may still land.
    pub const STOP_PENDING: &str = "StopPending";
    /// A start was interrupted, and its agent may still call.
    pub const START_PENDING: &str = "StartPending";
    /// The last start was undone.
    pub const START_FAILED: &str = "StartFailed";
    /// It is being deleted, again and again.
    pub const DELETE_PENDING: &str = "DeletePending";
    /// A hook in another process may still run.
    pub const FENCE_PENDING: &str = "FencePending";
    /// An extension failed where that stops nothing.
    pub const EXTENSION_DEGRADED: &str = "ExtensionDegraded";
    /// What an extension holds outside is not as it saved it.
    pub const EXTENSION_DRIFT: &str = "ExtensionDrift";
    /// It was deleted without its driver.
    pub const OBJECT_LEFT: &str = "ObjectLeft";
    /// A default limit is not enforced here.
    pub const PARTLY_ENFORCED: &str = "PartlyEnforced";
    /// Its driver cannot be asked.
    pub const DRIVER_UNREACHABLE: &str = "DriverUnreachable";
    /// It runs, and its agent cannot be reached.
    pub const DEGRADED: &str = "Degraded";
}
