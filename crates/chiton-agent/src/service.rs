//! The gRPC service: each call to the module that does it.

use std::sync::Arc;

use chiton_agent_proto::v1::agent_server::{Agent, AgentServer};
use chiton_agent_proto::v1::{
    ExecInput, ExecOutput, FileChunk, HealthRequest, HealthResponse, ReadFileRequest, ReadTarRequest, StatRequest,
    StatResponse, WriteFileRequest, WriteFileResponse, WriteTarRequest, WriteTarResponse,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::blocking::Blocking;
use crate::exec::Execs;
use crate::files;
use crate::processes::Processes;

type Stream<T> = ReceiverStream<Result<T, Status>>;

/// What the agent serves; it outlives connections.
#[derive(Clone, Debug)]
pub struct Service {
    execs: Arc<Execs>,
    processes: Processes,
    blocking: Blocking,
}

impl Service {
    /// A service over these programs.
    pub fn new(execs: Execs, processes: Processes) -> Self {
        Self { execs: Arc::new(execs), processes, blocking: Blocking::default() }
    }

    /// As something a connection can be served with.
    pub fn server(&self) -> AgentServer<Self> {
        AgentServer::new(self.clone())
    }
}

#[tonic::async_trait]
impl Agent for Service {
    type ExecStream = Stream<ExecOutput>;
    type ReadFileStream = Stream<FileChunk>;
    type ReadTarStream = Stream<FileChunk>;

    async fn exec(&self, request: Request<Streaming<ExecInput>>) -> Result<Response<Self::ExecStream>, Status> {
        self.execs.exec(request.into_inner()).await.map(Response::new)
    }

    async fn read_file(&self, request: Request<ReadFileRequest>) -> Result<Response<Self::ReadFileStream>, Status> {
        files::read_file(&self.blocking, &request.get_ref().path).await.map(Response::new)
    }

    async fn write_file(
        &self,
        request: Request<Streaming<WriteFileRequest>>,
    ) -> Result<Response<WriteFileResponse>, Status> {
        files::write_file(&self.blocking, request.into_inner()).await.map(Response::new)
    }

    async fn read_tar(&self, request: Request<ReadTarRequest>) -> Result<Response<Self::ReadTarStream>, Status> {
        files::read_tar(&self.blocking, &request.get_ref().path).await.map(Response::new)
    }

    async fn write_tar(
        &self,
        request: Request<Streaming<WriteTarRequest>>,
    ) -> Result<Response<WriteTarResponse>, Status> {
        files::write_tar(&self.blocking, request.into_inner()).await.map(Response::new)
    }

    async fn stat(&self, request: Request<StatRequest>) -> Result<Response<StatResponse>, Status> {
        files::stat(&self.blocking, &request.get_ref().path).await.map(Response::new)
    }

    async fn health(&self, _request: Request<HealthRequest>) -> Result<Response<HealthResponse>, Status> {
        let (running, reaped) = self.processes.counts();
        let running = u32::try_from(running).unwrap_or(u32::MAX);
        Ok(Response::new(HealthResponse { version: env!("CARGO_PKG_VERSION").to_owned(), running, reaped }))
    }
}
