//! The supervisor's calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use chiton_gateway::sessions::Exits;
use chiton_model::{Error, SandboxId};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Response, Status, Streaming};

use crate::auth::{Auth, Caller, Issued, Mint, bearer, digest};
use crate::places::Known;
use crate::policy;
use crate::relay;
use crate::session::Supervisors;
use crate::wire::open_shell_server::{OpenShell, OpenShellServer};
use crate::wire::sandbox::{GetSandboxConfigRequest, GetSandboxConfigResponse};
use crate::wire::supervisor_message::Payload;
use crate::wire::{
    GatewayMessage, GetSandboxProviderEnvironmentRequest, GetSandboxProviderEnvironmentResponse,
    IssueSandboxTokenRequest, IssueSandboxTokenResponse, PushSandboxLogsRequest, PushSandboxLogsResponse,
    RefreshSandboxTokenRequest, RefreshSandboxTokenResponse, RelayFrame, ReportMainProcessExitRequest,
    ReportMainProcessExitResponse, SupervisorMessage,
};

/// How long a stream's first message may take.
const FIRST: Duration = Duration::from_secs(10);
/// How long taking in an exit, or making a token, may take.
const WORK: Duration = Duration::from_secs(10);
/// The longest name of a supervisor's run, in bytes.
const INSTANCE: usize = 256;

/// Leaves exits to the driver's own reports.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoExits;

#[async_trait]
impl Exits for NoExits {
    async fn exited(&self, _: &SandboxId, _: &str, _: i32) -> Result<(), Error> {
        Ok(())
    }
}

#[derive(Clone)]
pub(crate) struct Service(Arc<Inner>);

struct Inner {
    auth: Auth,
    supervisors: Arc<Supervisors>,
    mint: Arc<dyn Mint>,
    exits: Arc<dyn Exits>,
    dropped: AtomicU64,
}

impl Service {
    pub(crate) fn new(auth: Auth, supervisors: Arc<Supervisors>, mint: Arc<dyn Mint>, exits: Arc<dyn Exits>) -> Self {
        Self(Arc::new(Inner { auth, supervisors, mint, exits, dropped: AtomicU64::new(0) }))
    }

    pub(crate) fn server(&self, message: usize) -> OpenShellServer<Self> {
        OpenShellServer::new(self.clone()).max_decoding_message_size(message)
    }

    pub(crate) fn dropped_log_lines(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Whether the caller's token is that of the sandbox it names.
    async fn caller(&self, metadata: &MetadataMap, extensions: &Extensions, sandbox: &str) -> Result<Caller, Status> {
        let caller = self.0.auth.of(metadata, sandbox).await?;
        Known::set(extensions, &caller.sandbox)?;
        Ok(caller)
    }

    async fn issue(&self, caller: &Caller, token: &str) -> Result<Issued, Status> {
        let made = timeout(WORK, self.0.mint.refresh(&caller.sandbox, token)).await;
        made.map_err(|_| Status::unavailable("no token could be made in time; ask again"))?
            .map_err(|error| Status::unavailable(format!("no token could be made: {error}")))
    }
}

/// The first message of a stream.
async fn first<T>(input: &mut Streaming<T>) -> Result<Option<T>, Status> {
    timeout(FIRST, input.message())
        .await
        .map_err(|_| Status::deadline_exceeded(format!("the stream's first message did not come within {FIRST:?}")))?
}

#[tonic::async_trait]
impl OpenShell for Service {
    type ConnectSupervisorStream = ReceiverStream<Result<GatewayMessage, Status>>;
    type RelayStreamStream = ReceiverStream<Result<RelayFrame, Status>>;

    async fn get_sandbox_config(
        &self,
        request: Request<GetSandboxConfigRequest>,
    ) -> Result<Response<GetSandboxConfigResponse>, Status> {
        self.caller(request.metadata(), request.extensions(), &request.get_ref().sandbox_id).await?;
        Ok(Response::new(policy::config()))
    }

    async fn get_sandbox_provider_environment(
        &self,
        request: Request<GetSandboxProviderEnvironmentRequest>,
    ) -> Result<Response<GetSandboxProviderEnvironmentResponse>, Status> {
        self.caller(request.metadata(), request.extensions(), &request.get_ref().sandbox_id).await?;
        // There are no providers, and that is a complete answer.
        Ok(Response::new(GetSandboxProviderEnvironmentResponse::default()))
    }

