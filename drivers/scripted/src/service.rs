//! The contract's calls.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chiton_compute_wire::names::{CONTRACT_VERSION, features};
use chiton_compute_wire::v1::compute_driver_server::ComputeDriver;
use chiton_compute_wire::v1::{self as wire, DriverSandbox, DriverSandboxSpec};
use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::check;
use crate::fault::{Fault, Faults};
use crate::platform::{Phase, Platform};
use crate::serve::Crash;
use crate::stock;
use crate::view::{View, observed};
use crate::watch::feed;

/// How long a deletion takes while others of the same sandbox come.
const BUSY: Duration = Duration::from_millis(200);
/// How long a deletion that was told early waits for somebody to look.
const EARLY: Duration = Duration::from_secs(4);

/// One life of the server.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) platform: Arc<Platform>,
    pub(crate) faults: Arc<Faults>,
    pub(crate) late: Duration,
    /// As [`crate::Script::stock`] and [`crate::Script::listeners`].
    pub(crate) stock: bool,
    pub(crate) listeners: Vec<String>,
    pub(crate) crash: Crash,
    pub(crate) memory: Arc<Memory>,
}

/// What only this life of the server knows: its mistakes, mostly.
pub(crate) struct Memory {
    questions: AtomicU64,
    /// In lists, and nowhere else.
    extra: Mutex<Vec<DriverSandbox>>,
    /// Ids whose delete found nothing.
    early: Mutex<BTreeSet<String>>,
    workspaces: Mutex<BTreeSet<String>>,
    /// What watches that are over were told.
    pub(crate) told: Mutex<BTreeSet<String>>,
    /// News of what is not.
    pub(crate) rumours: broadcast::Sender<DriverSandbox>,
    /// Whoever has it is told news.
    pub(crate) ear: Arc<tokio::sync::Mutex<()>>,
    /// Told of every list.
    listed: tokio::sync::Notify,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            questions: AtomicU64::default(),
            extra: Mutex::default(),
            early: Mutex::default(),
            workspaces: Mutex::default(),
            told: Mutex::default(),
            rumours: broadcast::Sender::new(16),
            ear: Arc::default(),
            listed: tokio::sync::Notify::new(),
        }
    }
}

impl Service {
    fn has(&self, fault: Fault) -> bool {
        self.faults.has(fault)
    }

    async fn hang(&self, fault: Fault) {
        if self.has(fault) {
            std::future::pending::<()>().await;
        }
    }

    /// As it goes over the wire.
    pub(crate) fn told(&self, mut sandbox: DriverSandbox) -> DriverSandbox {
        if self.stock {
            stock::sandbox(&mut sandbox);
        }
        sandbox
    }

    fn missing(&self, id: &str) -> Status {
        if self.has(Fault::WrongCodeForMissing) {
            return Status::internal("it did not work");
        }
        Status::not_found(format!("there is no sandbox {id:?}"))
    }

    /// One that is there, as it is told to whoever asks for it.
    fn known(&self, id: &str) -> Option<DriverSandbox> {
        self.platform.look(|inner| {
            let mut found = observed(inner.objects.get(id)?, View::Get, &self.faults);
            if let (true, Some(other)) =
                (self.has(Fault::MixesUpNames), inner.objects.keys().find(|other| *other != id))
            {
                found.name.clone_from(&inner.objects[other].sandbox.name);
            }
            Some(self.told(found))
        })
    }

    fn phase(&self, id: &str) -> Option<Phase> {
        self.platform.look(|inner| inner.objects.get(id).map(|object| object.phase))
    }

    fn is_deleted(&self, id: &str) -> bool {
        self.platform.look(|inner| inner.deleted.contains(id))
    }

    fn make(&self, sandbox: DriverSandbox) -> Result<(), Status> {
        let mut sandbox = self.told(sandbox);
        let id = sandbox.id.clone();
        if self.has(Fault::HalfMadeAfterRace) && self.memory.early.lock().contains(&id) {
            self.memory.extra.lock().push(sandbox);
            return Ok(());
        }
        if self.is_deleted(&id) && !self.has(Fault::RecreatesDeleted) {
            return Err(Status::failed_precondition(format!("sandbox {id:?} was deleted; use another id")));
        }
        if self.has(Fault::RefusesCreates) {
            return Err(Status::already_exists(format!("something is in the way of sandbox {id:?}")));
        }
        let secret = sandbox.spec.as_mut().map(hide).unwrap_or_default();
        if self.platform.create(sandbox.clone(), secret) {
            return Ok(());
        }
        if self.has(Fault::RefusesRepeats) {
            return Err(Status::already_exists(format!("sandbox {id:?} is there")));
        }
        let old = self.platform.look(|inner| inner.old.contains(&id));
        if self.has(Fault::CreatesTwice) || old && self.has(Fault::CreatesAnewAfterRestart) {
            self.memory.extra.lock().push(sandbox);
        }
        Ok(())
    }
}

