//! The contract's calls, moved onto blocking threads.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use chiton_confine::Enforced;
use chiton_driver::{
    CallError, CallResult, Capabilities, ComputeDriver, CreateCall, DefaultPlan, DriverEvent, Feature, FieldRule,
    Images, Limit, Locality, LogOptions, LogStream, NetworkKind, Observed, PlanRequest, Point, PortableWrite,
    StartCall, Volume, VolumeRequest,
};
use chiton_model::{BackendId, Error, SandboxId, VolumeName, WorkspaceName};
use futures::StreamExt;
use futures::stream::BoxStream;
use serde_json::Value;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::host::{ACT, Host, Monitor};
use crate::images;
use crate::options::OciOptions;
use crate::plan::{self, OciPlan, PLAN_SCHEMA};
use crate::record::Paths;
use crate::watch::Board;
use crate::{check, logs};

/// The embedded driver.
pub struct OciDriver {
    capabilities: Arc<Capabilities>,
    rules: Vec<FieldRule>,
    host: Arc<Host>,
    board: Arc<Board>,
}

impl OciDriver {
    /// A driver on this machine. Touches nothing yet: the first call does, and says what is missing.
    pub fn new(options: OciOptions) -> Self {
        let capabilities = Arc::new(Capabilities {
            id: options.id.clone(),
            kind: "oci".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            default_image: "host".to_owned(),
            gateway_manages_lifecycle: false,
            locality: Locality::Local,
            points: BTreeSet::from([
                Point::Env,
                Point::Label,
                Point::Annotation,
                Point::Mount,
                Point::Device,
                Point::Network,
                Point::Resource,
            ]),
            limits: BTreeSet::from([
                Limit::Cpu,
                Limit::Memory,
                Limit::Pids,
                Limit::Disk,
                Limit::Inodes,
                Limit::OpenFiles,
            ]),
            // Only root makes bridges; anybody else is told so when the plan is checked, with what to do.
            networks: BTreeSet::from([NetworkKind::Host, NetworkKind::Bridge]),
            features: BTreeSet::from([Feature::TwoPhaseStart, Feature::Logs, Feature::Volumes]),
            plan_schema: PLAN_SCHEMA,
            agent: options.agent,
        });
        let host = Arc::new(Host::new(options));
        Self { capabilities, rules: plan::field_rules(), board: Board::new(Arc::clone(&host)), host }
    }

    /// The folder that the sandbox sees at `/run/chiton`. It exists from create to delete; the gateway binds
    /// `agent.sock` in it with mode 0666, so that the sandbox's root, who is nobody on the host, may connect. On the
    /// host only root can reach it.
    pub fn agent_folder(&self, id: &SandboxId) -> PathBuf {
        Paths::new(&self.host.options, id).agent
    }

    /// What the sandbox's init enforced on itself when it was launched last; none for a sandbox that was not, or is not
    /// on this machine.
    pub async fn enforced(&self, id: &SandboxId) -> CallResult<Option<Enforced>> {
        let paths = Paths::new(&self.host.options, id);
        self.blocking("read what is enforced", move |_| Host::enforced(&paths)).await
    }

    /// Runs blocking work with a deadline. Work that outlives it ends by its own deadlines and changes nothing that a
    /// later delete would not find.
    async fn blocking<T: Send + 'static>(
        &self,
        doing: &str,
        work: impl FnOnce(&Host) -> CallResult<T> + Send + 'static,
    ) -> CallResult<T> {
        let host = Arc::clone(&self.host);
        let task = tokio::task::spawn_blocking(move || work(&host));
        match tokio::time::timeout(ACT + std::time::Duration::from_secs(3), task).await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => Err(CallError::Unknown(Error::internal(format!("{doing}: {error}")))),
            Err(_) => Err(CallError::Unknown(Error::deadline(format!("{doing} took too long")))),
        }
    }

    fn follow(&self, id: &SandboxId, monitor: Option<Monitor>) {
        if let Some(Monitor { child, connection }) = monitor {
            self.board.follow(id.clone(), connection, Some(child));
        }
    }

    async fn tell(&self, id: &SandboxId) {
        let of = id.clone();
        if let Ok(Some(observed)) = self.blocking("look at a sandbox", move |host| host.observe(&of)).await {
            self.board.tell(DriverEvent::Changed(observed));
        }
    }
}

#[async_trait]
impl ComputeDriver for OciDriver {
    fn capabilities(&self) -> Arc<Capabilities> {
        Arc::clone(&self.capabilities)
    }

    async fn backend_id(&self) -> CallResult<BackendId> {
        self.blocking("identify the machine", |host| {
            host.ready()?;
            let machine = fs::read_to_string("/etc/machine-id").unwrap_or_default();
            let machine = if machine.trim().is_empty() { "unidentified" } else { machine.trim() };
            let root = fs::canonicalize(&host.options.state_dir)
                .map_err(|error| CallError::NotRun(Error::internal(format!("the state folder: {error}"))))?;
            Ok(BackendId(format!("oci:{machine}:{}", root.display())))
        })
        .await
    }

    async fn default_plan(&self, request: &PlanRequest) -> Result<DefaultPlan, Error> {
        let request = request.clone();
        self.blocking("make the plan", move |host| {
            let resolver = |reference: &str| host.resolve_image(reference);
            plan::default_plan(&request, &host.planning()?, host.disk_means(), &resolver).map_err(CallError::NotRun)
        })
        .await
        .map_err(CallError::into_error)
    }

