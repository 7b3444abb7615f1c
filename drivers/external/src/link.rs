//! The connection: looked at, greeted, given up when it breaks.

use std::sync::Arc;
use std::time::Duration;

use chiton_compute_wire::names::{SERVICE, features};
use chiton_compute_wire::text::{MESSAGE, NAME, told};
use chiton_compute_wire::v1::GetCapabilitiesRequest;
use chiton_compute_wire::v1::compute_driver_client::ComputeDriverClient;
use chiton_compute_wire::{status, v1};
use chiton_driver::{CallError, CallResult, Capabilities, WhoseAgent};
use chiton_model::{Error, SandboxId};
use chiton_socket::Dial;
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::handshake::Handshake;
use crate::listeners;
use crate::options::ExternalOptions;

/// How long a connection and its greeting may take together; less where a look has to be shorter.
const GREET: Duration = Duration::from_secs(5);
/// How long a question may take without whose answer the greeting goes on.
const ASIDE: Duration = Duration::from_secs(3);
/// How long the failure of a dial is kept at most.
const CLOSED: Duration = Duration::from_secs(1);
/// How much earlier than the engine a call is ended here at most.
const MARGIN: Duration = Duration::from_millis(500);
/// A process that does not answer a ping for this long is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// The largest answer: a list of some thousand sandboxes.
const LARGEST: usize = 64 << 20;

pub(crate) type Client = ComputeDriverClient<Channel>;

/// A process that was greeted.
#[derive(Debug)]
pub(crate) struct Greeted {
    channel: Channel,
    pub(crate) said: Handshake,
    /// The user that it runs as.
    pub(crate) uid: u32,
    /// Whether it serves `grpc.health.v1`.
    health: bool,
}

impl Greeted {
    pub(crate) fn client(&self) -> Client {
        ComputeDriverClient::new(self.channel.clone()).max_decoding_message_size(LARGEST)
    }
}

/// What is known of the way to the process.
#[derive(Clone)]
enum Way {
    /// Nobody has dialled, or the connection broke.
    Open,
    /// Somebody dials; all who come meanwhile share the outcome.
    Dialling(Dialling),
    Here(Arc<Greeted>),
    /// Who comes before this moment is answered as the last one was.
    Closed(Error, Instant),
}

type Dialling = Shared<BoxFuture<'static, Result<Arc<Greeted>, Error>>>;

/// What the process said of itself last.
struct Known {
    said: Handshake,
    capabilities: Arc<Capabilities>,
}

impl Known {
    fn new(said: Handshake, options: &ExternalOptions) -> Self {
        let capabilities = Arc::new(said.capabilities(options));
        Self { said, capabilities }
    }
}

/// The way to the process.
pub(crate) struct Link {
    pub(crate) options: Arc<ExternalOptions>,
    way: Arc<Mutex<Way>>,
    known: Arc<Mutex<Known>>,
}

impl Link {
    pub(crate) fn new(options: ExternalOptions) -> Self {
        let remembered = options.state_dir.as_deref().and_then(Handshake::load).unwrap_or_default();
        let known = Arc::new(Mutex::new(Known::new(remembered, &options)));
        Self { options: Arc::new(options), way: Arc::new(Mutex::new(Way::Open)), known }
    }

    pub(crate) fn capabilities(&self) -> Arc<Capabilities> {
        Arc::clone(&self.known.lock().capabilities)
    }

    pub(crate) fn name(&self) -> &str {
        self.options.id.as_str()
    }

    /// The process, greeted. One dials for all who ask, and that it failed is kept for a moment: a process that hangs costs
    /// nobody more than one dial's time.
    ///
    /// # Errors
    /// What keeps it from being reached; nothing was asked of it then.
    pub(crate) async fn greeted(&self) -> Result<Arc<Greeted>, Error> {
        let dialling = {
            let mut way = self.way.lock();
            match &*way {
                Way::Here(greeted) => return Ok(Arc::clone(greeted)),
                Way::Closed(error, until) if Instant::now() < *until => return Err(error.clone()),
                Way::Dialling(dialling) => dialling.clone(),
                Way::Open | Way::Closed(..) => {
                    let dialling = self.dial();
                    *way = Way::Dialling(dialling.clone());
                    dialling
                }
            }
        };
        dialling.await
    }

