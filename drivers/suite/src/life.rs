//! One life of a gateway: requests become plans, plans become calls, and calls are held to their deadlines.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chiton_driver::{
    AgentLaunch, CallError, CallResult, ComputeDriver, CreateCall, DefaultPlan, Feature, Identity, Limit, Observed,
    ObservedStatus, PlanRequest, slots,
};
use chiton_model::{
    Error, GatewayId, NetworkSpec, OperationId, Resources, SandboxId, SandboxName, StoreEpoch, WorkspaceName,
};
use serde_json::json;
use tokio::time::timeout;

use crate::bench::Subject;
use crate::door::{Met, SharedDoors};
use crate::stage::word;
use crate::verdict::{Failure, Stop, Verdict, skip};

/// What the engine grants a driver's call beyond its own deadline before it calls the driver broken.
const GRACE: Duration = Duration::from_secs(5);

/// Between two looks at a sandbox that is being started.
const LOOK: Duration = Duration::from_millis(10);

/// A gateway's life.
pub(crate) struct Life {
    pub(crate) gateway: GatewayId,
    pub(crate) driver: Arc<dyn ComputeDriver>,
    subject: Subject,
    doors: SharedDoors,
    image: String,
}

impl Life {
    pub(crate) fn new(gateway: GatewayId, subject: Subject, doors: SharedDoors, image: String) -> Self {
        Self { gateway, driver: Arc::clone(&subject.driver), subject, doors, image }
    }

    /// A request for a shell script in the test image.
    pub(crate) fn script(&self, text: &str) -> PlanRequest {
        self.command(&["sh", "-c", text])
    }

    /// A request for a command in the test image.
    pub(crate) fn command(&self, command: &[&str]) -> PlanRequest {
        PlanRequest {
            image: self.image.clone(),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            labels: BTreeMap::new(),
            resources: Resources::default(),
            network: NetworkSpec::default(),
            volumes: Vec::new(),
            workdir: String::new(),
            name: Some("box".to_owned()),
            workspace: WorkspaceName::default(),
            driver_config: json!({}),
        }
    }

    /// A request for a sandbox that runs until it is stopped, and ends at once when it is.
    pub(crate) fn sleeper(&self) -> PlanRequest {
        self.script(SLEEP)
    }

    /// The plan of a request, accepted by the driver.
    pub(crate) async fn plan(&self, request: &PlanRequest) -> Verdict<DefaultPlan> {
        let plan = self.look("default_plan", self.driver.default_plan(request)).await?;
        let plan = plan.map_err(|error| Failure::Refused { doing: "default_plan".to_owned(), error })?;
        let valid = self.look("validate", self.driver.validate(&plan.plan)).await?;
        valid.map_err(|error| Failure::Refused { doing: "validate".to_owned(), error })?;
        Ok(plan)
    }

    /// Why a request is refused, by the plan or by its check. What the capabilities do not name the engine refuses.
    pub(crate) async fn refused(&self, what: &str, request: &PlanRequest) -> Verdict<Error> {
        let capabilities = self.driver.capabilities();
        if let Err(error) = capabilities.check_offers(&request.resources, &request.network, &request.volumes) {
            return Ok(error);
        }
        let plan = match self.look("default_plan", self.driver.default_plan(request)).await? {
            Ok(plan) => plan,
            Err(error) => return Ok(error),
        };
        match self.look("validate", self.driver.validate(&plan.plan)).await? {
            Err(error) => Ok(error),
            Ok(()) => Err(crate::verdict::wrong(what, "a refusal", "an accepted plan")),
        }
    }

    /// All that comes before a create: plan, check, prepare; then the call with its slots filled.
    pub(crate) async fn call(&self, request: &PlanRequest, id: &SandboxId) -> Verdict<CreateCall> {
        self.call_with(request, id, &BTreeMap::new()).await
    }

    /// As [`Life::call`], with values for secrets by their reference.
    pub(crate) async fn call_with(
        &self,
        request: &PlanRequest,
        id: &SandboxId,
        secrets: &BTreeMap<String, String>,
    ) -> Verdict<CreateCall> {
        let plan = self.plan(request).await?;
        self.prepared(plan, id, secrets).await
    }