    async fn push_sandbox_logs(
        &self,
        request: Request<Streaming<PushSandboxLogsRequest>>,
    ) -> Result<Response<PushSandboxLogsResponse>, Status> {
        let (metadata, extensions, mut input) = request.into_parts();
        bearer(&metadata)?;
        // Batches may be large, and little is read from a stranger.
        if let Ok((caller, _)) = self.0.auth.known(&metadata).await {
            Known::set(&extensions, &caller.sandbox)?;
        }
        while let Some(batch) = input.message().await? {
            // Anew for each: the stream may outlive the start that its token is of.
            let caller = self.caller(&metadata, &extensions, &batch.sandbox_id).await?;
            let lines = batch.logs.len();
            self.0.dropped.fetch_add(lines as u64, Ordering::Relaxed);
            tracing::debug!(sandbox = %caller.sandbox, lines, "lines of a supervisor's log were dropped");
        }
        Ok(Response::new(PushSandboxLogsResponse {}))
    }

    async fn connect_supervisor(
        &self,
        request: Request<Streaming<SupervisorMessage>>,
    ) -> Result<Response<Self::ConnectSupervisorStream>, Status> {
        let (metadata, extensions, mut input) = request.into_parts();
        // Nobody without a token is listened to at all.
        bearer(&metadata)?;
        let Some(Payload::Hello(hello)) = first(&mut input).await?.and_then(|message| message.payload) else {
            return Err(Status::invalid_argument("the first message of a supervisor is its hello"));
        };
        if hello.instance_id.len() > INSTANCE {
            return Err(Status::invalid_argument(format!("instance_id has more than {INSTANCE} bytes")));
        }
        let caller = self.caller(&metadata, &extensions, &hello.sandbox_id).await?;
        self.0.supervisors.connect(caller, hello, input).await.map(Response::new)
    }

    async fn report_main_process_exit(
        &self,
        request: Request<ReportMainProcessExitRequest>,
    ) -> Result<Response<ReportMainProcessExitResponse>, Status> {
        let caller = self.caller(request.metadata(), request.extensions(), &request.get_ref().sandbox_id).await?;
        let report = request.into_inner();
        if report.instance_id.is_empty() {
            return Err(Status::invalid_argument("instance_id is empty; it says which run of the supervisor reports"));
        }
        // A run that was followed by another speaks of a process that was, too.
        let other = self.0.supervisors.session(&caller.sandbox);
        if other.is_some_and(|session| session.instance != report.instance_id) {
            return Err(Status::failed_precondition("another run of the supervisor is connected by now"));
        }
        let taken = timeout(WORK, self.0.exits.exited(&caller.sandbox, &caller.attempt, report.exit_code)).await;
        taken
            .map_err(|_| Status::unavailable("the exit could not be taken in in time; report it again"))?
            .map_err(|error| Status::unavailable(format!("the exit could not be taken in: {error}")))?;
        Ok(Response::new(ReportMainProcessExitResponse {}))
    }

    async fn relay_stream(
        &self,
        request: Request<Streaming<RelayFrame>>,
    ) -> Result<Response<Self::RelayStreamStream>, Status> {
        let (metadata, extensions, mut input) = request.into_parts();
        // The session's token was found to hold when it began; what is joined to it has to have the same.
        let digest = digest(bearer(&metadata)?);
        let channel = relay::channel(first(&mut input).await?)?;
        if let Some(sandbox) = self.0.supervisors.relays.asked_of(&channel, &digest) {
            Known::set(&extensions, &sandbox)?;
        }
        let joined = self.0.supervisors.relays.join(&channel, &digest, input)?;
        Ok(Response::new(joined))
    }

    async fn issue_sandbox_token(
        &self,
        request: Request<IssueSandboxTokenRequest>,
    ) -> Result<Response<IssueSandboxTokenResponse>, Status> {
        let (caller, token) = self.0.auth.known(request.metadata()).await?;
        let Issued { token, expires_at_ms } = self.issue(&caller, token).await?;
        Ok(Response::new(IssueSandboxTokenResponse { token, expires_at_ms }))
    }

    async fn refresh_sandbox_token(
        &self,
        request: Request<RefreshSandboxTokenRequest>,
    ) -> Result<Response<RefreshSandboxTokenResponse>, Status> {
        let (caller, token) = self.0.auth.known(request.metadata()).await?;
        if let Some(service) = request.get_ref().extension_service_names.first() {
            let text = format!("this gateway knows no service {service:?} beside it and gives no credentials for one");
            return Err(Status::invalid_argument(text));
        }
        let Issued { token, expires_at_ms } = self.issue(&caller, token).await?;
        Ok(Response::new(RefreshSandboxTokenResponse { token, expires_at_ms, extension_credentials: Vec::new() }))
    }
}