/// The answer to a call that a driver does not have.
fn unknown(call: &str) -> Status {
    Status::unimplemented(format!("{call} is not implemented"))
}

/// Takes what is secret out of a specification.
fn hide(spec: &mut DriverSandboxSpec) -> DriverSandboxSpec {
    DriverSandboxSpec {
        sandbox_token: std::mem::take(&mut spec.sandbox_token),
        secret_environment: std::mem::take(&mut spec.secret_environment),
        agent_attempt: spec.agent_attempt.clone(),
        ..DriverSandboxSpec::default()
    }
}

#[tonic::async_trait]
impl ComputeDriver for Service {
    async fn get_capabilities(
        &self,
        _: Request<wire::GetCapabilitiesRequest>,
    ) -> Result<Response<wire::GetCapabilitiesResponse>, Status> {
        self.hang(Fault::HangsOnCapabilities).await;
        let mut backend_id = self.platform.look(|inner| inner.backend.clone());
        if self.has(Fault::UnstableCapabilities) {
            backend_id = format!("{backend_id}-{}", self.memory.questions.fetch_add(1, Ordering::Relaxed));
        }
        if self.has(Fault::NamesNoBackend) {
            backend_id.clear();
        }
        let known = [features::WORKSPACES, features::START_CARRIES_SANDBOX, features::SECRET_ENVIRONMENT];
        let mut said = wire::GetCapabilitiesResponse {
            driver_name: if self.has(Fault::BadName) { "scripted\ndriver" } else { "scripted" }.to_owned(),
            driver_version: if self.has(Fault::BadVersion) { "the newest" } else { env!("CARGO_PKG_VERSION") }
                .to_owned(),
            default_image: "scripted".to_owned(),
            gateway_manages_lifecycle: true,
            contract_version: CONTRACT_VERSION,
            plan_fields: ["env", "label", "resource"].map(str::to_owned).to_vec(),
            features: known.map(|feature| (feature.to_owned(), true)).into(),
            backend_id,
            ..wire::GetCapabilitiesResponse::default()
        };
        if self.stock {
            stock::capabilities(&mut said);
        }
        Ok(Response::new(said))
    }

    async fn get_gateway_listener_requirements(
        &self,
        _: Request<wire::GetGatewayListenerRequirementsRequest>,
    ) -> Result<Response<wire::GetGatewayListenerRequirementsResponse>, Status> {
        use wire::gateway_listener_requirement::Selector;
        if self.stock && self.listeners.is_empty() {
            return Err(unknown("GetGatewayListenerRequirements"));
        }
        let exact = |address: &String| wire::GatewayListenerRequirement {
            reason: "sandboxes call".to_owned(),
            selector: Some(Selector::ExactBindAddress(address.clone())),
        };
        let mut requirements: Vec<_> = self.listeners.iter().map(exact).collect();
        if self.has(Fault::BadRequirements) {
            let selector = Some(Selector::ExactBindAddress("somewhere".to_owned()));
            requirements.push(wire::GatewayListenerRequirement { reason: "sandboxes call".to_owned(), selector });
        }
        Ok(Response::new(wire::GetGatewayListenerRequirementsResponse { requirements }))
    }

    async fn validate_sandbox_create(
        &self,
        request: Request<wire::ValidateSandboxCreateRequest>,
    ) -> Result<Response<wire::ValidateSandboxCreateResponse>, Status> {
        if self.has(Fault::ValidatesNothing) {
            return Ok(Response::new(wire::ValidateSandboxCreateResponse {}));
        }
        let sandbox = check::sandbox(request.into_inner().sandbox, &self.faults)?;
        if self.has(Fault::ValidateHasEffects) {
            self.make(sandbox)?;
        }
        Ok(Response::new(wire::ValidateSandboxCreateResponse {}))
    }