    /// The call of a plan, which extensions may have written to.
    pub(crate) async fn prepared(
        &self,
        plan: DefaultPlan,
        id: &SandboxId,
        secrets: &BTreeMap<String, String>,
    ) -> Verdict<CreateCall> {
        let limit = self.driver.deadlines().prepare;
        self.done("prepare", limit, self.driver.prepare(id, &plan.plan)).await?;
        let DefaultPlan { mut plan, slots, .. } = plan;
        for (pointer, slot) in &slots {
            let value = match slot.as_str() {
                slots::SANDBOX_ID => id.to_string(),
                slots::SANDBOX_NAME => "box".to_owned(),
                secret => match secret.strip_prefix(slots::SECRET_PREFIX).and_then(|name| secrets.get(name)) {
                    Some(value) => value.clone(),
                    None => return Err(crate::verdict::wrong("a plan's slot", "one that the engine knows", secret)),
                },
            };
            let Some(place) = plan.pointer_mut(pointer) else {
                return Err(crate::verdict::wrong("a plan's slot", "a place that is in the plan", pointer));
            };
            *place = json!(value);
        }
        let agent = self.driver.capabilities().agent.then(launch);
        Ok(CreateCall { identity: self.identity(id)?, plan, agent })
    }

    fn identity(&self, id: &SandboxId) -> Verdict<Identity> {
        let known = |error: Error| Stop::from(Failure::bench("name things", error));
        Ok(Identity {
            gateway: self.gateway.clone(),
            epoch: StoreEpoch::new("e-1").map_err(known)?,
            commit: 7,
            sandbox: id.clone(),
            name: SandboxName::new("box").map_err(known)?,
            workspace: WorkspaceName::default(),
            operation: OperationId::new("op-1").map_err(known)?,
            principal: "uid:0".to_owned(),
            extensions: Vec::new(),
        })
    }

    /// A call that must be over by its deadline.
    pub(crate) async fn ended<T>(&self, call: &str, limit: Duration, work: impl Future<Output = T>) -> Verdict<T> {
        let limit = limit + GRACE;
        let late = |_| Failure::Late { what: format!("the end of {call}"), limit, seen: "nothing".to_owned() }.into();
        timeout(limit, work).await.map_err(late)
    }

    async fn done<T>(&self, call: &str, limit: Duration, work: impl Future<Output = CallResult<T>>) -> Verdict<T> {
        let result = self.ended(call, limit, work).await?;
        result.map_err(|error| Failure::Call { call: call.to_owned(), error }.into())
    }

    pub(crate) async fn look<T>(&self, call: &str, work: impl Future<Output = T>) -> Verdict<T> {
        self.ended(call, self.driver.deadlines().look, work).await
    }

    /// What a create ends as.
    pub(crate) async fn try_create(&self, call: &CreateCall) -> Verdict<CallResult<()>> {
        if self.driver.capabilities().two_phase_start() {
            return self.ended("create", self.driver.deadlines().act, self.driver.create(call)).await;
        }
        self.open(call)?;
        self.ended("create", self.driver.deadlines().act, self.driver.create(call)).await
    }

    pub(crate) async fn create(&self, call: &CreateCall) -> Verdict {
        let result = self.try_create(call).await?;
        result.map_err(|error| Failure::Call { call: "create".to_owned(), error })?;
        self.settled(&call.identity.sandbox).await
    }

    /// A driver that starts what it creates may answer before the main process runs: waits until it does, or has ended.
    async fn settled(&self, id: &SandboxId) -> Verdict {
        if self.driver.capabilities().two_phase_start() {
            return Ok(());
        }
        let limit = self.driver.deadlines().ready;
        let looking = async {
            while self.status(id).await? == Some(ObservedStatus::Created) {
                tokio::time::sleep(LOOK).await;
            }
            Ok(())
        };
        let late = |_| Failure::Late { what: "the main process".to_owned(), limit, seen: "created".to_owned() };
        timeout(limit, looking).await.map_err(late)?
    }

    /// What a start ends as.
    pub(crate) async fn try_start(&self, call: &CreateCall) -> Verdict<CallResult<()>> {
        self.open(call)?;
        self.ended("start", self.driver.deadlines().act, self.driver.start(call)).await
    }

