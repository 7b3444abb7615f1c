//! The driver as the engine sees it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use chiton_compute_wire::names::features;
use chiton_compute_wire::v1;
use chiton_driver::{
    CallError, CallResult, Capabilities, ComputeDriver, CreateCall, Deadlines, DefaultPlan, DriverEvent, FieldRule,
    Observed, PlanRequest, PortableWrite, StartCall, WhoseAgent,
};
use chiton_model::{BackendId, Error, SandboxId, WorkspaceName};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use crate::handshake::Handshake;
use crate::link::Link;
use crate::options::ExternalOptions;
use crate::{message, plan};

/// A compute driver behind a Unix socket.
pub struct ExternalDriver {
    link: Arc<Link>,
    rules: Vec<FieldRule>,
    /// Counts what the driver told; wakes who waits for a change.
    news: Arc<watch::Sender<u64>>,
    /// Created, and not called to be started yet: the create has done that.
    fresh: Mutex<BTreeSet<SandboxId>>,
}

impl ExternalDriver {
    /// A driver that was not dialled yet; what it said of itself when it was here last holds until then.
    #[must_use]
    pub fn new(options: ExternalOptions) -> Self {
        let (link, news) = (Arc::new(Link::new(options)), Arc::new(watch::channel(0).0));
        Self { link, rules: plan::field_rules(), news, fresh: Mutex::default() }
    }

    /// Dials it, if it is not connected, and asks what it is.
    ///
    /// # Errors
    /// `unavailable` or `refused`, with the socket's path.
    pub async fn greet(&self) -> Result<Arc<Capabilities>, Error> {
        self.link.greeted().await?;
        Ok(self.link.capabilities())
    }

    /// Where the gateway binds the socket of a sandbox's agent; none when nobody dials it.
    pub fn agent_folder(&self, id: &SandboxId) -> Option<PathBuf> {
        (self.link.options.agent == WhoseAgent::Chiton).then(|| message::agent_folder(&self.link.options, id))
    }

    /// Refuses what the process at the other end cannot do.
    fn check_agent(&self, said: &Handshake) -> Result<(), Error> {
        let name = self.link.name();
        if self.link.options.agent != WhoseAgent::Chiton {
            if !said.can(features::CHITON_AGENT) {
                return Ok(());
            }
            // It would wait for credentials that nobody hands it.
            let text = format!("driver {name:?} brings Chiton's agent into its sandboxes, which is not expected of it");
            return Err(Error::unsupported(name, "agent", text)
                .cure(format!("set agent = \"chiton\" in [compute.driver.{name}], or serve it with --agent none")));
        }
        // Our agent names the start that it belongs to, so it has to be told of each.
        let text = if !said.can(features::CHITON_AGENT) {
            format!("driver {name:?} does not bring Chiton's agent into its sandboxes")
        } else if !said.can(features::START_CARRIES_SANDBOX) {
            format!("driver {name:?} brings Chiton's agent and takes no credentials for it at a start")
        } else {
            return Ok(());
        };
        Err(Error::unsupported(name, "agent", text)
            .cure(format!("set agent = \"none\" in [compute.driver.{name}], or serve it with --agent chiton")))
    }
}

#[async_trait]
impl ComputeDriver for ExternalDriver {
    fn capabilities(&self) -> Arc<Capabilities> {
        self.link.capabilities()
    }

    fn deadlines(&self) -> Deadlines {
        self.link.options.deadlines.clone()
    }

    async fn backend_id(&self) -> CallResult<BackendId> {
        let greeted = self.link.greeted().await.map_err(CallError::NotRun)?;
        let said = &greeted.said.backend;
        let own = if said.is_empty() { format!("uid {}", greeted.uid) } else { said.clone() };
        Ok(BackendId(format!("{}:{own}", self.link.name())))
    }

    async fn default_plan(&self, request: &PlanRequest) -> Result<DefaultPlan, Error> {
        // Asked now, so that a driver that was replaced by a newer one is taken at its own word.
        let greeted = self.link.greeted().await?;
        plan::default_plan(request, &self.capabilities(), greeted.said.can(features::SECRET_ENVIRONMENT))
    }

    fn field_rules(&self) -> &[FieldRule] {
        &self.rules
    }

    fn plan_schema(&self) -> Value {
        schemars::schema_for!(plan::ExternalPlan).to_value()
    }

    fn write_portable(&self, plan: &mut Value, write: &PortableWrite) -> Result<(), Error> {
        plan::write_portable(&self.capabilities(), plan, write)
    }

    async fn validate(&self, plan: &Value) -> Result<(), Error> {
        let began = Instant::now();
        let left = || self.deadlines().look.saturating_sub(began.elapsed());
        let greeted = self.link.greeted().await?;
        self.check_agent(&greeted.said)?;
        self.link.check_health(left()).await?;
        let asked = v1::ValidateSandboxCreateRequest { sandbox: Some(message::to_validate(plan)?) };
        let looked = self.link.call("validate the sandbox", left(), |mut client| async move {
            client.validate_sandbox_create(asked).await
        });
        let outcome = looked.await.map_err(|answer| answer.outcome(self.link.name(), "validate the sandbox"));
        outcome.map(drop).map_err(CallError::into_error)
    }

    async fn create(&self, call: &CreateCall) -> CallResult<()> {
        self.link.create(call).await?;
        self.fresh.lock().insert(call.identity.sandbox.clone());
        Ok(())
    }

    async fn start(&self, call: &StartCall) -> CallResult<()> {
        let fresh = self.fresh.lock().remove(&call.identity.sandbox);
        self.link.start(call, fresh).await
    }

    async fn renews_credentials(&self) -> bool {
        self.link.renews().await
    }

    async fn stop(&self, id: &SandboxId) -> CallResult<()> {
        self.fresh.lock().remove(id);
        self.link.stop(id, self.news.subscribe()).await
    }

    async fn delete(&self, id: &SandboxId) -> CallResult<()> {
        self.fresh.lock().remove(id);
        self.link.delete(id, self.news.subscribe()).await
    }

    async fn get(&self, id: &SandboxId) -> CallResult<Option<Observed>> {
        let found = self.link.look(id, self.link.options.deadlines.look).await?;
        found.map(|found| self.link.observed(&found)).transpose().map_err(CallError::Unknown)
    }

    async fn list(&self) -> CallResult<Vec<Observed>> {
        let asked = v1::ListSandboxesRequest {};
        let listed = self.link.call("list the sandboxes", self.deadlines().look, |mut client| async move {
            client.list_sandboxes(asked).await
        });
        let listed = listed.await.map_err(|answer| answer.outcome(self.link.name(), "list the sandboxes"))?;
        // What has no sound id is none of ours: ids are made here.
        Ok(listed.sandboxes.iter().filter_map(|found| self.link.observed(found).ok()).collect())
    }

    fn watch(&self) -> BoxStream<'static, DriverEvent> {
        let (sender, receiver) = mpsc::channel(256);
        tokio::spawn(crate::watch::tell(Arc::clone(&self.link), Arc::clone(&self.news), sender));
        ReceiverStream::new(receiver).boxed()
    }

    async fn ensure_workspace(&self, workspace: &WorkspaceName) -> CallResult<()> {
        self.link.ensure_workspace(workspace).await
    }

    async fn release_workspace(&self, workspace: &WorkspaceName) -> CallResult<()> {
        self.link.release_workspace(workspace).await
    }
}
