//! The trait that every driver implements, in process or behind a socket.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chiton_model::{BackendId, Error, SandboxId, VolumeName, WorkspaceName};
use futures::stream::BoxStream;
use serde_json::Value;

use crate::{
    CallError, CallResult, Capabilities, CreateCall, DefaultPlan, DriverEvent, FieldRule, GatewayListener, Images,
    LogOptions, LogStream, Observed, PlanRequest, PortableWrite, StartCall, Volume, VolumeRequest,
};

/// How long the engine waits for each kind of call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// Image pull and asset fetch.
    pub prepare: Duration,
    /// get, list, validate and other looks.
    pub look: Duration,
    /// create, start, stop and delete, each.
    pub act: Duration,
    /// From a start's return until the agent is connected.
    pub ready: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            prepare: Duration::from_mins(15),
            look: Duration::from_secs(10),
            act: Duration::from_mins(1),
            ready: Duration::from_mins(1),
        }
    }
}

/// Creates and observes sandboxes on one platform.
///
/// Every call may be repeated after a crash. `create`, `start`, `stop` and `delete` are idempotent by sandbox id, an id
/// that was deleted is never created again, and no call outlives its deadline without ending as [`CallError::Unknown`].
#[async_trait]
pub trait ComputeDriver: Send + Sync + 'static {
    /// What it can do. Who it is (`id`) and where its effects are made (`locality`) never change; the rest may after the
    /// driver was out of reach, when it is another process that learns it anew.
    fn capabilities(&self) -> Arc<Capabilities>;

    /// How long the engine waits for it.
    fn deadlines(&self) -> Deadlines {
        Deadlines::default()
    }

    /// Which installation of the platform it talks to (lifecycle rule 5).
    async fn backend_id(&self) -> CallResult<BackendId>;

    /// The plan for a request, before extensions. Reads only; the same request gives the same plan in another process.
    async fn default_plan(&self, request: &PlanRequest) -> Result<DefaultPlan, Error>;

    /// What may happen to each field of its plans. A field without a rule is sealed.
    fn field_rules(&self) -> &[FieldRule];

    /// The JSON schema of its plans.
    fn plan_schema(&self) -> Value;

    /// Applies a driver-independent write to a plan, or says that the point is not offered.
    fn write_portable(&self, plan: &mut Value, write: &PortableWrite) -> Result<(), Error>;

    /// Looks at a sealed plan (slots not filled) and refuses what this platform cannot do. No effects.
    async fn validate(&self, plan: &Value) -> Result<(), Error>;

    /// What this platform does not enforce for any sandbox that is made now, as a sentence for people; none when there
    /// is nothing of the kind. Asked after [`ComputeDriver::validate`] and answered at once; the sandbox then carries it
    /// as its condition `PartlyEnforced`. A limit that a request names is never such a shortfall: `validate` refuses it.
    fn shortfall(&self) -> Option<String> {
        None
    }

    /// Slow work that needs no undo: image pull, asset fetch. It may take long and tells of itself by
    /// [`DriverEvent::Progress`]; work that nobody waits for any more ends.
    async fn prepare(&self, _id: &SandboxId, _plan: &Value) -> CallResult<()> {
        Ok(())
    }

    /// Makes the object. Succeeds without effect when it exists already.
    async fn create(&self, call: &CreateCall) -> CallResult<()>;

    /// Starts it; returns when the platform runs it. Succeeds without effect when it runs already.
    async fn start(&self, call: &StartCall) -> CallResult<()>;

    /// Whether a start brings the agent new credentials. Where it does not, those of the create hold as long as the sandbox:
    /// a start then carries an [`AgentLaunch`](crate::AgentLaunch) with an empty token. Asked before each start; answered
    /// within [`Deadlines::look`], from memory when the driver is out of reach.
    async fn renews_credentials(&self) -> bool {
        true
    }

    /// Stops it; returns when it is confirmed stopped. Succeeds when it is stopped or absent.
    async fn stop(&self, id: &SandboxId) -> CallResult<()>;

    /// Removes it and all that belongs to it; returns when it is confirmed absent. Succeeds when it is absent.
    async fn delete(&self, id: &SandboxId) -> CallResult<()>;

    /// One object of this gateway, or none.
    async fn get(&self, id: &SandboxId) -> CallResult<Option<Observed>>;

    /// All objects of this gateway, whatever their epoch.
    async fn list(&self) -> CallResult<Vec<Observed>>;

    /// News, beginning with a full snapshot. Ends only when the platform is lost; the engine then watches anew.
    fn watch(&self) -> BoxStream<'static, DriverEvent>;

    /// Where the gateway has to listen so that what is put into its sandboxes reaches it over the network. Asked once, before
    /// there are sandboxes; may make what the addresses belong to. Nothing where a socket of the driver's leads there.
    async fn gateway_listeners(&self) -> CallResult<Vec<GatewayListener>> {
        Ok(Vec::new())
    }

    /// Prepares the platform for a workspace.
    async fn ensure_workspace(&self, _workspace: &WorkspaceName) -> CallResult<()> {
        Ok(())
    }

    /// Undoes [`ComputeDriver::ensure_workspace`].
    async fn release_workspace(&self, _workspace: &WorkspaceName) -> CallResult<()> {
        Ok(())
    }

    /// This gateway's volumes, by workspace and name. Only for drivers with [`Feature::Volumes`](crate::Feature).
    async fn volumes(&self) -> CallResult<Vec<Volume>> {
        Err(no_volumes(&self.capabilities()))
    }

    /// Makes a volume; an error of the kind `already_exists` when there is one of that name.
    async fn create_volume(&self, _request: &VolumeRequest) -> CallResult<Volume> {
        Err(no_volumes(&self.capabilities()))
    }

    /// Deletes a volume and all in it, for ever. `not_found` when there is none, `conflict` when a sandbox has it.
    async fn delete_volume(&self, _workspace: &WorkspaceName, _name: &VolumeName) -> CallResult<()> {
        Err(no_volumes(&self.capabilities()))
    }

    /// The images that are on this platform, where the driver has a store of its own.
    fn images(&self) -> Option<Arc<dyn Images>> {
        None
    }

    /// How many bytes of main processes' output could not be kept because writing them failed, since this process began.
    /// What is given up to stay within a log's limit is not counted here.
    fn lost_output(&self) -> u64 {
        0
    }

    /// The main process's output.
    async fn logs(&self, _id: &SandboxId, _options: LogOptions) -> CallResult<LogStream> {
        let id = self.capabilities().id.to_string();
        Err(CallError::NotRun(Error::unsupported(&id, "logs", format!("driver {id:?} keeps no logs"))))
    }
}

fn no_volumes(capabilities: &Capabilities) -> CallError {
    let id = capabilities.id.as_str();
    CallError::NotRun(Error::unsupported(id, "volumes", format!("driver {id:?} keeps no named volumes")))
}
