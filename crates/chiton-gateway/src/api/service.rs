//! The service: every method authenticates, counts, translates in, asks, translates out.

use std::collections::BTreeMap;
use std::sync::Arc;

use chiton_lifecycle::{Engine, Request as EngineRequest, SandboxView, Selector};
use chiton_model::condition::kinds;
use chiton_model::{Condition, ConditionStatus, DriverId, Error, Principal, SandboxPhase};
use chiton_proto::agent::v1 as agent;
use chiton_proto::v1 as wire;
use chiton_proto::v1::gateway_server::Gateway;
use chiton_store::SqliteStore;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use jiff::Timestamp;
use tonic::{Request, Response, Status, Streaming};

use super::peer::principal;
use crate::metrics::Metrics;
use crate::sessions::Sessions;
use crate::world::Hub;
use chiton_client::to_status;

/// What the configuration says of a driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Configured {
    /// Whose agent it carries, by the word of its table.
    pub(crate) agent: Option<String>,
    /// Where it is, if it is external.
    pub(crate) socket: Option<String>,
}

/// Everything that the API asks.
#[derive(Clone)]
pub struct Api {
    pub(crate) engine: Engine,
    pub(crate) store: Arc<SqliteStore>,
    pub(crate) sessions: Sessions,
    pub(crate) hub: Hub,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) started_at: Timestamp,
    /// What the configuration says of drivers and they do not say themselves.
    pub(crate) configured: Arc<BTreeMap<DriverId, Configured>>,
    /// The configuration in force: key, value, origin.
    pub(crate) config: Arc<Vec<(String, String, String)>>,
}

type Answer<T> = Result<Response<T>, Status>;
type Stream<T> = BoxStream<'static, Result<T, Status>>;

impl Api {
    /// Counts the request and says who asks.
    pub(super) fn enter<T>(&self, request: &Request<T>) -> Result<Principal, Status> {
        self.metrics.request();
        principal(request.extensions())
    }

    /// The sandbox that a request selects.
    pub(super) async fn select(
        &self,
        selector: Option<wire::SandboxSelector>,
        all: bool,
    ) -> Result<SandboxView, Error> {
        let selector = super::convert::selector(selector)?;
        self.engine.get(&selector, all).await
    }

    /// A sandbox as callers see it: with what is wrong with its agent and its driver.
    pub(super) fn shown(&self, view: &SandboxView) -> wire::Sandbox {
        let mut shown = super::convert::sandbox(view);
        if view.record.phase == SandboxPhase::Ready
            && view.held.is_none()
            && let Some(trouble) = self.sessions.trouble(&view.record.id)
        {
            shown.conditions.push(super::convert::condition(&Condition {
                kind: kinds::DEGRADED.to_owned(),
                status: ConditionStatus::True,
                reason: trouble.reason().to_owned(),
                message: trouble.to_string(),
                last_transition: trouble.since(),
            }));
        }
        if !matches!(view.record.phase, SandboxPhase::Error | SandboxPhase::Deleted)
            && let Some(unreachable) = self.engine.unreachable_driver(&view.record.driver)
        {
            shown.conditions.push(super::convert::condition(&Condition {
                kind: kinds::DRIVER_UNREACHABLE.to_owned(),
                status: ConditionStatus::True,
                reason: "Unavailable".to_owned(),
                message: format!("the phase is the last one known: {}", unreachable.error),
                last_transition: unreachable.since,
            }));
        }
        shown
    }

    /// A sandbox by its row's id.
    pub(super) async fn view(&self, id: &chiton_model::SandboxId) -> Result<SandboxView, Error> {
        self.engine.get(&Selector::Id(id.clone()), true).await
    }
}

/// A request as the engine takes it.
pub(super) fn engine_request(principal: Principal, request_id: &str) -> EngineRequest {
    EngineRequest { principal, request_id: (!request_id.is_empty()).then(|| request_id.to_owned()) }
}

/// Answers with a value or with an error condition.
fn answer<T>(result: Result<T, Error>) -> Answer<T> {
    result.map(Response::new).map_err(|error| to_status(&error))
}