    async fn get_sandbox(
        &self,
        request: Request<wire::GetSandboxRequest>,
    ) -> Result<Response<wire::GetSandboxResponse>, Status> {
        self.hang(Fault::HangsOnGet).await;
        let id = request.into_inner().sandbox_id;
        check::id(&id).map_err(|status| {
            if self.has(Fault::BreaksOnOddLooks) { Status::internal("it did not work") } else { status }
        })?;
        let found = match self.known(&id) {
            None if self.has(Fault::KeepsDeleted) && self.is_deleted(&id) => {
                DriverSandbox { id, ..DriverSandbox::default() }
            }
            found => found.ok_or_else(|| self.missing(&id))?,
        };
        Ok(Response::new(wire::GetSandboxResponse { sandbox: Some(found) }))
    }

    async fn list_sandboxes(
        &self,
        _: Request<wire::ListSandboxesRequest>,
    ) -> Result<Response<wire::ListSandboxesResponse>, Status> {
        self.hang(Fault::HangsOnList).await;
        let list = |inner: &crate::platform::Inner| -> Vec<_> {
            inner.objects.values().map(|object| self.told(observed(object, View::List, &self.faults))).collect()
        };
        let mut sandboxes = self.platform.look(list);
        if self.platform.doubles() {
            sandboxes.extend(sandboxes.clone());
        }
        sandboxes.extend(self.memory.extra.lock().iter().cloned());
        let left = self.platform.look(|inner| inner.left.clone());
        sandboxes.extend(left.into_iter().map(|id| DriverSandbox { id, ..DriverSandbox::default() }));
        self.memory.listed.notify_waiters();
        Ok(Response::new(wire::ListSandboxesResponse { sandboxes }))
    }

    async fn create_sandbox(
        &self,
        request: Request<wire::CreateSandboxRequest>,
    ) -> Result<Response<wire::CreateSandboxResponse>, Status> {
        self.hang(Fault::HangsOnCreate).await;
        let asked = request.into_inner().sandbox;
        let odd = asked.as_ref().is_some_and(|sandbox| !sandbox.id.is_ascii());
        if odd && self.has(Fault::CrashesOnOddId) {
            self.crash.now().await;
        }
        match check::sandbox(asked.clone(), &self.faults) {
            Ok(sandbox) => self.make(sandbox)?,
            Err(status) => {
                if let (true, Some(mut refused)) = (self.has(Fault::TellsOfRefused), asked) {
                    refused.spec = None;
                    // Nobody may be listening.
                    drop(self.memory.rumours.send(refused));
                }
                return Err(status);
            }
        }
        if self.has(Fault::LateCreate) {
            tokio::time::sleep(self.late).await;
        }
        Ok(Response::new(wire::CreateSandboxResponse {}))
    }

    async fn stop_sandbox(
        &self,
        request: Request<wire::StopSandboxRequest>,
    ) -> Result<Response<wire::StopSandboxResponse>, Status> {
        if self.has(Fault::StopUnimplemented) {
            return Err(Status::unimplemented("stops are not implemented"));
        }
        let id = request.into_inner().sandbox_id;
        check::id(&id)?;
        let phase = self.phase(&id).ok_or_else(|| self.missing(&id))?;
        self.hang(Fault::HangsOnStop).await;
        if self.has(Fault::StopOnce) && phase == Phase::Stopped {
            return Err(Status::failed_precondition(format!("sandbox {id:?} is stopped")));
        }
        let there = if self.has(Fault::DeletesOnStop) {
            self.platform.delete(&id).await
        } else {
            self.platform.stop(&id).await
        };
        if there { Ok(Response::new(wire::StopSandboxResponse {})) } else { Err(self.missing(&id)) }
    }

