//! Each call, by the table of composed drivers: a caller gives no second chance, so an answer of OK means that the work is
//! owned here.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use chiton_compute_wire::names::{CONTRACT_VERSION, features};
use chiton_compute_wire::status::to_status;
use chiton_compute_wire::v1::compute_driver_server::ComputeDriver;
use chiton_compute_wire::{v1, v1::DriverSandbox};
use chiton_driver::{Feature, Point};
use chiton_gateway::compose::Gateway;
use chiton_lifecycle::journal::{OperationOutcome, SandboxQuery};
use chiton_lifecycle::{Accepted, CreateRequest, Engine, Request as Asked, SandboxView, Selector};
use chiton_model::{Error, ErrorKind, Principal, SandboxId, SandboxName, SandboxPhase, WorkspaceName};
use chiton_socket::Peer;
use futures::Stream;
use jiff::Timestamp;
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::credentials::{Credentials, Handed};
use crate::gone::Gone;
use crate::request::{Reading, read};
use crate::show;

/// How long a stop waits for its end before it answers: less than any caller's patience.
const STOPPED: Duration = Duration::from_secs(50);
/// How many news wait for a slow watcher.
const BUFFER: usize = 64;

/// Looks so far, for ids that nobody has.
static LOOKS: AtomicU64 = AtomicU64::new(0);

type Answer<T> = Result<Response<T>, Status>;

/// What is served.
pub(crate) struct Driver {
    pub(crate) gateway: Gateway,
    pub(crate) name: String,
    pub(crate) credentials: Credentials,
    pub(crate) gone: Gone,
    pub(crate) reading: Reading,
    /// Whether the base driver brings Chiton's agent.
    pub(crate) chiton_agent: bool,
    /// Whether the caller stops its sandboxes when it ends and starts them again.
    pub(crate) manages: bool,
    /// The phases that its chain goes through.
    pub(crate) phases: Vec<String>,
    /// The base driver, which knows where sandboxes call.
    pub(crate) calling: Arc<dyn chiton_driver::ComputeDriver>,
    pub(crate) draining: CancellationToken,
    pub(crate) turns: Turns,
}

/// Creates and deletes of one id come one after another: a delete that came in the middle of a create that is not stored
/// yet would find nothing to delete.
#[derive(Default)]
pub(crate) struct Turns(parking_lot::Mutex<HashMap<SandboxId, Weak<Mutex<()>>>>);

impl Turns {
    async fn take(&self, id: &SandboxId) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock();
            turns.retain(|_, turn| turn.strong_count() > 0);
            let turn = turns.get(id).and_then(Weak::upgrade).unwrap_or_default();
            turns.insert(id.clone(), Arc::downgrade(&turn));
            turn
        };
        turn.lock_owned().await
    }
}

/// The service, cheap to clone.
#[derive(Clone)]
pub(crate) struct Service(pub(crate) Arc<Driver>);

/// Who is at the other end of the socket.
fn caller<T>(request: &Request<T>) -> Result<Peer, Status> {
    request.extensions().get::<Peer>().copied().ok_or_else(|| Status::unauthenticated("the peer is not known"))
}

/// The same as the engine has it: a user.
fn asks(caller: Peer) -> Asked {
    let principal = Principal { subject: format!("uid:{}", caller.uid), claims: std::collections::BTreeMap::new() };
    Asked { principal, request_id: None }
}

fn status(error: impl std::borrow::Borrow<Error>) -> Status {
    to_status(error.borrow())
}

fn absent(id: &str) -> Error {
    Error::not_found(format!("there is no sandbox {id:?}"))
}

/// A stop that was begun and failed. It was no refusal, whatever its last step says: what it has done is not known.
fn unconfirmed(id: &SandboxId, error: Error) -> Error {
    let text = format!("sandbox {id} may still run: {}", error.message);
    let told = match error.kind {
        ErrorKind::Deadline => Error::deadline(text),
        _ => Error::unavailable("driver", text),
    };
    told.cure(error.cure.unwrap_or_else(|| "stop it again, or delete it".to_owned()))
}