    /// Dials on a task of its own: that one caller gives up is no reason for the others to begin anew.
    fn dial(&self) -> Dialling {
        let (options, known) = (Arc::clone(&self.options), Arc::clone(&self.known));
        let (way, left) = (Arc::clone(&self.way), Arc::clone(&self.way));
        let task = tokio::spawn(async move {
            let began = Instant::now();
            let greeted = greet(&options).await.map(Arc::new);
            *way.lock() = match &greeted {
                Ok(fresh) => {
                    *known.lock() = Known::new(fresh.said.clone(), &options);
                    Way::Here(Arc::clone(fresh))
                }
                // As long as it took to find out: who is refused at once may ask again at once.
                Err(error) => Way::Closed(error.clone(), Instant::now() + began.elapsed().min(CLOSED)),
            };
            if let (Ok(fresh), Some(folder)) = (&greeted, &options.state_dir) {
                fresh.said.store(folder);
            }
            greeted
        });
        let ended = async move {
            task.await.unwrap_or_else(|error| {
                *left.lock() = Way::Open;
                Err(Error::internal(format!("the dial ended early: {error}")))
            })
        };
        ended.boxed().shared()
    }

    /// Whether its starts take credentials; what it said last when it is away.
    pub(crate) async fn renews(&self) -> bool {
        let greeted = self.greeted().await;
        let said = greeted.map_or_else(|_| self.known.lock().said.clone(), |greeted| greeted.said.clone());
        said.can(features::START_CARRIES_SANDBOX)
    }

    /// Says why new sandboxes cannot be made on it now, if so.
    pub(crate) async fn check_health(&self, limit: Duration) -> Result<(), Error> {
        let greeted = self.greeted().await?;
        if !greeted.health {
            return Ok(());
        }
        let limit = own(limit).min(GREET);
        match timeout(limit, health(&greeted.channel)).await {
            Ok(Ok(ServingStatus::NotServing)) => Err(Error::unavailable(
                self.name(),
                format!("driver {:?} says that it does not serve now", self.name()),
            )
            .cure("look at its log; it serves again when its health does")),
            Ok(Err(status)) if !status::was_answered(&status) => {
                Err(self.broken(&greeted, "ask for its health", &status).into_error())
            }
            Ok(_) => Ok(()),
            Err(_) => Err(silent(&self.options, "ask for its health", limit)),
        }
    }

    /// Asks for something within a time, which the way to the process is a part of. What ends here ends a little earlier
    /// than whoever gave it that time would end it, and says more.
    pub(crate) async fn call<T, F>(
        &self,
        doing: &str,
        limit: Duration,
        ask: impl FnOnce(Client) -> F,
    ) -> Result<T, Answer>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let (limit, end) = (own(limit), Instant::now() + own(limit));
        let late = || silent(&self.options, doing, limit);
        // Nothing was sent to a process that cannot be reached.
        let greeted = timeout_at(end, self.greeted()).await.unwrap_or_else(|_| Err(late()));
        let greeted = greeted.map_err(|error| Answer::Ended(CallError::NotRun(error)))?;
        match timeout_at(end, ask(greeted.client())).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) if status::was_answered(&status) => Err(Answer::Said(status)),
            Ok(Err(status)) => Err(Answer::Ended(self.broken(&greeted, doing, &status))),
            Err(_) => Err(Answer::Ended(CallError::Unknown(late()))),
        }
    }

    /// A look by id; none when there is no such sandbox.
    pub(crate) async fn look(&self, id: &SandboxId, limit: Duration) -> CallResult<Option<v1::DriverSandbox>> {
        let asked = v1::GetSandboxRequest { sandbox_id: id.to_string(), sandbox_name: String::new() };
        let doing = "look at the sandbox";
        let found = self.call(doing, limit, |mut client| async move { client.get_sandbox(asked).await });
        match found.await {
            Ok(found) => match found.sandbox {
                Some(sandbox) if sandbox.id == id.as_str() => Ok(Some(sandbox)),
                Some(sandbox) => Err(CallError::Unknown(Error::internal(format!(
                    "driver {:?} was asked for {id} and answered with {:?}",
                    self.name(),
                    told(&sandbox.id, NAME)
                )))),
                None => Err(CallError::Unknown(Error::internal(format!(
                    "driver {:?} was asked for {id} and answered with nothing",
                    self.name()
                )))),
            },
            Err(Answer::Said(status)) if status.code() == tonic::Code::NotFound => Ok(None),
            Err(answer) => Err(answer.outcome(self.name(), doing)),
        }
    }

    /// The connection is of no use any more. The next call dials again.
    pub(crate) fn broken(&self, greeted: &Arc<Greeted>, doing: &str, status: &Status) -> CallError {
        let mut way = self.way.lock();
        if matches!(&*way, Way::Here(now) if Arc::ptr_eq(now, greeted)) {
            *way = Way::Open;
        }
        drop(way);
        let why = told(status.message(), MESSAGE);
        CallError::Unknown(
            Error::unavailable(
                self.name(),
                format!(
                    "{doing}: the connection to driver {:?} at {:?} broke: {why}",
                    self.name(),
                    self.options.socket
                ),
            )
            .cure("see whether it still runs; it is dialled again by itself"),
        )
    }
}

