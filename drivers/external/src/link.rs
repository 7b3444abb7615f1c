//! The connection: looked at, greeted, given up when it breaks.

use std::sync::Arc;
use std::time::Duration;

use chiton_compute_wire::names::SERVICE;
use chiton_compute_wire::v1::GetCapabilitiesRequest;
use chiton_compute_wire::v1::compute_driver_client::ComputeDriverClient;
use chiton_compute_wire::{status, v1};
use chiton_driver::{CallError, CallResult, Capabilities};
use chiton_model::{Error, SandboxId};
use chiton_socket::Dial;
use parking_lot::Mutex;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::handshake::Handshake;
use crate::options::ExternalOptions;

/// How long a connection and its greeting may take.
const GREET: Duration = Duration::from_secs(5);
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

/// The way to the process.
pub(crate) struct Link {
    pub(crate) options: ExternalOptions,
    now: Mutex<Option<Arc<Greeted>>>,
    /// One dials, the others wait for it.
    dialling: tokio::sync::Mutex<()>,
    capabilities: Mutex<Arc<Capabilities>>,
}

impl Link {
    pub(crate) fn new(options: ExternalOptions) -> Self {
        let remembered = options.state_dir.as_deref().and_then(Handshake::load).unwrap_or_default();
        let capabilities = Mutex::new(Arc::new(remembered.capabilities(&options)));
        Self { options, now: Mutex::default(), dialling: tokio::sync::Mutex::default(), capabilities }
    }

    pub(crate) fn capabilities(&self) -> Arc<Capabilities> {
        Arc::clone(&self.capabilities.lock())
    }

    pub(crate) fn name(&self) -> &str {
        self.options.id.as_str()
    }

    /// The process, greeted.
    ///
    /// # Errors
    /// What keeps it from being reached; nothing was asked of it then.
    pub(crate) async fn greeted(&self) -> Result<Arc<Greeted>, Error> {
        if let Some(now) = self.now.lock().clone() {
            return Ok(now);
        }
        let _dialling = self.dialling.lock().await;
        if let Some(now) = self.now.lock().clone() {
            return Ok(now);
        }
        let fresh = Arc::new(self.greet().await?);
        if let Some(folder) = &self.options.state_dir {
            fresh.said.store(folder);
        }
        *self.capabilities.lock() = Arc::new(fresh.said.capabilities(&self.options));
        *self.now.lock() = Some(Arc::clone(&fresh));
        Ok(fresh)
    }

    async fn greet(&self) -> Result<Greeted, Error> {
        let dial = Dial {
            what: format!("driver {:?}", self.name()),
            path: self.options.socket.clone(),
            peers: self.options.peers.clone(),
            limit: GREET,
        };
        // The host is required by HTTP/2 and means nothing on a Unix socket.
        let endpoint = Endpoint::from_static("http://localhost")
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        let (channel, peer) = dial.channel(endpoint).await?;
        let mut client = ComputeDriverClient::new(channel.clone());
        let asked = timeout(GREET, client.get_capabilities(GetCapabilitiesRequest {})).await;
        let said = match asked {
            Ok(Ok(said)) => Handshake::new(&said.into_inner()),
            Ok(Err(status)) => {
                let error = status::error(self.name(), "ask for its capabilities", &status);
                return Err(Error::unavailable(self.name(), error.message)
                    .cure("see whether the process at that socket is a compute driver, and its log"));
            }
            Err(_) => return Err(self.silent("ask for its capabilities", GREET)),
        };
        let health = match timeout(GREET, health(&channel)).await {
            Ok(Ok(_)) => true,
            Ok(Err(status)) if status::was_answered(&status) => false,
            Ok(Err(_)) | Err(_) => return Err(self.silent("ask for its health", GREET)),
        };
        tracing::info!(
            driver = self.name(),
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

    /// Says why new sandboxes cannot be made on it now, if so.
    pub(crate) async fn check_health(&self) -> Result<(), Error> {
        let greeted = self.greeted().await?;
        if !greeted.health {
            return Ok(());
        }
        match timeout(GREET, health(&greeted.channel)).await {
            Ok(Ok(ServingStatus::NotServing)) => Err(Error::unavailable(
                self.name(),
                format!("driver {:?} says that it does not serve now", self.name()),
            )
            .cure("look at its log; it serves again when its health does")),
            Ok(Err(status)) if !status::was_answered(&status) => {
                Err(self.broken(&greeted, "ask for its health", &status).into_error())
            }
            Ok(_) => Ok(()),
            Err(_) => Err(self.silent("ask for its health", GREET)),
        }
    }

    /// Asks for something within a time.
    pub(crate) async fn call<T, F>(
        &self,
        doing: &str,
        limit: Duration,
        ask: impl FnOnce(Client) -> F,
    ) -> Result<T, Answer>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        // Nothing was sent to a process that cannot be reached.
        let greeted = self.greeted().await.map_err(|error| Answer::Ended(CallError::NotRun(error)))?;
        match timeout(limit, ask(greeted.client())).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) if status::was_answered(&status) => Err(Answer::Said(status)),
            Ok(Err(status)) => Err(Answer::Ended(self.broken(&greeted, doing, &status))),
            Err(_) => Err(Answer::Ended(CallError::Unknown(self.silent(doing, limit)))),
        }
    }

    /// A look by id; none when there is no such sandbox.
    pub(crate) async fn look(&self, id: &SandboxId) -> CallResult<Option<v1::DriverSandbox>> {
        let asked = v1::GetSandboxRequest { sandbox_id: id.to_string(), sandbox_name: String::new() };
        let doing = "look at the sandbox";
        let found =
            self.call(doing, self.options.deadlines.look, |mut client| async move { client.get_sandbox(asked).await });
        match found.await {
            Ok(found) => match found.sandbox {
                Some(sandbox) if sandbox.id == id.as_str() => Ok(Some(sandbox)),
                Some(sandbox) => Err(CallError::Unknown(Error::internal(format!(
                    "driver {:?} was asked for {id} and answered with {:?}",
                    self.name(),
                    sandbox.id
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
        let mut now = self.now.lock();
        if now.as_ref().is_some_and(|now| Arc::ptr_eq(now, greeted)) {
            *now = None;
        }
        let why = status.message().trim();
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

    fn silent(&self, doing: &str, limit: Duration) -> Error {
        Error::deadline(format!(
            "{doing}: driver {:?} at {:?} did not answer within {} s",
            self.name(),
            self.options.socket,
            limit.as_secs_f32()
        ))
        .cure("look at the driver's own log")
    }
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
