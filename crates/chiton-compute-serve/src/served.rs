//! The base driver as the engine here has it: its sandboxes' agents are the caller's.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use chiton_driver::{
    CallError, CallResult, Capabilities, ComputeDriver, CreateCall, Deadlines, DefaultPlan, DriverEvent, FieldRule,
    Images, LogOptions, LogStream, Observed, PlanRequest, PortableWrite, StartCall, Volume, VolumeRequest,
};
use chiton_gateway::{AgentFolder, BuiltDriver};
use chiton_model::{BackendId, Error, SandboxId, VolumeName, WorkspaceName};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use serde_json::Value;

use crate::credentials::Credentials;
use crate::relay::{Relays, Way};

pub(crate) struct Served {
    base: Arc<dyn ComputeDriver>,
    folder: Option<Arc<AgentFolder>>,
    credentials: Credentials,
    relays: Relays,
}

impl Served {
    /// To be called on a tokio runtime. `relays` is a folder for where agents' ways lead.
    pub(crate) fn around(built: BuiltDriver, credentials: Credentials, relays: PathBuf) -> BuiltDriver {
        let relays = Relays::new(relays);
        if let Some(folder) = &built.agent_folder {
            relays.resume(|id| folder(id));
        }
        let served = Self { base: built.driver, folder: built.agent_folder, credentials, relays };
        BuiltDriver { driver: Arc::new(served), agent_folder: None }
    }

    /// The call with what the caller handed over for this sandbox.
    fn with_agent(&self, call: &CreateCall) -> CallResult<CreateCall> {
        let mut call = call.clone();
        if !self.base.capabilities().agent {
            return Ok(call);
        }
        let id = &call.identity.sandbox;
        let handed = self.credentials.of(id).unwrap_or_default();
        let Some(agent) = handed.agent else {
            if self.folder.is_none() {
                // A supervisor's: a start leaves it the token that it was made with, and a create without one is refused.
                return Ok(call);
            }
            let text = format!("how the agent of sandbox {id} proves itself to its gateway is not known (any more)");
            return Err(CallError::NotRun(
                Error::refused("driver", text).cure("let the gateway create or start it with its credentials"),
            ));
        };
        if let (Some(folder), Some(way)) = (&self.folder, handed.way) {
            self.relay(id, &folder(id), way).map_err(CallError::NotRun)?;
        }
        call.agent = Some(agent);
        Ok(call)
    }

    fn relay(&self, id: &SandboxId, folder: &Path, way: Way) -> Result<(), Error> {
        self.relays.open(id, folder, way).map_err(|error| {
            Error::unavailable("driver", format!("the agent socket in {folder:?} could not be made: {error}"))
                .cure("look at the run folder's file system")
        })
    }
}

/// The base's names for starts are the caller's, not the engine's here.
fn without_attempt(mut observed: Observed) -> Observed {
    observed.attempt = None;
    observed
}

#[async_trait]
impl ComputeDriver for Served {
    fn capabilities(&self) -> Arc<Capabilities> {
        let mut capabilities = (*self.base.capabilities()).clone();
        // Ready is the base driver's word, and the caller decides who runs while it is away.
        capabilities.agent = false;
        capabilities.gateway_manages_lifecycle = false;
        Arc::new(capabilities)
    }

    fn deadlines(&self) -> Deadlines {
        self.base.deadlines()
    }

    async fn backend_id(&self) -> CallResult<BackendId> {
        self.base.backend_id().await
    }

    async fn default_plan(&self, request: &PlanRequest) -> Result<DefaultPlan, Error> {
        self.base.default_plan(request).await
    }

    fn field_rules(&self) -> &[FieldRule] {
        self.base.field_rules()
    }

    fn plan_schema(&self) -> Value {
        self.base.plan_schema()
    }

    fn write_portable(&self, plan: &mut Value, write: &PortableWrite) -> Result<(), Error> {
        self.base.write_portable(plan, write)
    }

    async fn validate(&self, plan: &Value) -> Result<(), Error> {
        self.base.validate(plan).await
    }

    fn shortfall(&self) -> Option<String> {
        self.base.shortfall()
    }

    async fn prepare(&self, id: &SandboxId, plan: &Value) -> CallResult<()> {
        self.base.prepare(id, plan).await
    }

    async fn create(&self, call: &CreateCall) -> CallResult<()> {
        let call = self.with_agent(call)?;
        self.base.create(&call).await
    }

    async fn start(&self, call: &StartCall) -> CallResult<()> {
        let call = self.with_agent(call)?;
        self.base.start(&call).await
    }

    async fn stop(&self, id: &SandboxId) -> CallResult<()> {
        self.base.stop(id).await
    }

    async fn delete(&self, id: &SandboxId) -> CallResult<()> {
        self.relays.close(id);
        self.base.delete(id).await
    }

    async fn get(&self, id: &SandboxId) -> CallResult<Option<Observed>> {
        Ok(self.base.get(id).await?.map(without_attempt))
    }

    async fn list(&self) -> CallResult<Vec<Observed>> {
        Ok(self.base.list().await?.into_iter().map(without_attempt).collect())
    }

    fn watch(&self) -> BoxStream<'static, DriverEvent> {
        let plain = |event| match event {
            DriverEvent::Changed(observed) => DriverEvent::Changed(without_attempt(observed)),
            other => other,
        };
        self.base.watch().map(plain).boxed()
    }

    async fn ensure_workspace(&self, workspace: &WorkspaceName) -> CallResult<()> {
        self.base.ensure_workspace(workspace).await
    }

    async fn release_workspace(&self, workspace: &WorkspaceName) -> CallResult<()> {
        self.base.release_workspace(workspace).await
    }

    async fn volumes(&self) -> CallResult<Vec<Volume>> {
        self.base.volumes().await
    }

    async fn create_volume(&self, request: &VolumeRequest) -> CallResult<Volume> {
        self.base.create_volume(request).await
    }

    async fn delete_volume(&self, workspace: &WorkspaceName, name: &VolumeName) -> CallResult<()> {
        self.base.delete_volume(workspace, name).await
    }

    fn images(&self) -> Option<Arc<dyn Images>> {
        self.base.images()
    }

    fn lost_output(&self) -> u64 {
        self.base.lost_output()
    }

    async fn logs(&self, id: &SandboxId, options: LogOptions) -> CallResult<LogStream> {
        self.base.logs(id, options).await
    }
}
