//! Calls, each with its deadline.

use std::time::Duration;

use chiton_compute_wire::status::was_answered;
use chiton_compute_wire::v1::compute_driver_client::ComputeDriverClient;
use chiton_compute_wire::v1::{self as wire, DriverSandbox, GetCapabilitiesResponse};
use chiton_socket::Dial;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use crate::options::Limits;
use crate::verdict::{Answer, Verdict, broken, said};

/// Between two tries to connect: a driver that restarts is away for a moment.
const PAUSE: Duration = Duration::from_millis(20);

/// Nobody resolves it.
const NOWHERE: &str = "http://driver.invalid";

/// A connection.
#[derive(Clone)]
pub(crate) struct Wire {
    pub(crate) channel: Channel,
    limits: Limits,
}

fn client(channel: &Channel) -> ComputeDriverClient<Channel> {
    // What a driver lists is as large as it is.
    ComputeDriverClient::new(channel.clone()).max_decoding_message_size(64 << 20)
}

impl Wire {
    /// Connects, with some patience for a driver that is just coming back.
    pub(crate) async fn connect(dial: &Dial, limits: Limits) -> Verdict<Self> {
        Self::connect_by(dial, limits, Endpoint::from_static(NOWHERE)).await
    }

    /// Connects with a window that holds about one event, so that who does not read is soon not sent to.
    pub(crate) async fn narrow(dial: &Dial, limits: Limits) -> Verdict<Self> {
        let endpoint = Endpoint::from_static(NOWHERE).initial_stream_window_size(1024);
        Self::connect_by(dial, limits, endpoint).await
    }

    async fn connect_by(dial: &Dial, limits: Limits, endpoint: Endpoint) -> Verdict<Self> {
        let end = Instant::now() + limits.dial;
        loop {
            match dial.channel(endpoint.clone()).await {
                Ok((channel, _)) => return Ok(Self { channel, limits }),
                Err(error) if Instant::now() >= end => {
                    let text = match &error.cure {
                        Some(cure) => format!("{}; {cure}", error.message),
                        None => error.message.clone(),
                    };
                    return Err(broken("the socket", "a driver that can be called", text));
                }
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    /// An answer; none when it does not come in time or the connection breaks.
    pub(crate) async fn answer<T>(
        &self,
        call: &str,
        limit: Duration,
        asked: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Verdict<Answer<T>> {
        match timeout(limit, asked).await {
            Err(_) => Err(broken(call, format!("an answer within {limit:?}"), "none")),
            Ok(Ok(answer)) => Ok(Ok(answer.into_inner())),
            Ok(Err(status)) if was_answered(&status) => Ok(Err(status)),
            Ok(Err(status)) => Err(broken(call, "an answer", format!("the connection broke: {}", said(&status)))),
        }
    }

    pub(crate) async fn capabilities(&self) -> Verdict<Answer<GetCapabilitiesResponse>> {
        let mut client = client(&self.channel);
        let asked = client.get_capabilities(wire::GetCapabilitiesRequest {});
        self.answer("GetCapabilities", self.limits.call, asked).await
    }

    pub(crate) async fn requirements(&self) -> Verdict<Answer<Vec<wire::GatewayListenerRequirement>>> {
        let mut client = client(&self.channel);
        let asked = client.get_gateway_listener_requirements(wire::GetGatewayListenerRequirementsRequest {});
        let answer = self.answer("GetGatewayListenerRequirements", self.limits.call, asked).await?;
        Ok(answer.map(|answer| answer.requirements))
    }

    pub(crate) async fn validate(&self, sandbox: Option<DriverSandbox>) -> Verdict<Answer> {
        let mut client = client(&self.channel);
        let asked = client.validate_sandbox_create(wire::ValidateSandboxCreateRequest { sandbox });
        Ok(self.answer("ValidateSandboxCreate", self.limits.create, asked).await?.map(drop))
    }

    pub(crate) async fn create(&self, sandbox: Option<DriverSandbox>) -> Verdict<Answer> {
        let mut client = client(&self.channel);
        let asked = client.create_sandbox(wire::CreateSandboxRequest { sandbox });
        Ok(self.answer("CreateSandbox", self.limits.create, asked).await?.map(drop))
    }

    pub(crate) async fn get(&self, id: &str, name: &str) -> Verdict<Answer<DriverSandbox>> {
        let mut client = client(&self.channel);
        let asked = client.get_sandbox(wire::GetSandboxRequest { sandbox_id: id.into(), sandbox_name: name.into() });
        match self.answer("GetSandbox", self.limits.call, asked).await? {
            Err(status) => Ok(Err(status)),
            Ok(wire::GetSandboxResponse { sandbox: Some(sandbox) }) => Ok(Ok(sandbox)),
            Ok(_) => Err(broken("GetSandbox", "a sandbox, or NOT_FOUND", "OK without a sandbox")),
        }
    }

    pub(crate) async fn list(&self) -> Verdict<Answer<Vec<DriverSandbox>>> {
        let mut client = client(&self.channel);
        let asked = client.list_sandboxes(wire::ListSandboxesRequest {});
        let answer = self.answer("ListSandboxes", self.limits.call, asked).await?;
        Ok(answer.map(|answer| answer.sandboxes))
    }

    pub(crate) async fn stop(&self, id: &str, name: &str) -> Verdict<Answer> {
        let mut client = client(&self.channel);
        let asked = client.stop_sandbox(wire::StopSandboxRequest { sandbox_id: id.into(), sandbox_name: name.into() });
        Ok(self.answer("StopSandbox", self.limits.act, asked).await?.map(drop))
    }

    /// `sandbox` is what a start carries to drivers that take it.
    pub(crate) async fn start(&self, id: &str, name: &str, sandbox: Option<DriverSandbox>) -> Verdict<Answer> {
        let mut client = client(&self.channel);
        let request = wire::StartSandboxRequest { sandbox_id: id.into(), sandbox_name: name.into(), sandbox };
        let asked = client.start_sandbox(request);
        Ok(self.answer("StartSandbox", self.limits.act, asked).await?.map(drop))
    }

    pub(crate) async fn delete(&self, id: &str, name: &str) -> Verdict<Answer<bool>> {
        let mut client = client(&self.channel);
        let request = wire::DeleteSandboxRequest { sandbox_id: id.into(), sandbox_name: name.into() };
        let asked = client.delete_sandbox(request);
        let answer = self.answer("DeleteSandbox", self.limits.delete, asked).await?;
        Ok(answer.map(|answer| answer.deleted))
    }

    pub(crate) async fn ensure_workspace(&self, workspace: &str) -> Verdict<Answer> {
        let mut client = client(&self.channel);
        let asked = client.ensure_workspace(wire::EnsureWorkspaceRequest { workspace: workspace.to_owned() });
        Ok(self.answer("EnsureWorkspace", self.limits.act, asked).await?.map(drop))
    }

    pub(crate) async fn delete_workspace(&self, workspace: &str) -> Verdict<Answer> {
        let mut client = client(&self.channel);
        let asked = client.delete_workspace(wire::DeleteWorkspaceRequest { workspace: workspace.to_owned() });
        Ok(self.answer("DeleteWorkspace", self.limits.act, asked).await?.map(drop))
    }

    /// Opens a watch. Some servers answer at the first event only, so that this may wait for one.
    pub(crate) async fn watch(&self) -> Result<tonic::Streaming<wire::WatchSandboxesEvent>, Status> {
        Ok(client(&self.channel).watch_sandboxes(wire::WatchSandboxesRequest {}).await?.into_inner())
    }
}