/// An error of what was not done.
fn refusal(error: Error) -> Error {
    match error.kind {
        ErrorKind::Invalid { .. } | ErrorKind::AlreadyExists | ErrorKind::Refused { .. } => error,
        _ => Error { kind: ErrorKind::Refused { by: "driver".to_owned() }, ..error },
    }
}

/// Does it to its end, whatever becomes of the call that asked for it: what holds a turn or hands over credentials is not
/// left in the middle.
async fn owned<T: Send + 'static>(work: impl Future<Output = Result<T, Error>> + Send + 'static) -> Result<T, Status> {
    let done = tokio::spawn(work).await;
    done.unwrap_or_else(|_| Err(Error::internal("the task that owned the call ended early"))).map_err(status)
}

/// The same request under a name that nobody else has.
fn of_its_own(create: &CreateRequest, id: &SandboxId) -> Result<CreateRequest, Error> {
    let name = create.name.as_ref().map_or("sandbox", |name| name.as_str());
    let tail = &id.as_str()[id.as_str().len().saturating_sub(20)..];
    let name = format!("{:.40}-{}", name, tail.trim_start_matches('-'));
    Ok(CreateRequest { name: Some(SandboxName::new(name)?), ..create.clone() })
}

impl Driver {
    pub(crate) fn engine(&self) -> &Engine {
        self.gateway.engine()
    }

    /// A sandbox that is there, by id or, where there is none, by name.
    async fn find(&self, id: &str, name: &str) -> Result<SandboxView, Error> {
        if id.is_empty() {
            if name.is_empty() {
                return Err(Error::invalid("sandbox_id", "sandbox_id is missing").cure("send the sandbox's id"));
            }
            let page = self.engine().list(&SandboxQuery::default()).await?;
            let found = page.views.into_iter().find(|view| view.record.name.as_str() == name);
            return found.ok_or_else(|| absent(name));
        }
        let known = self.engine().get(&Selector::Id(SandboxId::new(id)?), true).await;
        match known {
            Ok(view) if view.record.phase == SandboxPhase::Deleted => Err(absent(id)),
            Err(error) if error.kind == ErrorKind::NotFound => Err(absent(id)),
            known => known,
        }
    }

    /// Whether it is known that there is nothing of this id on the platform.
    pub(crate) async fn is_absent(&self, id: &SandboxId) -> bool {
        matches!(self.find(id.as_str(), "").await, Err(error) if error.kind == ErrorKind::NotFound)
    }