    fn field_rules(&self) -> &[FieldRule] {
        &self.rules
    }

    fn plan_schema(&self) -> Value {
        schemars::schema_for!(OciPlan).to_value()
    }

    fn write_portable(&self, plan: &mut Value, write: &PortableWrite) -> Result<(), Error> {
        plan::write_portable(plan, write)
    }

    async fn validate(&self, plan: &Value) -> Result<(), Error> {
        let plan = OciPlan::decode(plan)?;
        self.blocking("check the plan", move |host| {
            let ready = host.ready()?;
            check::plan(&plan, &host.options, &ready.means, host.disk_means()).map_err(CallError::NotRun)?;
            host.network.check(&plan.network)
        })
        .await
        .map_err(CallError::into_error)
    }

    fn shortfall(&self) -> Option<String> {
        self.host.shortfall()
    }

    async fn prepare(&self, id: &SandboxId, plan: &Value) -> CallResult<()> {
        let image = OciPlan::decode(plan).and_then(|plan| plan.image.pinned()).map_err(CallError::NotRun)?;
        let Some(image) = image else { return Ok(()) };
        let (board, id) = (Arc::clone(&self.board), id.clone());
        let tell = move |message| board.tell(DriverEvent::Progress { id: id.clone(), message });
        images::ensure(Arc::clone(&self.host), image, Box::new(tell)).await
    }

    fn images(&self) -> Option<Arc<dyn Images>> {
        Some(Arc::new(images::Store(Arc::clone(&self.host))))
    }

    async fn create(&self, call: &CreateCall) -> CallResult<()> {
        let id = call.identity.sandbox.clone();
        let call = call.clone();
        let monitor = self.blocking("create the sandbox", move |host| host.create(&call)).await?;
        if monitor.is_some() {
            self.follow(&id, monitor);
            self.tell(&id).await;
        }
        Ok(())
    }

    async fn start(&self, call: &StartCall) -> CallResult<()> {
        let id = call.identity.sandbox.clone();
        let call = call.clone();
        let monitor = self.blocking("start the sandbox", move |host| host.start(&call)).await?;
        if monitor.is_some() {
            self.follow(&id, monitor);
            self.tell(&id).await;
        }
        Ok(())
    }

    async fn stop(&self, id: &SandboxId) -> CallResult<()> {
        let of = id.clone();
        self.blocking("stop the sandbox", move |host| host.stop(&of)).await
    }

    async fn delete(&self, id: &SandboxId) -> CallResult<()> {
        let of = id.clone();
        self.blocking("delete the sandbox", move |host| host.delete(&of)).await?;
        self.board.tell(DriverEvent::Deleted(id.clone()));
        Ok(())
    }

    async fn get(&self, id: &SandboxId) -> CallResult<Option<Observed>> {
        let of = id.clone();
        self.blocking("look at the sandbox", move |host| {
            host.ready()?;
            host.observe(&of)
        })
        .await
    }

    async fn list(&self) -> CallResult<Vec<Observed>> {
        self.blocking("list the sandboxes", Host::list).await
    }

    fn watch(&self) -> BoxStream<'static, DriverEvent> {
        let (sender, receiver) = mpsc::channel(256);
        tokio::spawn(watch(Arc::clone(&self.host), Arc::clone(&self.board), sender));
        ReceiverStream::new(receiver).boxed()
    }

    async fn volumes(&self) -> CallResult<Vec<Volume>> {
        self.blocking("list the volumes", Host::volumes).await
    }

    async fn create_volume(&self, request: &VolumeRequest) -> CallResult<Volume> {
        let request = request.clone();
        self.blocking("make the volume", move |host| host.create_volume(&request)).await
    }

    async fn delete_volume(&self, workspace: &WorkspaceName, name: &VolumeName) -> CallResult<()> {
        let (workspace, name) = (workspace.clone(), name.clone());
        self.blocking("delete the volume", move |host| host.delete_volume(&workspace, &name)).await
    }

    fn lost_output(&self) -> u64 {
        self.board.lost()
    }

    async fn logs(&self, id: &SandboxId, options: LogOptions) -> CallResult<LogStream> {
        let dir = Paths::new(&self.host.options, id).dir;
        if !dir.exists() {
            return Err(CallError::NotRun(Error::not_found(format!("sandbox {id} is not on this machine"))));
        }
        Ok(logs::stream(dir, options))
    }
}

/// One watcher: a snapshot, its end, then news; again from the beginning when it lagged.
async fn watch(host: Arc<Host>, board: Arc<Board>, sender: mpsc::Sender<DriverEvent>) {
    loop {
        // Listening begins before the snapshot, so that nothing falls between.
        let mut news = board.listen();
        board.adopt().await;
        let reader = Arc::clone(&host);
        let snapshot = tokio::task::spawn_blocking(move || reader.list()).await;
        let Ok(Ok(snapshot)) = snapshot else {
            // The stream ends: the engine watches anew, and a call of its own gets the reason.
            return;
        };
        for observed in snapshot {
            if sender.send(DriverEvent::Changed(observed)).await.is_err() {
                return;
            }
        }
        if sender.send(DriverEvent::SnapshotEnd).await.is_err() {
            return;
        }
        loop {
            let event = tokio::select! {
                event = news.recv() => event,
                () = sender.closed() => return,
            };
            match event {
                Ok(event) => {
                    if sender.send(event).await.is_err() {
                        return;
                    }
                }
                Err(RecvError::Lagged(_)) => break,
                Err(RecvError::Closed) => return,
            }
        }
    }
}
