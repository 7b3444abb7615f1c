//! Leases an address from a configured range to every sandbox.
//!
//! A lease is a file: `FOLDER/ADDRESS` holds the id of the sandbox that has the address. Files are made with
//! `O_CREAT | O_EXCL`, so that two gateways that share a folder never lease one address twice, and they outlive whatever
//! crashes. The plan says where the address goes before anybody knows it: a slot, filled in `before_create`.
//!
//! The lease is released only after the sandbox is confirmed absent, because an address that is given out again under a
//! live sandbox would send one tenant's traffic to another.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod leases;
mod range;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use async_trait::async_trait;
use chiton_driver::Point;
use chiton_lifecycle::extension::{
    ConfigIssue, Descriptor, Draft, Extension, ExtensionKind, HeldPage, HookContext, ReconcileOutcome,
    ReconcileSupport, RequestContext, SlotValues, StepError, StepResult,
};
use chiton_model::{CreateFailure, Error, Phase, Ran, SandboxId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::leases::{LeaseError, Leases};
use crate::range::Range;

/// The config: `[compute.extension."address-lease"]`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// First and last address, IPv4, both included: `10.88.0.2-10.88.0.254`.
    pub range: String,
    /// Absolute path of the folder that holds the leases. Made if it is not there.
    pub folder: PathBuf,
}

/// What is saved: the address, so that reconcile can tell whether the lease is still ours.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    address: String,
}

/// The extension.
#[derive(Debug)]
pub struct AddressLease {
    leases: Leases,
}

/// What a distribution registers.
///
/// # Errors
/// None in practice: the name is a constant of the right form.
pub fn extension() -> Result<ExtensionKind, Error> {
    let phases = [
        Phase::PreparePlan,
        Phase::BeforeCreate,
        Phase::OnCreateFailed,
        Phase::AfterDelete,
        Phase::Reconcile,
        Phase::Sweep,
    ];
    let version = env!("CARGO_PKG_VERSION");
    let mut descriptor = Descriptor::new("address-lease", version, "Leases an address to every sandbox", phases)?;
    descriptor.needs.points.insert(Point::Network);
    descriptor.reconcile = ReconcileSupport::Authoritative;
    // A lease is made by this process with one system call: after a crash none can still be on its way.
    descriptor.local_effects = true;
    Ok(ExtensionKind::new(descriptor, check, |config: Config| {
        let range = Range::parse(&config.range).map_err(|why| Error::invalid("range", why))?;
        Ok(AddressLease { leases: Leases::new(config.folder, range) })
    }))
}

fn check(config: &Config) -> Vec<ConfigIssue> {
    let issue = |pointer: &str, message: String, cure: &str| ConfigIssue {
        pointer: pointer.to_owned(),
        message,
        cure: Some(cure.to_owned()),
    };
    let mut issues = Vec::new();
    if let Err(why) = Range::parse(&config.range) {
        issues.push(issue("/range", why, "write first and last address, for example \"10.88.0.2-10.88.0.254\""));
    }
    if !config.folder.is_absolute() {
        let message = format!("{:?} is not an absolute path", config.folder);
        issues.push(issue("/folder", message, "begin it with \"/\""));
    }
    issues
}

#[async_trait]
impl Extension for AddressLease {
    async fn prepare_plan(&self, _cx: &RequestContext, draft: &mut Draft) -> StepResult {
        let address = draft.slot("address");
        draft.portable().network(&address)
    }

    async fn before_create(&self, cx: &HookContext) -> StepResult<SlotValues> {
        let (leases, id) = (self.leases.clone(), cx.sandbox.clone());
        // A repeat after a crash finds the lease that the first call made.
        let address = cx.blocking(move || leases.take(&id)).await??.to_string();
        cx.save(&State { address: address.clone() })?;
        Ok(SlotValues::from([("address".to_owned(), address)]))
    }

    async fn on_create_failed(&self, cx: &HookContext, _ran: Ran, _failure: &CreateFailure) -> StepResult {
        self.free(cx).await
    }

    async fn after_delete(&self, cx: &HookContext, _ran: Ran) -> StepResult {
        self.free(cx).await
    }

    async fn reconcile(&self, cx: &HookContext) -> ReconcileOutcome {
        let wanted = match cx.state::<State>() {
            Ok(Some(state)) => state.address,
            Ok(None) => return ReconcileOutcome::InSync,
            Err(error) => return ReconcileOutcome::Failed(error.to_string()),
        };
        let (leases, id, address) = (self.leases.clone(), cx.sandbox.clone(), wanted.clone());
        match cx.blocking(move || leases.holder(&address)).await {
            Ok(Ok(Some(holder))) if holder == id => ReconcileOutcome::InSync,
            Ok(Ok(Some(other))) => ReconcileOutcome::Drift(format!("address {wanted} is leased to {other}")),
            Ok(Ok(None)) => ReconcileOutcome::Drift(format!("the lease of {wanted} is gone")),
            Ok(Err(error)) => ReconcileOutcome::Failed(error.to_string()),
            Err(error) => ReconcileOutcome::Failed(error.to_string()),
        }
    }

    async fn held(&self, _page: Option<String>) -> StepResult<HeldPage> {
        let ids = self.leases.held()?;
        Ok(HeldPage { ids, next: None })
    }

    async fn release(&self, ids: &[SandboxId]) -> StepResult {
        for id in ids {
            self.leases.free(id)?;
        }
        Ok(())
    }
}

impl AddressLease {
    /// Frees whatever the sandbox holds; right whether or not a lease was ever made, and without saved state.
    async fn free(&self, cx: &HookContext) -> StepResult {
        let (leases, id) = (self.leases.clone(), cx.sandbox.clone());
        Ok(cx.blocking(move || leases.free(&id)).await??)
    }
}

impl From<LeaseError> for StepError {
    fn from(error: LeaseError) -> Self {
        match error {
            LeaseError::Exhausted(size) => Self::Exhausted {
                resource: "addresses".to_owned(),
                message: format!("all {size} addresses of the range are leased"),
            },
            LeaseError::Folder { .. } => Self::retryable(error.to_string()),
        }
    }
}
