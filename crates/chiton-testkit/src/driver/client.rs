//! The driver of one process.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chiton_driver::{
    CallError, CallResult, Capabilities, ComputeDriver, CreateCall, Deadlines, DefaultPlan, DriverEvent, FieldRule,
    Observed, PlanRequest, PortableWrite, StartCall,
};
use chiton_model::{BackendId, Error, OperationId, SandboxId, WorkspaceName};
use futures::channel::oneshot;
use futures::stream::BoxStream;
use serde_json::Value;

use super::plan::{self, ScriptedPlan};
use super::platform::ScriptedPlatform;
use super::script::{Behaviour, Call};
use super::watch;
use crate::ledger::What;
use crate::world::Process;

/// A process's driver: what a dead process calls never reaches the platform.
pub struct ScriptedDriver {
    platform: ScriptedPlatform,
    process: Process,
    rules: Vec<FieldRule>,
}

type Change = Arc<dyn Fn(&ScriptedPlatform) -> Result<(), CallError> + Send + Sync>;

/// What a call is about.
#[derive(Default)]
struct About {
    sandbox: Option<SandboxId>,
    operation: Option<OperationId>,
}

/// Writes a call's end to the ledger, whichever way it comes.
struct CallGuard<'a> {
    driver: &'a ScriptedDriver,
    call: u64,
    outcome: Option<String>,
}

impl Drop for CallGuard<'_> {
    fn drop(&mut self) {
        let outcome = self.outcome.take().unwrap_or_else(|| "dropped".to_owned());
        self.driver.platform.0.ledger.by(&self.driver.process, What::CallEnd { call: self.call, outcome });
    }
}

fn words<T>(result: &CallResult<T>) -> String {
    match result {
        Ok(_) => "done".to_owned(),
        Err(CallError::NotRun(error)) => format!("not run: {error}"),
        Err(CallError::Failed(error)) => format!("failed: {error}"),
        Err(CallError::Unknown(error)) => format!("unknown: {error}"),
    }
}

fn unknown() -> CallError {
    CallError::Unknown(Error::unavailable("platform", "scripted: the connection was lost"))
}

impl ScriptedDriver {
    pub(super) fn new(platform: ScriptedPlatform, process: Process) -> Self {
        Self { platform, process, rules: plan::rules() }
    }

    fn id(&self) -> &str {
        self.platform.0.spec.id().as_str()
    }

