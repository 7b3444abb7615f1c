//! Between messages and the lifecycle's types. What comes from the other side is read strictly.

mod context;
mod descriptor;
mod failure;
mod plan;

pub(crate) use context::{
    capabilities, driver_json, millis, owners, preview, read_owners, read_preview, read_sandbox, read_state,
    read_subject, sandbox_view, saved_state, subject,
};
pub(crate) use descriptor::{describe, read_descriptor};
pub(crate) use failure::{failure, read_failure, said};
pub(crate) use plan::{Recorder, apply};

use serde_json::Value;

use chiton_model::spec::{DEEPEST, is_shallow};

/// Reads a JSON document that the other side sent.
pub(crate) fn document(field: &str, text: &str) -> Result<Value, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("{field} is no JSON document: {error}"))?;
    if !is_shallow(&value) {
        return Err(format!("{field} is nested more than {DEEPEST} levels deep"));
    }
    Ok(value)
}

#[cfg(test)]
mod tests;