    pub(crate) async fn start(&self, call: &CreateCall) -> Verdict {
        let result = self.try_start(call).await?;
        result.map_err(|error| Failure::Call { call: "start".to_owned(), error })?;
        self.settled(&call.identity.sandbox).await
    }

    /// The gateway's socket for the sandbox's agent, as the engine makes it before a start.
    pub(crate) fn open(&self, call: &CreateCall) -> Verdict {
        let (Some(folder), Some(_)) = (&self.subject.agent_folder, &call.agent) else { return Ok(()) };
        let id = &call.identity.sandbox;
        self.doors.open(id, &folder(id)).map_err(|error| Failure::bench("bind an agent's socket", error).into())
    }

    pub(crate) async fn stop(&self, id: &SandboxId) -> Verdict {
        self.done("stop", self.driver.deadlines().act, self.driver.stop(id)).await
    }

    pub(crate) async fn delete(&self, id: &SandboxId) -> Verdict {
        self.done("delete", self.driver.deadlines().act, self.driver.delete(id)).await
    }

    pub(crate) async fn get(&self, id: &SandboxId) -> Verdict<Option<Observed>> {
        self.done("get", self.driver.deadlines().look, self.driver.get(id)).await
    }

    pub(crate) async fn status(&self, id: &SandboxId) -> Verdict<Option<ObservedStatus>> {
        Ok(self.get(id).await?.map(|observed| observed.status))
    }

    pub(crate) async fn list(&self) -> Verdict<Vec<Observed>> {
        self.done("list", self.driver.deadlines().look, self.driver.list()).await
    }

    /// Created and started.
    pub(crate) async fn launched(&self, request: &PlanRequest, id: &SandboxId) -> Verdict<CreateCall> {
        let call = self.call(request, id).await?;
        self.create(&call).await?;
        self.start(&call).await?;
        Ok(call)
    }

    /// The agents that came to a sandbox's door.
    pub(crate) fn met(&self, id: &SandboxId) -> Option<tokio::sync::watch::Receiver<Vec<Met>>> {
        self.doors.met(id)
    }

    /// Deletes all of this gateway that the platform has, volumes last.
    pub(crate) async fn clear(&self) -> Verdict {
        for observed in self.list().await? {
            self.delete(&observed.id).await?;
        }
        if self.has(Feature::Volumes) {
            let volumes = self.done("volumes", self.driver.deadlines().look, self.driver.volumes()).await?;
            for volume in volumes {
                let deleted = self.driver.delete_volume(&volume.workspace, &volume.name);
                self.done("delete_volume", self.driver.deadlines().act, deleted).await?;
            }
        }
        Ok(())
    }

    pub(crate) fn has(&self, feature: Feature) -> bool {
        self.driver.capabilities().features.contains(&feature)
    }

    /// Skips where the driver does not declare a feature.
    pub(crate) fn needs(&self, feature: Feature) -> Verdict {
        if self.has(feature) { Ok(()) } else { skip(format!("the driver declares no feature {}", feature.as_str())) }
    }

    /// Skips where the driver does not declare a limit.
    pub(crate) fn limits(&self, limit: Limit) -> Verdict {
        let has = self.driver.capabilities().limits.contains(&limit);
        if has { Ok(()) } else { skip(format!("the driver declares no limit {}", limit.as_str())) }
    }
}

/// A shell that runs until it is stopped: it takes the signal between two short sleeps.
pub(crate) const SLEEP: &str = "trap 'exit 0' TERM; while :; do sleep 0.05; done";

/// What an agent proves itself with at one start.
pub(crate) fn launch() -> AgentLaunch {
    AgentLaunch { token: word("token-"), attempt: word("a-") }
}

/// The same call for another start.
pub(crate) fn again(call: &CreateCall) -> CreateCall {
    CreateCall { agent: call.agent.as_ref().map(|_| launch()), ..call.clone() }
}

/// How a call that must not succeed ended.
pub(crate) fn failed<T: std::fmt::Debug>(what: &str, result: CallResult<T>) -> Verdict<CallError> {
    match result {
        Ok(done) => Err(crate::verdict::wrong(what, "an error", format!("{done:?}"))),
        Err(error) => Ok(error),
    }
}