/// The time that is used of a limit which somebody else holds, too.
pub(crate) fn own(limit: Duration) -> Duration {
    limit.saturating_sub((limit / 20).min(MARGIN))
}

fn silent(options: &ExternalOptions, doing: &str, limit: Duration) -> Error {
    Error::deadline(format!(
        "{doing}: driver {:?} at {:?} did not answer within {} s",
        options.id.as_str(),
        options.socket,
        limit.as_secs_f32()
    ))
    .cure("look at the driver's own log")
}

/// Dials and asks what it is, all of it within one time.
async fn greet(options: &ExternalOptions) -> Result<Greeted, Error> {
    let name = options.id.as_str();
    let limit = own(options.deadlines.look).min(GREET);
    let end = Instant::now() + limit;
    let dial =
        Dial { what: format!("driver {name:?}"), path: options.socket.clone(), peers: options.peers.clone(), limit };
    // The host is required by HTTP/2 and means nothing on a Unix socket.
    let endpoint =
        Endpoint::from_static("http://localhost").http2_keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE);
    let dialled = timeout_at(end, dial.channel(endpoint)).await;
    let (channel, peer) = dialled.unwrap_or_else(|_| Err(silent(options, "dial", limit)))?;
    let mut client = ComputeDriverClient::new(channel.clone());
    let asked = timeout_at(end, client.get_capabilities(GetCapabilitiesRequest {})).await;
    let said = match asked {
        Ok(Ok(said)) => Handshake::new(&said.into_inner()),
        Ok(Err(status)) => {
            let error = status::error(name, "ask for its capabilities", &status);
            return Err(Error::unavailable(name, format!("{} (at {:?})", error.message, options.socket))
                .cure("see whether the process at that socket is a compute driver, and its log"));
        }
        Err(_) => return Err(silent(options, "ask for its capabilities", limit)),
    };
    let health = match timeout_at(end, health(&channel)).await {
        Ok(Ok(_)) => true,
        Ok(Err(status)) if status::was_answered(&status) => false,
        Ok(Err(_)) | Err(_) => return Err(silent(options, "ask for its health", limit)),
    };
    listeners(options, &mut client, end).await;
    tracing::info!(
        driver = name,
        name = said.name,
        version = said.version,
        contract = said.contract,
        uid = peer.uid,
        pid = peer.pid,
        health,
        "driver greeted"
    );
    Ok(Greeted { channel, said, uid: peer.uid, health })
}

/// How a call ended that gave no result.
pub(crate) enum Answer {
    /// The driver's word.
    Said(Status),
    /// Nobody answered.
    Ended(CallError),
}

impl Answer {
    pub(crate) fn outcome(self, driver: &str, doing: &str) -> CallError {
        match self {
            Self::Said(said) => status::outcome(driver, doing, &said),
            Self::Ended(error) => error,
        }
    }
}

/// Tells the operator where supervisors will not find the gateway. A driver is used all the same: the question is optional,
/// and who forwards what to where is not known here.
async fn listeners(options: &ExternalOptions, client: &mut Client, end: Instant) {
    let (WhoseAgent::Openshell, Some(listen)) = (options.agent, options.supervisors) else { return };
    let driver = options.id.as_str();
    let asked = client.get_gateway_listener_requirements(v1::GetGatewayListenerRequirementsRequest {});
    match timeout_at(end.min(Instant::now() + ASIDE), asked).await {
        Ok(Ok(answer)) => {
            for Error { message, cure, .. } in listeners::unmet(driver, &answer.into_inner().requirements, listen) {
                tracing::warn!(driver, cure = cure.unwrap_or_default(), "{message}");
            }
        }
        Ok(Err(status)) if status::is_unimplemented(&status) => {}
        Ok(Err(status)) => {
            let error = told(status.message(), MESSAGE);
            tracing::warn!(driver, error, "the driver does not say where its supervisors call");
        }
        Err(_) => tracing::warn!(driver, "the driver does not say in time where its supervisors call"),
    }
}

async fn health(channel: &Channel) -> Result<ServingStatus, Status> {
    let mut client = HealthClient::new(channel.clone());
    let mut ask = async |service: &str| {
        let request = Request::new(HealthCheckRequest { service: service.to_owned() });
        client.check(request).await.map(tonic::Response::into_inner)
    };
    let said: HealthCheckResponse = match ask(SERVICE).await {
        // It knows the protocol and not the service's name: what it says of itself as a whole counts.
        Err(status) if status.code() == tonic::Code::NotFound => ask("").await?,
        said => said?,
    };
    Ok(said.status())
}