    /// Whether a create of this id is none, because it is there already.
    async fn repeated(&self, id: &SandboxId) -> Result<bool, Error> {
        let refuse = |why: String, cure: &str| Err(Error::refused("driver", why).cure(cure));
        if self.gone.has(id) {
            return refuse(format!("sandbox {id} was deleted; an id is never used again"), "use a fresh id");
        }
        match self.find(id.as_str(), "").await {
            Ok(view) => match view.record.phase {
                SandboxPhase::Error => {
                    let cause = view.record.failure.map(|failure| failure.to_string()).unwrap_or_default();
                    refuse(format!("sandbox {id} could not be created: {cause}"), "delete it and use a fresh id")
                }
                SandboxPhase::Deleting => refuse(format!("sandbox {id} is being deleted"), "use a fresh id"),
                _ => Ok(true),
            },
            Err(error) if error.kind == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn show(&self, view: &SandboxView) -> Option<DriverSandbox> {
        show::sandbox(&view.record, self.credentials.attempt(&view.record.id).as_deref())
    }

    /// What goes wrong before the intent is stored is a refusal, whatever kind it is: nothing was done, and a caller that
    /// took it for an unknown outcome would wait for what never comes.
    async fn create(&self, caller: Peer, sandbox: Option<DriverSandbox>) -> Result<(), Error> {
        let (create, id, handed) = read(sandbox, &self.reading, caller.uid)?;
        let _turn = self.turns.take(&id).await;
        if self.repeated(&id).await? {
            return Ok(());
        }
        self.credentials.hand(&id, handed);
        let other = of_its_own(&create, &id);
        let mut created = self.engine().create(asks(caller), create).await;
        // To the contract a name is no identity; here it is one, so another sandbox that has it gives way to nobody.
        if matches!(&created, Err(error) if error.kind == ErrorKind::AlreadyExists)
            && self.find(id.as_str(), "").await.is_err()
        {
            created = self.engine().create(asks(caller), other?).await;
        }
        match created {
            Ok(_) => Ok(()),
            Err(error) => {
                let found = self.find(id.as_str(), "").await;
                // Another call may have made it in the same moment.
                if matches!(&found, Ok(view) if view.record.phase != SandboxPhase::Error) {
                    return Ok(());
                }
                self.credentials.forget(&id);
                match found {
                    Err(absent) if absent.kind == ErrorKind::NotFound => Err(refusal(error)),
                    _ => Err(error),
                }
            }
        }
    }

    /// A look at what would be made. Its secrets are only looked for, under an id that nobody has.
    async fn validate(&self, caller: Peer, sandbox: Option<DriverSandbox>) -> Result<(), Error> {
        let (mut create, _, handed) = read(sandbox, &self.reading, caller.uid)?;
        let id = SandboxId::new(format!("look-{}", LOOKS.fetch_add(1, Ordering::Relaxed)))?;
        for (variable, reference) in &mut create.spec.secrets {
            *reference = Credentials::reference(&id, variable);
        }
        self.credentials.hand(&id, Handed { secrets: handed.secrets, ..Handed::default() });
        let planned = self.engine().plan(&asks(caller).principal, &create).await;
        self.credentials.forget(&id);
        planned.map(drop)
    }

    async fn start(&self, caller: Peer, request: v1::StartSandboxRequest) -> Result<(), Error> {
        let view = self.find(&request.sandbox_id, &request.sandbox_name).await?;
        let id = view.record.id;
        let running =
            matches!(view.record.phase, SandboxPhase::Ready | SandboxPhase::Provisioning | SandboxPhase::Starting);
        if running {
            return Ok(());
        }
        if let Some(sandbox) = request.sandbox {
            let (_, carried, handed) = read(Some(sandbox), &self.reading, caller.uid)?;
            if carried != id {
                return Err(Error::invalid("sandbox.id", format!("{carried} is carried to the start of {id}"))
                    .cure("send the sandbox that is to be started"));
            }
            self.credentials.hand(&id, handed);
        }
        self.engine().start(asks(caller), id).await.map(drop)
    }

    async fn stop(&self, caller: Peer, request: v1::StopSandboxRequest) -> Result<(), Error> {
        let view = self.find(&request.sandbox_id, &request.sandbox_name).await?;
        let over = matches!(view.record.phase, SandboxPhase::Stopped | SandboxPhase::Completed);
        if view.record.phase == SandboxPhase::Error || over && !show::may_run(&view.record) {
            return Ok(());
        }
        let id = view.record.id;
        let Accepted { operation, .. } = self.engine().stop(asks(caller), id.clone()).await?;
        let Some(operation) = operation else { return Ok(()) };
        let Ok(ended) = timeout(STOPPED, self.engine().wait(&operation)).await else {
            return Err(Error::deadline(format!("sandbox {id} is not stopped yet; its stop goes on"))
                .cure("watch it, or stop it again"));
        };
        match ended?.outcome {
            Some(OperationOutcome::Failed(error)) => Err(unconfirmed(&id, error)),
            _ => Ok(()),
        }
    }

    async fn delete(&self, caller: Peer, request: v1::DeleteSandboxRequest) -> Result<bool, Error> {
        let _turn = match request.sandbox_id.as_str() {
            "" => None,
            id => Some(self.turns.take(&SandboxId::new(id)?).await),
        };
        let id = match self.find(&request.sandbox_id, &request.sandbox_name).await {
            Ok(view) => view.record.id,
            Err(error) if error.kind == ErrorKind::NotFound => {
                if !request.sandbox_id.is_empty() {
                    // Its create may still be on its way.
                    let (id, now) = (SandboxId::new(request.sandbox_id)?, Timestamp::now());
                    self.gone.add(&id, now)?;
                    self.gone.absent(&id, now);
                }
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        self.gone.add(&id, Timestamp::now())?;
        match self.engine().delete(asks(caller), id.clone(), false).await {
            Ok(_) => {}
            // It went in between.
            Err(error) if error.kind == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        self.credentials.forget(&id);
        Ok(true)
    }

    async fn describe(&self) -> Result<v1::GetCapabilitiesResponse, Error> {
        let base = self.engine().drivers().find(|driver| driver.capabilities().id == self.reading.base);
        let base = base.ok_or_else(|| Error::internal("the base driver is gone"))?;
        let installation = timeout(base.deadlines().look, base.backend_id()).await;
        // Without it a caller would take the sandboxes for another installation's.
        let installation = installation
            .map_err(|_| Error::unavailable(&self.name, "the base driver does not answer"))?
            .map_err(chiton_driver::CallError::into_error)?;
        let capabilities = base.capabilities();
        let points = [Point::Env, Point::Label, Point::Resource];
        let points = points.into_iter().filter(|point| capabilities.points.contains(point));
        let features = [
            (features::START_CARRIES_SANDBOX, true),
            (features::CHITON_AGENT, self.chiton_agent),
            (features::SECRET_ENVIRONMENT, self.chiton_agent),
            (features::WORKSPACES, capabilities.features.contains(&Feature::Workspaces)),
        ];
        Ok(v1::GetCapabilitiesResponse {
            driver_name: self.name.clone(),
            driver_version: capabilities.version.clone(),
            default_image: capabilities.default_image.clone(),
            gateway_manages_lifecycle: self.manages,
            contract_version: CONTRACT_VERSION,
            lifecycle_phases: self.phases.clone(),
            plan_fields: points.map(|point| point.as_str().to_owned()).collect(),
            features: features.into_iter().map(|(name, can)| (name.to_owned(), can)).collect(),
            backend_id: format!("{}/{installation}", self.engine().store().gateway),
        })
    }
}

#[tonic::async_trait]
impl ComputeDriver for Service {
    async fn get_capabilities(&self, _: Request<v1::GetCapabilitiesRequest>) -> Answer<v1::GetCapabilitiesResponse> {
        self.0.describe().await.map(Response::new).map_err(status)
    }

    async fn get_gateway_listener_requirements(
        &self,
        _: Request<v1::GetGatewayListenerRequirementsRequest>,
    ) -> Answer<v1::GetGatewayListenerRequirementsResponse> {
        let listeners = self.0.calling.gateway_listeners().await.map_err(|error| status(error.into_error()))?;
        let requirements = listeners.into_iter().map(show::listener).collect();
        Ok(Response::new(v1::GetGatewayListenerRequirementsResponse { requirements }))
    }

    async fn validate_sandbox_create(
        &self,
        request: Request<v1::ValidateSandboxCreateRequest>,
    ) -> Answer<v1::ValidateSandboxCreateResponse> {
        let (caller, driver) = (caller(&request)?, Arc::clone(&self.0));
        owned(async move { driver.validate(caller, request.into_inner().sandbox).await }).await?;
        Ok(Response::new(v1::ValidateSandboxCreateResponse {}))
    }

    async fn get_sandbox(&self, request: Request<v1::GetSandboxRequest>) -> Answer<v1::GetSandboxResponse> {
        let request = request.into_inner();
        let view = self.0.find(&request.sandbox_id, &request.sandbox_name).await.map_err(status)?;
        let sandbox = self.0.show(&view).ok_or_else(|| status(absent(&request.sandbox_id)))?;
        Ok(Response::new(v1::GetSandboxResponse { sandbox: Some(sandbox) }))
    }

    async fn list_sandboxes(&self, _: Request<v1::ListSandboxesRequest>) -> Answer<v1::ListSandboxesResponse> {
        let query = SandboxQuery { all: true, ..SandboxQuery::default() };
        let page = self.0.engine().list(&query).await.map_err(status)?;
        let sandboxes = page.views.iter().filter_map(|view| self.0.show(view)).collect();
        Ok(Response::new(v1::ListSandboxesResponse { sandboxes }))
    }

    async fn create_sandbox(&self, request: Request<v1::CreateSandboxRequest>) -> Answer<v1::CreateSandboxResponse> {
        let (caller, driver) = (caller(&request)?, Arc::clone(&self.0));
        owned(async move { Box::pin(driver.create(caller, request.into_inner().sandbox)).await }).await?;
        Ok(Response::new(v1::CreateSandboxResponse {}))
    }

    async fn stop_sandbox(&self, request: Request<v1::StopSandboxRequest>) -> Answer<v1::StopSandboxResponse> {
        let caller = caller(&request)?;
        self.0.stop(caller, request.into_inner()).await.map_err(status)?;
        Ok(Response::new(v1::StopSandboxResponse {}))
    }

    async fn start_sandbox(&self, request: Request<v1::StartSandboxRequest>) -> Answer<v1::StartSandboxResponse> {
        let (caller, driver) = (caller(&request)?, Arc::clone(&self.0));
        owned(async move { driver.start(caller, request.into_inner()).await }).await?;
        Ok(Response::new(v1::StartSandboxResponse {}))
    }

    async fn delete_sandbox(&self, request: Request<v1::DeleteSandboxRequest>) -> Answer<v1::DeleteSandboxResponse> {
        let (caller, driver) = (caller(&request)?, Arc::clone(&self.0));
        let deleted = owned(async move { driver.delete(caller, request.into_inner()).await }).await?;
        Ok(Response::new(v1::DeleteSandboxResponse { deleted }))
    }

    type WatchSandboxesStream = Pin<Box<dyn Stream<Item = Result<v1::WatchSandboxesEvent, Status>> + Send>>;

    async fn watch_sandboxes(&self, _: Request<v1::WatchSandboxesRequest>) -> Answer<Self::WatchSandboxesStream> {
        let (out, stream) = mpsc::channel(BUFFER);
        tokio::spawn(crate::watch::tell(Arc::clone(&self.0), out));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    /// The chain's part is done before the first sandbox of a workspace, where nothing can forget it.
    async fn ensure_workspace(
        &self,
        request: Request<v1::EnsureWorkspaceRequest>,
    ) -> Answer<v1::EnsureWorkspaceResponse> {
        WorkspaceName::new(request.into_inner().workspace).map_err(status)?;
        Ok(Response::new(v1::EnsureWorkspaceResponse {}))
    }

    async fn delete_workspace(
        &self,
        request: Request<v1::DeleteWorkspaceRequest>,
    ) -> Answer<v1::DeleteWorkspaceResponse> {
        let caller = caller(&request)?;
        let workspace = WorkspaceName::new(request.into_inner().workspace).map_err(status)?;
        match self.0.engine().delete_workspace(asks(caller).principal, workspace).await {
            Ok(()) => {}
            Err(error) if error.kind == ErrorKind::NotFound => {}
            Err(error) => return Err(status(error)),
        }
        Ok(Response::new(v1::DeleteWorkspaceResponse {}))
    }
}