/// A method of the service: authenticate, then hand on to the method of the same name. Written out as `async_trait` writes
/// it, because that macro does not look into this one.
macro_rules! methods {
    ($($name:ident($request:ty) -> $response:ty;)+) => {
        $(
            fn $name<'a, 'async_trait>(&'a self, request: Request<$request>) -> BoxFuture<'async_trait, Answer<$response>>
            where
                'a: 'async_trait,
                Self: 'async_trait,
            {
                Box::pin(async move {
                    let principal = self.enter(&request)?;
                    answer(Api::$name(self, principal, request.into_inner()).await)
                })
            }
        )+
    };
}

impl Gateway for Api {
    type WatchSandboxesStream = Stream<wire::WatchSandboxesEvent>;
    type WaitOperationStream = Stream<wire::WaitOperationEvent>;
    type ExecSandboxStream = Stream<agent::ExecOutput>;
    type ReadFileStream = Stream<agent::FileChunk>;
    type ReadTarStream = Stream<agent::FileChunk>;
    type GetLogsStream = Stream<wire::LogChunk>;
    type PullImageStream = Stream<wire::PullImageEvent>;
    type BackupStream = Stream<wire::BackupPart>;

    methods! {
        get_info(wire::GetInfoRequest) -> wire::GetInfoResponse;
        create_sandbox(wire::CreateSandboxRequest) -> wire::OperationResponse;
        get_sandbox(wire::GetSandboxRequest) -> wire::Sandbox;
        list_sandboxes(wire::ListSandboxesRequest) -> wire::ListSandboxesResponse;
        start_sandbox(wire::SandboxRequest) -> wire::OperationResponse;
        stop_sandbox(wire::SandboxRequest) -> wire::OperationResponse;
        delete_sandbox(wire::DeleteSandboxRequest) -> wire::OperationResponse;
        stat(wire::ReadFileRequest) -> agent::StatResponse;
        plan_sandbox(wire::CreateSandboxRequest) -> wire::PlanSandboxResponse;
        explain_sandbox(wire::GetSandboxRequest) -> wire::ExplainSandboxResponse;
        get_timeline(wire::GetSandboxRequest) -> wire::GetTimelineResponse;
        list_obligations(wire::ListObligationsRequest) -> wire::ListObligationsResponse;
        discharge_obligation(wire::DischargeObligationRequest) -> wire::DischargeObligationResponse;
        list_orphans(wire::ListOrphansRequest) -> wire::ListOrphansResponse;
        adopt_orphan(wire::OrphanRequest) -> wire::OrphanResponse;
        delete_orphan(wire::OrphanRequest) -> wire::OrphanResponse;
        list_extensions(wire::ListExtensionsRequest) -> wire::ListExtensionsResponse;
        list_drivers(wire::ListDriversRequest) -> wire::ListDriversResponse;
        list_workspaces(wire::ListWorkspacesRequest) -> wire::ListWorkspacesResponse;
        delete_workspace(wire::DeleteWorkspaceRequest) -> wire::DeleteWorkspaceResponse;
        list_volumes(wire::ListVolumesRequest) -> wire::ListVolumesResponse;
        create_volume(wire::CreateVolumeRequest) -> wire::Volume;
        delete_volume(wire::DeleteVolumeRequest) -> wire::DeleteVolumeResponse;
        get_config(wire::GetConfigRequest) -> wire::GetConfigResponse;
        list_images(wire::ListImagesRequest) -> wire::ListImagesResponse;
        remove_image(wire::RemoveImageRequest) -> wire::RemoveImagesResponse;
        prune_images(wire::PruneImagesRequest) -> wire::RemoveImagesResponse;
        pull_image(wire::PullImageRequest) -> Stream<wire::PullImageEvent>;
        watch_sandboxes(wire::WatchSandboxesRequest) -> Stream<wire::WatchSandboxesEvent>;
        wait_operation(wire::WaitOperationRequest) -> Stream<wire::WaitOperationEvent>;
        read_file(wire::ReadFileRequest) -> Stream<agent::FileChunk>;
        read_tar(wire::ReadFileRequest) -> Stream<agent::FileChunk>;
        get_logs(wire::GetLogsRequest) -> Stream<wire::LogChunk>;
        backup(wire::BackupRequest) -> Stream<wire::BackupPart>;
        exec_sandbox(Streaming<wire::ExecSandboxRequest>) -> Stream<agent::ExecOutput>;
        write_file(Streaming<wire::WriteFileRequest>) -> agent::WriteFileResponse;
        write_tar(Streaming<wire::WriteTarRequest>) -> agent::WriteTarResponse;
    }
}