    async fn start_sandbox(
        &self,
        request: Request<wire::StartSandboxRequest>,
    ) -> Result<Response<wire::StartSandboxResponse>, Status> {
        let request = request.into_inner();
        let id = request.sandbox_id;
        check::id(&id)?;
        let phase = self.phase(&id).ok_or_else(|| self.missing(&id))?;
        if let Some(mut spec) = request.sandbox.filter(|_| !self.stock).and_then(|sandbox| sandbox.spec) {
            self.platform.renew(&id, hide(&mut spec));
        }
        match phase {
            Phase::Starting | Phase::Running if self.has(Fault::StartOnce) => {
                return Err(Status::failed_precondition(format!("sandbox {id:?} runs")));
            }
            Phase::Starting | Phase::Running => {}
            Phase::Deleting => return Err(Status::failed_precondition(format!("sandbox {id:?} is being deleted"))),
            Phase::Stopping => {
                return Err(Status::failed_precondition(format!("sandbox {id:?} is being stopped; wait")));
            }
            Phase::Stopped if self.has(Fault::StartsNothing) => {}
            Phase::Stopped | Phase::Exited { .. } => self.platform.start(&id),
        }
        Ok(Response::new(wire::StartSandboxResponse {}))
    }

    async fn delete_sandbox(
        &self,
        request: Request<wire::DeleteSandboxRequest>,
    ) -> Result<Response<wire::DeleteSandboxResponse>, Status> {
        let id = request.into_inner().sandbox_id;
        check::id(&id).or_else(|status| if self.phase(&id).is_some() { Ok(()) } else { Err(status) })?;
        self.hang(Fault::HangsOnDelete).await;
        self.memory.extra.lock().retain(|extra| extra.id != id);
        if self.has(Fault::RefusesRepeatedDelete) && self.is_deleted(&id) {
            return Err(self.missing(&id));
        }
        if self.has(Fault::RefusesBusyDelete) {
            if self.phase(&id) == Some(Phase::Deleting) {
                return Err(Status::aborted(format!("sandbox {id:?} is being deleted")));
            }
            if self.phase(&id).is_some() {
                self.platform.announce_delete(&id);
                tokio::time::sleep(BUSY).await;
            }
        }
        if self.has(Fault::TellsDeletedEarly) {
            let looked = self.memory.listed.notified();
            self.platform.announce_delete(&id);
            // Over once somebody saw it, or nobody looks. Where nobody watches, nobody is told; nor of nothing.
            if self.memory.rumours.receiver_count() > 0 && self.phase(&id).is_some() {
                drop(tokio::time::timeout(EARLY, looked).await);
            }
        }
        let never = !self.is_deleted(&id);
        let there = self.platform.delete(&id).await;
        if !there && never {
            self.memory.early.lock().insert(id.clone());
            // A create that is still on its way comes too late.
            self.platform.change(|inner| inner.deleted.insert(id.clone()));
        }
        if there && self.has(Fault::Leaks) {
            self.platform.change(|inner| inner.left.push(format!("left-{id}")));
        }
        let deleted = if there { !self.has(Fault::DeniesDeletion) } else { never && self.has(Fault::ClaimsDeletion) };
        Ok(Response::new(wire::DeleteSandboxResponse { deleted }))
    }

    type WatchSandboxesStream = ReceiverStream<Result<wire::WatchSandboxesEvent, Status>>;

    async fn watch_sandboxes(
        &self,
        _: Request<wire::WatchSandboxesRequest>,
    ) -> Result<Response<Self::WatchSandboxesStream>, Status> {
        let capacity = if self.has(Fault::LosesWhenSlow) { 16 } else { 1 };
        let (sender, receiver) = tokio::sync::mpsc::channel(capacity);
        tokio::spawn(feed(self.clone(), sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn ensure_workspace(
        &self,
        request: Request<wire::EnsureWorkspaceRequest>,
    ) -> Result<Response<wire::EnsureWorkspaceResponse>, Status> {
        if self.stock {
            return Err(unknown("EnsureWorkspace"));
        }
        let workspace = request.into_inner().workspace;
        if workspace.is_empty() {
            return Err(Status::invalid_argument("workspace is empty; name it"));
        }
        let new = self.memory.workspaces.lock().insert(workspace.clone());
        if !new && self.has(Fault::EnsureOnce) {
            return Err(Status::already_exists(format!("workspace {workspace:?} is there")));
        }
        Ok(Response::new(wire::EnsureWorkspaceResponse {}))
    }

    async fn delete_workspace(
        &self,
        request: Request<wire::DeleteWorkspaceRequest>,
    ) -> Result<Response<wire::DeleteWorkspaceResponse>, Status> {
        if self.stock {
            return Err(unknown("DeleteWorkspace"));
        }
        self.memory.workspaces.lock().remove(&request.into_inner().workspace);
        Ok(Response::new(wire::DeleteWorkspaceResponse {}))
    }
}
