//! Seal: the plan gets its digest and can no longer change.
//!
//! The digest is sha256 over the canonical JSON (RFC 8785) of what was decided: driver, schema version, plan, and the
//! chain with versions and config digests. The same request and config give the same digest in another process.

use chiton_model::Error;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::build::PlanBuilder;
use super::sealed::SealedPlan;
use crate::journal::FrozenChain;

/// `sha256:` and the hash of a document's canonical JSON (RFC 8785).
pub fn digest_json(document: &Value) -> Result<String, Error> {
    let canonical = serde_jcs::to_vec(document)
        .map_err(|error| Error::internal(format!("a document has no canonical JSON form: {error}")))?;
    Ok(format!("sha256:{}", hex::encode(Sha256::digest(&canonical))))
}

impl PlanBuilder {
    /// Ends the writing.
    pub(crate) fn seal(self, chain: &FrozenChain) -> Result<SealedPlan, Error> {
        let capabilities = self.driver.capabilities();
        let links: Vec<Value> = chain
            .iter()
            .map(|entry| json!({ "name": entry.name, "version": entry.version, "config": entry.config, "observe": entry.observe }))
            .collect();
        let digest = digest_json(&json!({
            "driver": capabilities.id,
            "schema": capabilities.plan_schema,
            "plan": self.plan,
            "slots": self.slots,
            "chain": links,
        }))?;
        Ok(SealedPlan {
            driver: capabilities.id.clone(),
            schema: capabilities.plan_schema,
            plan: self.plan,
            slots: self.slots,
            owners: self.owners,
            writes: self.writes,
            notes: self.notes,
            digest,
        })
    }
}
