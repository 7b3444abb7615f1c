//! The contract's calls.

use std::pin::Pin;

use chiton_compute_wire::names::{CONTRACT_VERSION, features};
use chiton_compute_wire::v1::compute_driver_server::ComputeDriver;
use chiton_compute_wire::v1::watch_sandboxes_event::Payload;
use chiton_compute_wire::v1::{self as wire, WatchSandboxesEvent};
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use crate::asked::checked;
use crate::driver::Driver;
use crate::sandbox::Sandbox;

type Answer<T> = Result<Response<T>, Status>;

fn unused<T>() -> Answer<T> {
    Err(Status::unimplemented("this driver has no use for it"))
}

#[tonic::async_trait]
impl ComputeDriver for Driver {
    async fn get_capabilities(
        &self,
        _: Request<wire::GetCapabilitiesRequest>,
    ) -> Answer<wire::GetCapabilitiesResponse> {
        Ok(Response::new(wire::GetCapabilitiesResponse {
            driver_name: "example-rust".to_owned(),
            driver_version: env!("CARGO_PKG_VERSION").to_owned(),
            default_image: "host".to_owned(),
            contract_version: CONTRACT_VERSION,
            plan_fields: ["env", "label", "resource"].map(str::to_owned).to_vec(),
            features: [(features::START_CARRIES_SANDBOX.to_owned(), true)].into(),
            backend_id: self.backend().to_owned(),
            ..wire::GetCapabilitiesResponse::default()
        }))
    }

    async fn get_gateway_listener_requirements(
        &self,
        _: Request<wire::GetGatewayListenerRequirementsRequest>,
    ) -> Answer<wire::GetGatewayListenerRequirementsResponse> {
        unused()
    }

    async fn validate_sandbox_create(
        &self,
        request: Request<wire::ValidateSandboxCreateRequest>,
    ) -> Answer<wire::ValidateSandboxCreateResponse> {
        checked(request.get_ref().sandbox.as_ref())?;
        Ok(Response::new(wire::ValidateSandboxCreateResponse {}))
    }

    async fn get_sandbox(&self, request: Request<wire::GetSandboxRequest>) -> Answer<wire::GetSandboxResponse> {
        let sandbox = Some(self.found(&request.get_ref().sandbox_id)?);
        Ok(Response::new(wire::GetSandboxResponse { sandbox }))
    }

    async fn list_sandboxes(&self, _: Request<wire::ListSandboxesRequest>) -> Answer<wire::ListSandboxesResponse> {
        let sandboxes = self.book().sandboxes.values().map(Sandbox::seen).collect();
        Ok(Response::new(wire::ListSandboxesResponse { sandboxes }))
    }

    async fn create_sandbox(
        &self,
        request: Request<wire::CreateSandboxRequest>,
    ) -> Answer<wire::CreateSandboxResponse> {
        let sandbox = request.into_inner().sandbox;
        let asked = checked(sandbox.as_ref())?;
        let spec = sandbox.and_then(|sandbox| sandbox.spec).unwrap_or_default();
        let id = asked.id.clone();
        self.act(&id, |driver| async move { driver.create(asked, &spec).await }).await?;
        Ok(Response::new(wire::CreateSandboxResponse {}))
    }

    async fn stop_sandbox(&self, request: Request<wire::StopSandboxRequest>) -> Answer<wire::StopSandboxResponse> {
        let id = request.into_inner().sandbox_id;
        self.act(&id.clone(), |driver| async move { driver.stop(&id).await }).await?;
        Ok(Response::new(wire::StopSandboxResponse {}))
    }

    async fn start_sandbox(&self, request: Request<wire::StartSandboxRequest>) -> Answer<wire::StartSandboxResponse> {
        let wire::StartSandboxRequest { sandbox_id: id, sandbox, .. } = request.into_inner();
        let asked = sandbox.is_some().then(|| checked(sandbox.as_ref())).transpose()?;
        if asked.as_ref().is_some_and(|asked| asked.id != id) {
            return Err(Status::invalid_argument("sandbox_id and sandbox.id are two"));
        }
        let spec = sandbox.and_then(|sandbox| sandbox.spec).unwrap_or_default();
        self.act(&id.clone(), |driver| async move { driver.start(&id, asked, &spec).await }).await?;
        Ok(Response::new(wire::StartSandboxResponse {}))
    }

    async fn delete_sandbox(
        &self,
        request: Request<wire::DeleteSandboxRequest>,
    ) -> Answer<wire::DeleteSandboxResponse> {
        let id = request.into_inner().sandbox_id;
        let deleted = self.act(&id.clone(), |driver| async move { driver.delete(&id).await }).await?;
        Ok(Response::new(wire::DeleteSandboxResponse { deleted }))
    }

    type WatchSandboxesStream = Pin<Box<dyn Stream<Item = Result<WatchSandboxesEvent, Status>> + Send>>;

    async fn watch_sandboxes(&self, _: Request<wire::WatchSandboxesRequest>) -> Answer<Self::WatchSandboxesStream> {
        let over = || Status::unavailable("this watch is over; watch anew");
        let book = self.book();
        let news = BroadcastStream::new(book.news.as_ref().ok_or_else(over)?.subscribe());
        let sandboxes = book
            .sandboxes
            .values()
            .map(|sandbox| Payload::Sandbox(wire::WatchSandboxesSandboxEvent { sandbox: Some(sandbox.seen()) }));
        let end = Payload::SnapshotEnd(wire::WatchSandboxesSnapshotEnd {});
        let first: Vec<_> = sandboxes.chain([end]).collect();
        let first = tokio_stream::iter(first.into_iter().map(|payload| WatchSandboxesEvent { payload: Some(payload) }));
        // It ends when the driver does, and when news came faster than they were read.
        let news = first.chain(news.map_while(Result::ok)).map(Ok);
        Ok(Response::new(Box::pin(news.chain(tokio_stream::once(Err(over()))))))
    }

    async fn ensure_workspace(
        &self,
        _: Request<wire::EnsureWorkspaceRequest>,
    ) -> Answer<wire::EnsureWorkspaceResponse> {
        unused()
    }

    async fn delete_workspace(
        &self,
        _: Request<wire::DeleteWorkspaceRequest>,
    ) -> Answer<wire::DeleteWorkspaceResponse> {
        unused()
    }
}
