//! A process that forgets, behind a connection that lives.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use chiton_model::ExtensionName;
use chiton_socket::{Access, PeerListener, own_and_root};
use futures::Stream;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::mpsc::{Sender, channel};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use super::{Options, Process};
use crate::proto::extension_server::{Extension, ExtensionServer};
use crate::proto::{
    ConfigureExtensionRequest, ConfigureExtensionResponse, DescribeExtensionRequest, DescribeExtensionResponse,
    ExtensionHealthRequest, ExtensionHealthResponse, FenceRequest, FenceResponse, HeldRequest, HeldResponse,
    PrepareHookRequest, PrepareHookResponse, ReleaseRequest, ReleaseResponse, RunHookInput, RunHookOutput,
    ValidateHookRequest, ValidateHookResponse,
};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Default)]
struct Memory {
    made: u32,
    /// What it knows now, and who listens to its health.
    known: Option<String>,
    listener: Option<Sender<Result<ExtensionHealthResponse, Status>>>,
}

#[derive(Clone, Default)]
struct Forgetful(Arc<Mutex<Memory>>);

impl Forgetful {
    fn forget(&self) {
        let mut memory = self.0.lock();
        (memory.known, memory.listener) = (None, None);
    }
}

fn unasked<T>() -> Result<T, Status> {
    Err(Status::unimplemented("no test asks"))
}

#[tonic::async_trait]
impl Extension for Forgetful {
    type HealthStream = Answers<ExtensionHealthResponse>;
    type RunStream = Answers<RunHookOutput>;

    async fn describe(
        &self,
        request: Request<DescribeExtensionRequest>,
    ) -> Result<Response<DescribeExtensionResponse>, Status> {
        Ok(Response::new(DescribeExtensionResponse {
            name: request.into_inner().name,
            version: "1.0.0".to_owned(),
            summary: "Forgets".to_owned(),
            phases: vec!["validate_request".to_owned()],
            state_schema: 1,
            ..Default::default()
        }))
    }

    async fn configure(
        &self,
        _: Request<ConfigureExtensionRequest>,
    ) -> Result<Response<ConfigureExtensionResponse>, Status> {
        let mut memory = self.0.lock();
        memory.made += 1;
        let instance_id = memory.made.to_string();
        memory.known = Some(instance_id.clone());
        Ok(Response::new(ConfigureExtensionResponse { instance_id, issues: Vec::new() }))
    }

    async fn health(&self, request: Request<ExtensionHealthRequest>) -> Result<Response<Self::HealthStream>, Status> {
        let mut memory = self.0.lock();
        if memory.known != Some(request.into_inner().instance_id) {
            return Err(Status::not_found("no such instance"));
        }
        let (listener, states) = channel(1);
        drop(listener.try_send(Ok(ExtensionHealthResponse { healthy: true, ..Default::default() })));
        memory.listener = Some(listener);
        Ok(Response::new(Box::pin(ReceiverStream::new(states))))
    }

    async fn validate(&self, _: Request<ValidateHookRequest>) -> Result<Response<ValidateHookResponse>, Status> {
        unasked()
    }

    async fn prepare(&self, _: Request<PrepareHookRequest>) -> Result<Response<PrepareHookResponse>, Status> {
        unasked()
    }

    async fn run(&self, _: Request<Streaming<RunHookInput>>) -> Result<Response<Self::RunStream>, Status> {
        unasked()
    }

    async fn fence(&self, _: Request<FenceRequest>) -> Result<Response<FenceResponse>, Status> {
        unasked()
    }

    async fn held(&self, _: Request<HeldRequest>) -> Result<Response<HeldResponse>, Status> {
        unasked()
    }

    async fn release(&self, _: Request<ReleaseRequest>) -> Result<Response<ReleaseResponse>, Status> {
        unasked()
    }
}

fn serve(socket: &Path, extension: Forgetful) {
    let access = Access { who: "extension", cure: "", allowed: Arc::new(own_and_root()), private: false };
    let listener = PeerListener::bind(socket, &access).expect("a socket");
    let server = Server::builder().add_service(ExtensionServer::new(extension));
    tokio::spawn(async move { server.serve_with_incoming(listener.incoming()).await });
}

#[tokio::test]
async fn an_instance_that_its_process_forgot_is_made_anew_though_nobody_calls_a_hook() {
    let folder = tempfile::tempdir().expect("a folder");
    let (socket, extension) = (folder.path().join("socket"), Forgetful::default());
    serve(&socket, extension.clone());
    let name = ExtensionName::new("forgetful").expect("a name");
    let process = Process::start(Options { name, socket, peers: own_and_root() });
    process.kind(process.describe().await.expect("it answers"));
    let remote = process.instance(&json!({})).expect("a config");
    for made in 1..=3 {
        let well = async {
            while extension.0.lock().listener.is_none() || remote.instance.ill.lock().is_some() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), well).await.expect("well again");
        assert_eq!(extension.0.lock().made, made);
        assert_eq!(remote.reach().await.expect("reached").1, made.to_string());
        // As the process tells it: there is no such instance, and nothing else.
        remote.instance.ail("what the last life said".to_owned());
        extension.forget();
    }
}
