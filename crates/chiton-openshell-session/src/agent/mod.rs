//! Our agent's protocol, carried out by a supervisor of another make.

mod exec;
mod files;
mod mark;
mod tree;

use std::sync::Arc;

use chiton_proto::agent::v1::agent_server::{Agent, AgentServer};
use chiton_proto::agent::v1::{
    ExecInput, ExecOutput, FileChunk, HealthRequest, HealthResponse, ReadFileRequest, ReadTarRequest, StatRequest,
    StatResponse, WriteFileRequest, WriteFileResponse, WriteTarRequest, WriteTarResponse,
};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::session::{Session, Supervisors};

/// Calls of the gateway at a time, as our agent takes them.
const STREAMS: u32 = 256;
/// What may be under way to us, per call and in all.
const WINDOWS: (u32, u32) = (1024 * 1024, 16 * 1024 * 1024);

type Stream<T> = ReceiverStream<Result<T, Status>>;

/// Serves our agent's protocol on the gateway's end of a session, until that ends.
pub(crate) async fn serve(supervisors: Arc<Supervisors>, session: Arc<Session>, stream: UnixStream) {
    // Our side of HTTP/2 begins with the gateway's first byte, as its hub has it: until then a word of ours would be an
    // agent that breaks the rules.
    spoken_to(&stream).await;
    let service = AgentServer::new(Bridge { supervisors, session });
    let connection = http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    // How it ends makes no difference: the session is over.
    let _ = connection.await;
}

/// Resolves at the gateway's first byte or the connection's end, and takes nothing of it.
async fn spoken_to(stream: &UnixStream) {
    loop {
        let ready = stream.readable().await;
        let look = || Ok(recv(stream, &mut [0_u8][..], RecvFlags::PEEK)?);
        match stream.try_io(Interest::READABLE, look) {
            Err(error) if ready.is_ok() && error.kind() == std::io::ErrorKind::WouldBlock => {}
            _ => return,
        }
    }
}

/// One session as an agent.
#[derive(Clone)]
struct Bridge {
    supervisors: Arc<Supervisors>,
    session: Arc<Session>,
}

#[tonic::async_trait]
impl Agent for Bridge {
    type ExecStream = Stream<ExecOutput>;
    type ReadFileStream = Stream<FileChunk>;
    type ReadTarStream = Stream<FileChunk>;

    async fn exec(&self, request: Request<Streaming<ExecInput>>) -> Result<Response<Self::ExecStream>, Status> {
        exec::exec(self, request.into_inner()).await.map(Response::new)
    }

    async fn read_file(&self, request: Request<ReadFileRequest>) -> Result<Response<Self::ReadFileStream>, Status> {
        files::read_file(self, &request.get_ref().path).await.map(Response::new)
    }

    async fn write_file(
        &self,
        request: Request<Streaming<WriteFileRequest>>,
    ) -> Result<Response<WriteFileResponse>, Status> {
        files::write_file(self, request.into_inner()).await.map(Response::new)
    }

    async fn read_tar(&self, request: Request<ReadTarRequest>) -> Result<Response<Self::ReadTarStream>, Status> {
        tree::read_tar(self, &request.get_ref().path).await.map(Response::new)
    }

    async fn write_tar(
        &self,
        request: Request<Streaming<WriteTarRequest>>,
    ) -> Result<Response<WriteTarResponse>, Status> {
        tree::write_tar(self, request.into_inner()).await.map(Response::new)
    }

    async fn stat(&self, request: Request<StatRequest>) -> Result<Response<StatResponse>, Status> {
        files::stat(self, &request.get_ref().path).await.map(Response::new)
    }

    async fn health(&self, _: Request<HealthRequest>) -> Result<Response<HealthResponse>, Status> {
        // The supervisor has no such question. Its heartbeats came, or this session would be over.
        Ok(Response::new(HealthResponse {
            version: "openshell".to_owned(),
            running: self.session.running(),
            reaped: 0,
        }))
    }
}