    fn begin(&self, kind: Call, about: &About) -> CallGuard<'_> {
        let ledger = &self.platform.0.ledger;
        let call = ledger.next_call();
        let what = What::CallBegin {
            call,
            driver: self.id().to_owned(),
            kind,
            sandbox: about.sandbox.clone(),
            operation: about.operation.clone(),
        };
        ledger.by(&self.process, what);
        CallGuard { driver: self, call, outcome: None }
    }

    async fn call(&self, kind: Call, about: About, change: Change, half: Option<Change>) -> CallResult<()> {
        self.process.live().await;
        let mut guard = self.begin(kind, &about);
        self.process.live().await;
        let behaviour = self.platform.0.state.lock().script.next(kind);
        let result = self.behave(guard.call, behaviour, &about, change, half).await;
        self.process.live().await;
        guard.outcome = Some(words(&result));
        result
    }

    async fn behave(
        &self,
        call: u64,
        behaviour: Behaviour,
        about: &About,
        change: Change,
        half: Option<Change>,
    ) -> CallResult<()> {
        let world = &self.platform.0.world;
        let failed = |message: String| CallError::Failed(Error::internal(format!("scripted: {message}")));
        match behaviour {
            Behaviour::Succeed(after) => self.land(call, after, about, change).await,
            Behaviour::NotRun(message) => {
                Err(CallError::NotRun(Error::unavailable("platform", format!("scripted: {message}"))))
            }
            Behaviour::Fail(after, message) => {
                world.sleep(after).await;
                Err(failed(message))
            }
            Behaviour::FailDone(after, message) => {
                self.land(call, after, about, change).await?;
                Err(failed(message))
            }
            Behaviour::HalfMake(after, message) => {
                self.land(call, after, about, half.unwrap_or(change)).await?;
                Err(failed(message))
            }
            Behaviour::Hang => std::future::pending().await,
            Behaviour::HangDone(after) => {
                drop(self.launch(call, after, about, change));
                std::future::pending().await
            }
            Behaviour::Unknown(answer, lands) => {
                if let Some(after) = lands {
                    drop(self.launch(call, after, about, change));
                }
                world.sleep(answer).await;
                Err(unknown())
            }
            Behaviour::Accept(answer, lands) => {
                drop(self.launch(call, lands, about, change));
                world.sleep(answer).await;
                Ok(())
            }
            Behaviour::Lie(after) => {
                world.sleep(after).await;
                Ok(())
            }
        }
    }

    /// Sends the change on its way and waits for it. It is the platform's now: it takes hold whoever still waits.
    async fn land(&self, call: u64, after: Duration, about: &About, change: Change) -> CallResult<()> {
        self.launch(call, after, about, change)
            .await
            .unwrap_or_else(|_| Err(CallError::Failed(Error::conflict("scripted: a delete ended the call".to_owned()))))
    }

    fn launch(&self, call: u64, after: Duration, about: &About, change: Change) -> oneshot::Receiver<CallResult<()>> {
        let (done, result) = oneshot::channel();
        let platform = self.platform.clone();
        let tracked = about.sandbox.clone();
        if let Some(id) = &tracked {
            platform.0.state.lock().in_flight.insert(call, id.clone());
        }
        let sleep = platform.0.world.sleep(after);
        self.platform.0.world.spawn_outside(async move {
            sleep.await;
            let expected = tracked.is_some();
            if expected && platform.0.state.lock().in_flight.remove(&call).is_none() {
                // Ended by a delete, or by the machine's end.
                return;
            }
            drop(done.send(change(&platform)));
        });
        result
    }

    /// A look: the answer is made when it is given.
    async fn look<T>(&self, kind: Call, about: About, answer: impl FnOnce(&ScriptedPlatform) -> T) -> CallResult<T> {
        self.process.live().await;
        let mut guard = self.begin(kind, &about);
        self.process.live().await;
        let behaviour = self.platform.0.state.lock().script.next(kind);
        let result = match behaviour {
            Behaviour::Succeed(after) | Behaviour::Lie(after) => {
                self.platform.0.world.sleep(after).await;
                Ok(answer(&self.platform))
            }
            other => {
                let nothing: Change = Arc::new(|_| Ok(()));
                match self.behave(guard.call, other, &about, nothing, None).await {
                    Ok(()) => Ok(answer(&self.platform)),
                    Err(error) => Err(error),
                }
            }
        };
        self.process.live().await;
        guard.outcome = Some(words(&result));
        result
    }

    fn check_call(&self, call: &CreateCall) {
        if plan::unfilled(&call.plan) {
            self.platform
                .0
                .ledger
                .violation(format!("driver: the plan for {} has unfilled slots", call.identity.sandbox));
        }
        if let Err(error) = serde_json::from_value::<ScriptedPlan>(call.plan.clone()) {
            self.platform.0.ledger.violation(format!("driver: not a plan of ours: {error}"));
        }
        if self.capabilities().agent != call.agent.is_some() {
            self.platform
                .0
                .ledger
                .violation("driver: agent credentials for a driver without agents, or none for one with");
        }
    }
}

fn of_call(call: &CreateCall) -> About {
    About { sandbox: Some(call.identity.sandbox.clone()), operation: Some(call.identity.operation.clone()) }
}

fn of_id(id: &SandboxId) -> About {
    About { sandbox: Some(id.clone()), operation: None }
}

#[async_trait]
impl ComputeDriver for ScriptedDriver {
    fn capabilities(&self) -> Arc<Capabilities> {
        Arc::new(self.platform.0.spec.capabilities.clone())
    }

    fn deadlines(&self) -> Deadlines {
        self.platform.0.spec.deadlines.clone()
    }

