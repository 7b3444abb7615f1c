//! The contract's calls.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use chiton_driver::{
    CallError, CallResult, Capabilities, ComputeDriver, CreateCall, DefaultPlan, DriverEvent, Feature, FieldRule,
    GatewayListener, Images, Limit, Locality, LogOptions, LogStream, NetworkKind, Observed, PlanRequest, Point,
    PortableWrite, StartCall, Volume, VolumeRequest,
};
use chiton_model::{BackendId, Error, SandboxId, VolumeName, WorkspaceName};
use futures::StreamExt;
use futures::stream::BoxStream;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::engine::Engine;
use crate::images::Store;
use crate::options::EngineOptions;
use crate::plan::{self, EnginePlan, PLAN_SCHEMA, PlanContext};
use crate::supervisor::Injects;
use crate::{check, watch};

/// A driver of a container engine.
pub struct EngineDriver {
    capabilities: Arc<Capabilities>,
    rules: Vec<FieldRule>,
    engine: Arc<Engine>,
}

impl EngineDriver {
    /// A driver of the engine behind a socket. Touches nothing yet: the first call does, and says what is missing.
    pub fn new(options: EngineOptions) -> Self {
        let capabilities = Arc::new(Capabilities {
            id: options.id.clone(),
            kind: options.dialect.kind().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            default_image: options.default_image.clone(),
            gateway_manages_lifecycle: false,
            locality: Locality::Remote,
            points: BTreeSet::from([
                Point::Env,
                Point::Label,
                Point::Mount,
                Point::Device,
                Point::Network,
                Point::Resource,
            ]),
            limits: BTreeSet::from([Limit::Cpu, Limit::Memory, Limit::Pids, Limit::OpenFiles]),
            networks: BTreeSet::from([NetworkKind::Host, NetworkKind::Bridge, NetworkKind::Named]),
            features: BTreeSet::from([Feature::TwoPhaseStart, Feature::Logs, Feature::Volumes]),
            plan_schema: PLAN_SCHEMA,
            agent: options.agent.talks(),
        });
        Self { capabilities, rules: plan::field_rules(), engine: Arc::new(Engine::new(options)) }
    }

    /// What it puts into its sandboxes.
    pub fn injects(&self) -> &Injects {
        &self.engine.options.agent
    }

    /// The folder that the sandbox sees at `/run/chiton`, in which the gateway binds `agent.sock` with mode 0666. On the
    /// host only the gateway's user can reach it.
    pub fn agent_folder(&self, id: &SandboxId) -> PathBuf {
        self.engine.agent_folder(id)
    }
}

/// A registry's or an engine's error is about itself; the request named an image.
fn about(image: &str, mut error: Error) -> Error {
    if !error.message.contains(image) {
        error.message = format!("image {image:?}: {}", error.message);
    }
    error
}

#[async_trait]
impl ComputeDriver for EngineDriver {
    fn capabilities(&self) -> Arc<Capabilities> {
        Arc::clone(&self.capabilities)
    }

    async fn backend_id(&self) -> CallResult<BackendId> {
        self.engine.client.backend_id().await
    }

    async fn default_plan(&self, request: &PlanRequest) -> Result<DefaultPlan, Error> {
        let options = &self.engine.options;
        self.capabilities.check_offers(&request.resources, &request.network, &request.volumes)?;
        plan::check_config(request, options)?;
        let found = self.engine.resolve(&request.image).await.map_err(|error| about(&request.image, error))?;
        let abilities = self.engine.abilities().await.map_err(CallError::into_error)?;
        let program = match options.agent.supervisor() {
            Some(supervisor) => Some(self.engine.plan_program(supervisor).await?),
            None => None,
        };
        plan::default_plan(request, PlanContext { options, abilities, found, program })
    }

    fn field_rules(&self) -> &[FieldRule] {
        &self.rules
    }

    fn plan_schema(&self) -> Value {
        schemars::schema_for!(EnginePlan).to_value()
    }

    fn write_portable(&self, plan: &mut Value, write: &PortableWrite) -> Result<(), Error> {
        plan::write_portable(self.capabilities.id.as_str(), plan, write)
    }

    async fn validate(&self, plan: &Value) -> Result<(), Error> {
        let plan = EnginePlan::decode(plan)?;
        check::plan(&plan, &self.engine.options)?;
        let abilities = self.engine.abilities().await.map_err(CallError::into_error)?;
        check::able(&plan, abilities, &self.engine.options)
    }

    fn shortfall(&self) -> Option<String> {
        self.engine.shortfall()
    }

    async fn prepare(&self, id: &SandboxId, plan: &Value) -> CallResult<()> {
        let plan = EnginePlan::decode(plan).map_err(CallError::NotRun)?;
        self.engine.ensure_image(id, &plan.image).await?;
        match plan.agent.supervisor() {
            Some(supervisor) => self.engine.ensure_program(id, &supervisor.program).await.map(drop),
            None => Ok(()),
        }
    }

    async fn create(&self, call: &CreateCall) -> CallResult<()> {
        self.engine.client.in_time("create the sandbox", Box::pin(self.engine.create(call))).await
    }

    async fn start(&self, call: &StartCall) -> CallResult<()> {
        self.engine.client.in_time("start the sandbox", Box::pin(self.engine.start(call))).await
    }

    async fn stop(&self, id: &SandboxId) -> CallResult<()> {
        self.engine.client.in_time("stop the sandbox", Box::pin(self.engine.stop(id))).await
    }

    async fn delete(&self, id: &SandboxId) -> CallResult<()> {
        self.engine.client.in_time("delete the sandbox", Box::pin(self.engine.delete(id))).await
    }

    async fn get(&self, id: &SandboxId) -> CallResult<Option<Observed>> {
        Ok(self.engine.observe(id).await?)
    }

    async fn list(&self) -> CallResult<Vec<Observed>> {
        Ok(self.engine.list().await?)
    }

    fn watch(&self) -> BoxStream<'static, DriverEvent> {
        let (sender, receiver) = mpsc::channel(256);
        tokio::spawn(watch::watch(Arc::clone(&self.engine), sender));
        ReceiverStream::new(receiver).boxed()
    }

    async fn gateway_listeners(&self) -> CallResult<Vec<GatewayListener>> {
        self.engine.client.in_time("find out where the gateway listens", self.engine.gateway_listeners()).await
    }

    fn images(&self) -> Option<Arc<dyn Images>> {
        Some(Arc::new(Store(Arc::clone(&self.engine))))
    }

    async fn volumes(&self) -> CallResult<Vec<Volume>> {
        self.engine.volumes().await
    }

    async fn create_volume(&self, request: &VolumeRequest) -> CallResult<Volume> {
        self.engine.create_volume(request).await
    }

    async fn delete_volume(&self, workspace: &WorkspaceName, name: &VolumeName) -> CallResult<()> {
        self.engine.delete_volume(workspace, name).await
    }

    async fn logs(&self, id: &SandboxId, options: LogOptions) -> CallResult<LogStream> {
        self.engine.logs(id, options).await
    }
}
