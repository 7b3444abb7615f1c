//! What the fuzz targets call of the driver.

use chiton_driver::{DefaultPlan, FieldRule, PlanRequest, PortableWrite};
use chiton_model::Error;
use serde_json::Value;

use crate::options::OciOptions;

/// The plan for a request.
pub fn default_plan(request: &PlanRequest, options: &OciOptions) -> Result<DefaultPlan, Error> {
    // No image is resolved: what a source says has targets of its own.
    crate::plan::default_plan(request, options, &crate::disk::DiskAbility::detect(), &|reference| {
        Err(Error::invalid("image", format!("image {reference:?} is not looked for")))
    })
}

/// What may happen to each field of a plan.
pub fn field_rules() -> Vec<FieldRule> {
    crate::plan::field_rules()
}

/// Applies a driver-independent write to a plan.
pub fn write_portable(plan: &mut Value, write: &PortableWrite) -> Result<(), Error> {
    crate::plan::write_portable(plan, write)
}

/// Reads a sandbox's record and writes it again; `None` when there is none.
pub fn record(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(&crate::record::Record::decode(bytes)?)?)
}
