//! For every value of a plan: who set it.

use serde::Serialize;
use serde_json::Value;

use super::rules::{below, escape};
use super::sealed::{SealedPlan, Writer};

/// One value and its origin.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explained {
    /// JSON pointer.
    pub path: String,
    /// The value; a slot's marker where it is not known or is secret.
    pub value: Value,
    /// Who set it.
    pub writer: Writer,
    /// The slot that stands there, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot: Option<String>,
}

/// Every leaf of the plan with its writer. `plan` is the sealed plan's document with whatever slots are known by now.
pub fn explain(sealed: &SealedPlan, plan: &Value) -> Vec<Explained> {
    let mut leaves = Vec::new();
    walk(sealed, "", "", plan, &mut leaves);
    leaves
}

/// `place` is where the value stands; `path` names elements of keyed lists by key, as owners do.
fn walk(sealed: &SealedPlan, place: &str, path: &str, value: &Value, leaves: &mut Vec<Explained>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, field) in fields {
                let key = escape(key);
                walk(sealed, &format!("{place}/{key}"), &format!("{path}/{key}"), field, leaves);
            }
        }
        Value::Array(elements) if !elements.is_empty() => {
            for (index, element) in elements.iter().enumerate() {
                let by_key = keyed(sealed, path, element).unwrap_or_else(|| format!("{path}/{index}"));
                walk(sealed, &format!("{place}/{index}"), &by_key, element, leaves);
            }
        }
        leaf => leaves.push(Explained {
            path: place.to_owned(),
            value: leaf.clone(),
            writer: writer(sealed, path),
            slot: sealed.slots.get(place).map(|slot| slot.name.clone()),
        }),
    }
}

/// The owner entry that names this element by one of its string fields.
fn keyed(sealed: &SealedPlan, path: &str, element: &Value) -> Option<String> {
    let fields = element.as_object()?;
    fields
        .values()
        .filter_map(Value::as_str)
        .map(|name| format!("{path}/{}", escape(name)))
        .find(|named| sealed.owners.contains_key(named))
}

fn writer(sealed: &SealedPlan, path: &str) -> Writer {
    sealed
        .owners
        .iter()
        .filter(|(owned, _)| below(path, owned))
        .max_by_key(|(owned, _)| owned.len())
        .map_or(Writer::Driver, |(_, writer)| writer.clone())
}
