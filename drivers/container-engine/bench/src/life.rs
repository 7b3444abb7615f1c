//! A gateway's life without agents: what trials of one engine's ways need, where the suite's cases do not reach.

use std::collections::BTreeMap;
use std::sync::Arc;

use chiton_driver::{ComputeDriver, CreateCall, Identity, PlanRequest, slots};
use chiton_driver_suite::{Bench as _, Failure, Stop, Verdict};
use chiton_model::label::managed;
use chiton_model::{
    Error, GatewayId, NetworkMode, NetworkSpec, OperationId, Resources, SandboxId, SandboxName, StoreEpoch,
    WorkspaceName,
};
use serde_json::json;

use crate::api::{Api, labelled};
use crate::bench::{EngineBench, finally};

/// A gateway on an engine, whose sandboxes have no agent.
pub(crate) struct Gateway {
    pub(crate) id: GatewayId,
    pub(crate) driver: Arc<dyn ComputeDriver>,
    api: Api,
}

impl Drop for Gateway {
    /// What a trial that failed left must not be in the way of others.
    fn drop(&mut self) {
        let (api, label) = (self.api.clone(), labelled(&format!("{}={}", managed::GATEWAY_ID, self.id)));
        finally(async move {
            for (list, one, query, key) in [
                (format!("/containers/json?all=true&{label}"), "/containers", "?force=true&v=true", "Id"),
                (format!("/networks?{label}"), "/networks", "", "Name"),
            ] {
                let found = api.find(&list).await?.unwrap_or_default();
                for name in found.as_array().into_iter().flatten().filter_map(|found| found[key].as_str()) {
                    api.remove(&format!("{one}/{name}{query}")).await?;
                }
            }
            Ok(())
        });
    }
}

/// A text that was never used.
fn unique(prefix: &str) -> String {
    format!("{prefix}-{}", uuid::Uuid::new_v4().simple())
}

fn named(error: Error) -> Stop {
    Failure::bench("name things", error).into()
}

/// A call of a driver that must succeed.
pub(crate) fn done<T>(call: &str, result: Result<T, chiton_driver::CallError>) -> Verdict<T> {
    result.map_err(|error| Failure::Call { call: call.to_owned(), error }.into())
}

/// Something that must hold.
pub(crate) fn holds(holds: bool, what: &str, expected: &str, found: impl std::fmt::Debug) -> Verdict {
    if holds {
        return Ok(());
    }
    let found = format!("{found:?}");
    Err(Failure::Wrong { what: what.to_owned(), expected: expected.to_owned(), found }.into())
}

impl Gateway {
    pub(crate) async fn new(bench: &EngineBench) -> Verdict<Self> {
        let id = GatewayId::new(unique("g")).map_err(named)?;
        let driver = bench.driver(&id).await?.driver;
        Ok(Self { id, driver, api: bench.api().clone() })
    }

    pub(crate) fn sandbox() -> Verdict<SandboxId> {
        SandboxId::new(unique("s")).map_err(named)
    }

    /// A request for a script, on a network.
    pub(crate) fn request(image: &str, script: &str, mode: NetworkMode) -> PlanRequest {
        PlanRequest {
            image: image.to_owned(),
            command: ["sh", "-c", script].map(str::to_owned).to_vec(),
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            labels: BTreeMap::new(),
            resources: Resources::default(),
            network: NetworkSpec { mode, ..NetworkSpec::default() },
            volumes: Vec::new(),
            workdir: String::new(),
            name: Some("box".to_owned()),
            workspace: WorkspaceName::default(),
            driver_config: json!({ "stop_grace_seconds": 1 }),
        }
    }

    /// All that comes before a create.
    pub(crate) async fn call(&self, request: &PlanRequest, id: &SandboxId) -> Verdict<CreateCall> {
        let refused = |doing: &str, error| Stop::from(Failure::Refused { doing: doing.to_owned(), error });
        let found = self.driver.default_plan(request).await.map_err(|error| refused("default_plan", error))?;
        let mut plan = found.plan;
        self.driver.validate(&plan).await.map_err(|error| refused("validate", error))?;
        done("prepare", self.driver.prepare(id, &plan).await)?;
        for (pointer, slot) in &found.slots {
            let value = if slot.as_str() == slots::SANDBOX_ID { id.to_string() } else { "box".to_owned() };
            let place = plan.pointer_mut(pointer).ok_or_else(|| Failure::bench("fill a slot", pointer))?;
            *place = json!(value);
        }
        let identity = Identity {
            gateway: self.id.clone(),
            epoch: StoreEpoch::new("e-1").map_err(named)?,
            commit: 7,
            sandbox: id.clone(),
            name: SandboxName::new("box").map_err(named)?,
            workspace: WorkspaceName::default(),
            operation: OperationId::new("op-1").map_err(named)?,
            principal: "uid:0".to_owned(),
            extensions: Vec::new(),
        };
        Ok(CreateCall { identity, plan, agent: None })
    }

    /// Created and started.
    pub(crate) async fn launched(&self, request: &PlanRequest) -> Verdict<SandboxId> {
        let id = Self::sandbox()?;
        let call = self.call(request, &id).await?;
        done("create", self.driver.create(&call).await)?;
        done("start", self.driver.start(&call).await)?;
        Ok(id)
    }

    pub(crate) async fn delete(&self, id: &SandboxId) -> Verdict {
        done("delete", self.driver.delete(id).await)
    }
}
