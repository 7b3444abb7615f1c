//! A plan that nobody can change any more.

use std::collections::BTreeMap;
use std::fmt;

use chiton_model::{DriverId, Error, ExtensionName};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// Who set a value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Writer {
    /// The caller.
    Request,
    /// What the image says about how it is run, or what its name was resolved to.
    Image,
    /// The driver's default.
    Driver,
    /// An extension.
    Extension(ExtensionName),
}

impl fmt::Display for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request => f.write_str("request"),
            Self::Image => f.write_str("image"),
            Self::Driver => f.write_str("driver default"),
            Self::Extension(name) => write!(f, "extension {name}"),
        }
    }
}

/// One write of an extension.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanWrite {
    /// JSON pointer of the field; elements of keyed lists are named by their key.
    pub path: String,
    /// What stood there; none when nothing did, which is not the same as `null`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub before: Option<Value>,
    /// What stands there now; none when it was removed.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub after: Option<Value>,
    /// The extension whose write this one replaces, by the operator's leave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overrides: Option<ExtensionName>,
}

/// A value that is there, also when it is `null`.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// Who fills a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotOwner {
    /// The gateway, when the create is committed.
    Gateway,
    /// The gateway, only in what the driver is handed.
    Secret,
    /// An extension, in `before_create`.
    Extension(ExtensionName),
}

/// A value known only later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    /// Its full name: `sandbox.id`, `secret.REF`, `EXTENSION.NAME`.
    pub name: String,
    /// Who fills it.
    pub owner: SlotOwner,
    /// What stands in when an optional extension did not fill it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
}

/// A plan after seal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedPlan {
    /// The driver whose plan it is.
    pub driver: DriverId,
    /// The version of the plan's schema.
    pub schema: u32,
    /// The plan; slots hold their markers.
    pub plan: Value,
    /// JSON pointer → slot.
    pub slots: BTreeMap<String, Slot>,
    /// JSON pointer → writer, for every subtree that is not the driver's default.
    pub owners: BTreeMap<String, Writer>,
    /// What each extension wrote, in chain order.
    pub writes: Vec<(ExtensionName, Vec<PlanWrite>)>,
    /// What an extension wanted and the driver does not offer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// `sha256:` and 64 hex digits.
    pub digest: String,
}

impl SealedPlan {
    /// The plan with the values of `known` in their slots; slots without a value keep their marker.
    pub fn filled(&self, known: impl Fn(&Slot) -> Option<String>) -> Value {
        let mut plan = self.plan.clone();
        for (pointer, slot) in &self.slots {
            let value = known(slot);
            if let (Some(place), Some(value)) = (plan.pointer_mut(pointer), value) {
                *place = Value::String(value);
            }
        }
        plan
    }

    /// The slots of an extension, by their short names.
    pub fn slots_of<'a>(&'a self, extension: &'a ExtensionName) -> impl Iterator<Item = (&'a str, &'a Slot)> {
        self.slots.values().filter_map(move |slot| match &slot.owner {
            SlotOwner::Extension(owner) if owner == extension => slot
                .name
                .strip_prefix(extension.as_str())
                .and_then(|rest| rest.strip_prefix('.'))
                .map(|name| (name, slot)),
            _ => None,
        })
    }

    /// An error when the digest is not the one that the caller expects.
    pub fn expect(&self, digest: &str) -> Result<(), Error> {
        if self.digest == digest {
            return Ok(());
        }
        Err(Error::refused("request", format!("the plan's digest is {}, the request expects {digest}", self.digest))
            .cure("read the plan again (chiton plan) and pass the digest that it prints"))
    }
}

/// A plan with its owners, for `validate_plan`.
#[derive(Clone, Debug)]
pub struct PlanView {
    /// The merged plan; slots hold their markers.
    pub plan: Value,
    /// JSON pointer → writer, for every subtree that is not the driver's default.
    pub owners: BTreeMap<String, Writer>,
}
