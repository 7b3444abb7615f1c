//! What an engine is made of, and what its callers pass and get.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chiton_driver::ComputeDriver;
use chiton_model::{
    DriverId, ExtensionName, OperationId, Principal, SandboxId, SandboxName, SandboxSpec, WorkspaceName,
};
use serde_json::Value;

use crate::extension::Registry;
use crate::journal::{Journal, SandboxRecord};
use crate::policy::Policy;
use crate::runtime::World;

/// An extension as the operator configured it.
#[derive(Clone, Debug)]
pub struct ExtensionConfig {
    /// Its name.
    pub name: ExtensionName,
    /// Its own config.
    pub document: Value,
    /// The operator's rules about it.
    pub policy: Policy,
}

/// What to do at start-up about sandboxes that need something that is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Missing {
    /// Refuse to start and say what is missing and for whom.
    #[default]
    Refuse,
    /// Serve the rest; those sandboxes can be looked at and nothing else.
    Hold,
}

/// How the engine behaves.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// The extensions that new sandboxes get, in chain order.
    pub extensions: Vec<ExtensionConfig>,
    /// Rules about extensions that are no longer listed.
    pub other_policies: BTreeMap<ExtensionName, Policy>,
    /// The driver of requests that name none.
    pub default_driver: DriverId,
    /// What to do about missing pieces.
    pub missing: Missing,
    /// An older life of the store whose sandboxes are to be taken over.
    pub adopt_epoch: Option<chiton_model::StoreEpoch>,
    /// How long a shutdown waits for running operations.
    pub drain: Duration,
    /// How often reconcile runs; jittered.
    pub reconcile_every: Duration,
    /// How often sweeps run; jittered.
    pub sweep_every: Duration,
    /// How long something without an owner must have been so before a sweep may touch it.
    pub sweep_grace: Duration,
    /// How long a create or start whose answer never came may still land on a platform that works by itself (rule 5a).
    /// The default is at least as long as such a call may take; a shorter one is taken as it is.
    pub late_effects: Duration,
    /// How long a failed create's row is kept.
    pub keep_errors: Duration,
    /// How long request ids are remembered.
    pub keep_requests: Duration,
}

impl EngineConfig {
    /// The default of `late_effects`.
    pub const LATE_EFFECTS: Duration = Duration::from_mins(10);

    /// Defaults of the design, with this driver as the only one.
    pub fn new(default_driver: DriverId) -> Self {
        Self {
            extensions: Vec::new(),
            other_policies: BTreeMap::new(),
            default_driver,
            missing: Missing::Refuse,
            adopt_epoch: None,
            drain: Duration::from_mins(1),
            reconcile_every: Duration::from_mins(5),
            sweep_every: Duration::from_mins(5),
            sweep_grace: Duration::from_mins(10),
            late_effects: Self::LATE_EFFECTS,
            keep_errors: Duration::from_hours(24),
            keep_requests: Duration::from_hours(24),
        }
    }
}

/// Everything an engine needs.
pub struct EngineParts {
    /// Time, entropy, tasks, agents, secrets, audience.
    pub world: World,
    /// The store.
    pub journal: Arc<dyn Journal>,
    /// The drivers, each with an id of its own.
    pub drivers: Vec<Arc<dyn ComputeDriver>>,
    /// The compiled-in extensions.
    pub registry: Registry,
    /// How to behave.
    pub config: EngineConfig,
}

/// Why an engine cannot be built or started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct StartupError(pub Vec<chiton_model::Error>);

/// Who asks, and the id that makes a repeat harmless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who asks.
    pub principal: Principal,
    /// The caller's id for this request, if it has one.
    pub request_id: Option<String>,
}

/// A request for a sandbox.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CreateRequest {
    /// The sandbox's id where another system has chosen it; absent means that the engine chooses. Never one that was used
    /// before: whoever chooses sees to that.
    pub id: Option<SandboxId>,
    /// The name; absent means that the gateway generates one.
    pub name: Option<SandboxName>,
    /// The workspace.
    pub workspace: WorkspaceName,
    /// What is asked for.
    pub spec: SandboxSpec,
    /// Refuse any plan with another digest.
    pub expect_plan: Option<String>,
}

/// The answer to a request that changes something: given once its intent is durable.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The sandbox as it is now.
    pub sandbox: SandboxRecord,
    /// The operation that goes on; none when nothing was to be done.
    pub operation: Option<OperationId>,
}