    async fn backend_id(&self) -> CallResult<BackendId> {
        self.look(Call::Backend, About::default(), ScriptedPlatform::backend).await
    }

    async fn default_plan(&self, request: &PlanRequest) -> Result<DefaultPlan, Error> {
        self.look(Call::Plan, About::default(), |_| ()).await.map_err(CallError::into_error)?;
        plan::default_plan(self.id(), &self.capabilities().default_image, request)
    }

    fn field_rules(&self) -> &[FieldRule] {
        &self.rules
    }

    fn plan_schema(&self) -> Value {
        schemars::schema_for!(ScriptedPlan).to_value()
    }

    fn write_portable(&self, plan: &mut Value, write: &PortableWrite) -> Result<(), Error> {
        plan::write_portable(self.id(), &self.capabilities().points, plan, write)
    }

    async fn validate(&self, plan: &Value) -> Result<(), Error> {
        self.look(Call::Validate, About::default(), |_| ()).await.map_err(CallError::into_error)?;
        serde_json::from_value::<ScriptedPlan>(plan.clone())
            .map(drop)
            .map_err(|error| Error::invalid("plan", format!("not a plan of driver {:?}: {error}", self.id())))
    }

    async fn prepare(&self, _id: &SandboxId, _plan: &Value) -> CallResult<()> {
        self.call(Call::Prepare, About::default(), Arc::new(|_| Ok(())), None).await
    }

    async fn create(&self, call: &CreateCall) -> CallResult<()> {
        self.check_call(call);
        let (whole, half) = (call.clone(), call.clone());
        let change: Change = Arc::new(move |platform| platform.do_create(&whole));
        let half: Change = Arc::new(move |platform| platform.do_half_make(&half));
        self.call(Call::Create, of_call(call), change, Some(half)).await
    }

    async fn start(&self, call: &StartCall) -> CallResult<()> {
        self.check_call(call);
        let whole = call.clone();
        self.call(Call::Start, of_call(call), Arc::new(move |platform| platform.do_start(&whole)), None).await
    }

    async fn stop(&self, id: &SandboxId) -> CallResult<()> {
        let sandbox = id.clone();
        let change: Change = Arc::new(move |platform| {
            platform.do_stop(&sandbox);
            Ok(())
        });
        self.call(Call::Stop, of_id(id), change, None).await
    }

    async fn delete(&self, id: &SandboxId) -> CallResult<()> {
        let sandbox = id.clone();
        let change: Change = Arc::new(move |platform| {
            platform.do_delete(&sandbox);
            Ok(())
        });
        self.call(Call::Delete, of_id(id), change, None).await
    }

    async fn get(&self, id: &SandboxId) -> CallResult<Option<Observed>> {
        let find =
            |platform: &ScriptedPlatform| platform.0.state.lock().objects.get(id).map(|object| object.observed.clone());
        self.look(Call::Get, of_id(id), find).await
    }

    async fn list(&self) -> CallResult<Vec<Observed>> {
        let all = |platform: &ScriptedPlatform| {
            platform.0.state.lock().objects.values().map(|object| object.observed.clone()).collect()
        };
        self.look(Call::List, About::default(), all).await
    }

    fn watch(&self) -> BoxStream<'static, DriverEvent> {
        watch::watch(self.platform.clone(), self.process.clone())
    }

    async fn ensure_workspace(&self, workspace: &WorkspaceName) -> CallResult<()> {
        let workspace = workspace.clone();
        let change: Change = Arc::new(move |platform| {
            platform.0.state.lock().workspaces.insert(workspace.clone());
            Ok(())
        });
        self.call(Call::EnsureWorkspace, About::default(), change, None).await
    }

    async fn release_workspace(&self, workspace: &WorkspaceName) -> CallResult<()> {
        let workspace = workspace.clone();
        let change: Change = Arc::new(move |platform| {
            platform.0.state.lock().workspaces.remove(&workspace);
            Ok(())
        });
        self.call(Call::ReleaseWorkspace, About::default(), change, None).await
    }
}
