//! A supervisor by the book: it dials TCP with its token, says hello, beats, and answers each request for a relay by a call
//! of its own on the same connection, whose bytes go to an SSH server.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use chiton_openshell_session::wire::gateway_message::Payload as FromGateway;
use chiton_openshell_session::wire::open_shell_client::OpenShellClient;
use chiton_openshell_session::wire::supervisor_message::Payload as ToGateway;
use chiton_openshell_session::wire::{
    GatewayMessage, RelayFrame, RelayInit, RelayOpenResult, SessionAccepted, SupervisorHeartbeat, SupervisorHello,
    SupervisorMessage, relay_frame, relay_open,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use crate::rig::soon;
use crate::ssh_server;

/// Puts the token on every call.
#[derive(Clone)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(bearer) = &self.0 {
            request.metadata_mut().insert("authorization", bearer.clone());
        }
        Ok(request)
    }
}

pub(crate) type Client = OpenShellClient<InterceptedService<Channel, Bearer>>;

/// A client as the supervisor makes it; without a token when that is empty.
pub(crate) async fn client(endpoint: &str, token: &str) -> Client {
    let channel = Endpoint::from_shared(endpoint.to_owned())
        .expect("an endpoint")
        .connect_timeout(Duration::from_secs(10))
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        .http2_adaptive_window(true)
        .connect()
        .await
        .expect("the gateway answers");
    let bearer = (!token.is_empty()).then(|| format!("Bearer {token}").parse().expect("a header"));
    OpenShellClient::with_interceptor(channel, Bearer(bearer))
}

/// What it does when it is asked for a relay.
#[derive(Clone)]
pub(crate) enum Answer {
    Open,
    /// Says nothing and opens nothing.
    Nothing,
    /// Says that it cannot.
    Fail,
}

#[derive(Clone)]
pub(crate) struct Script {
    pub(crate) instance: String,
    pub(crate) answer: Answer,
    pub(crate) beats: bool,
    /// The home folder of its programs.
    pub(crate) home: PathBuf,
}

/// A supervisor whose session was accepted. Dropping it ends it and all its connections.
pub(crate) struct Supervisor {
    pub(crate) client: Client,
    pub(crate) accepted: SessionAccepted,
    /// The channels it was asked to open.
    pub(crate) asked: watch::Receiver<Vec<String>>,
    pub(crate) beats: Arc<AtomicU32>,
    session: JoinHandle<()>,
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.session.abort();
    }
}

impl Supervisor {
    /// Dials and says hello; gives why the gateway did not accept it.
    pub(crate) async fn dial(endpoint: &str, token: &str, sandbox: &str, script: Script) -> Result<Self, String> {
        let mut client = client(endpoint, token).await;
        let (to, messages) = mpsc::channel(64);
        let say = |payload| SupervisorMessage { payload: Some(payload) };
        let hello = SupervisorHello { sandbox_id: sandbox.to_owned(), instance_id: script.instance.clone() };
        to.send(say(ToGateway::Hello(hello))).await.expect("room");
        let answered = soon(client.connect_supervisor(ReceiverStream::new(messages))).await;
        let mut from = answered.map_err(|status| status.to_string())?.into_inner();
        let first = soon(from.message()).await.map_err(|status| status.to_string())?.expect("a first message");
        let accepted = match first.payload {
            Some(FromGateway::SessionAccepted(accepted)) => accepted,
            Some(FromGateway::SessionRejected(rejected)) => return Err(rejected.reason),
            other => panic!("{other:?} is no answer to a hello"),
        };
        let (asking, asked) = watch::channel(Vec::new());
        let beats = Arc::new(AtomicU32::new(0));
        let session = tokio::spawn(run(client.clone(), script, to, from, asking, Arc::clone(&beats)));
        Ok(Self { client, accepted, asked, beats, session })
    }

    /// Resolves when the gateway has ended the session.
    pub(crate) async fn ended(mut self) {
        soon(&mut self.session).await.expect("no panic");
    }

    /// Waits until it was asked for so many relays.
    pub(crate) async fn asked_for(&mut self, count: usize) -> Vec<String> {
        soon(self.asked.wait_for(|asked| asked.len() >= count)).await.expect("it lives").clone()
    }
}

async fn run(
    client: Client,
    script: Script,
    to: mpsc::Sender<SupervisorMessage>,
    mut from: Streaming<GatewayMessage>,
    asking: watch::Sender<Vec<String>>,
    beats: Arc<AtomicU32>,
) {
    // One a second, so that tests need not wait for what the gateway proposes.
    let mut beat = tokio::time::interval(Duration::from_millis(500));
    loop {
        let message = tokio::select! {
            message = from.message() => message,
            _ = beat.tick() => {
                if script.beats {
                    let heartbeat = SupervisorMessage { payload: Some(ToGateway::Heartbeat(SupervisorHeartbeat {})) };
                    drop(to.send(heartbeat).await);
                }
                continue;
            }
        };
        let Ok(Some(message)) = message else { return };
        match message.payload {
            Some(FromGateway::Heartbeat(_)) => {
                beats.fetch_add(1, Ordering::Relaxed);
            }
            Some(FromGateway::RelayOpen(open)) => {
                assert!(matches!(open.target, Some(relay_open::Target::Ssh(_))), "{open:?}");
                asking.send_modify(|asked| asked.push(open.channel_id.clone()));
                match script.answer {
                    Answer::Nothing => {}
                    Answer::Fail => {
                        let error = "no SSH server is there".to_owned();
                        let result = RelayOpenResult { channel_id: open.channel_id, success: false, error };
                        drop(to.send(SupervisorMessage { payload: Some(ToGateway::RelayOpenResult(result)) }).await);
                    }
                    Answer::Open => {
                        let result = RelayOpenResult {
                            channel_id: open.channel_id.clone(),
                            success: true,
                            error: String::new(),
                        };
                        drop(to.send(SupervisorMessage { payload: Some(ToGateway::RelayOpenResult(result)) }).await);
                        tokio::spawn(relay(client.clone(), open.channel_id, script.home.clone()));
                    }
                }
            }
            Some(FromGateway::RelayClose(_)) => {}
            other => panic!("{other:?} has no place here"),
        }
    }
}

/// Joins a relay and an SSH server, byte by byte.
async fn relay(mut client: Client, channel: String, home: PathBuf) {
    let (target, server) = UnixStream::pair().expect("a pair");
    tokio::spawn(ssh_server::serve(server, home));
    let (to, frames) = mpsc::channel(16);
    to.send(init(channel)).await.expect("room");
    let Ok(answered) = client.relay_stream(ReceiverStream::new(frames)).await else { return };
    let mut inbound = answered.into_inner();
    let (mut from_server, mut to_server) = target.into_split();
    let outwards = tokio::spawn(async move {
        let mut piece = vec![0; 16 * 1024];
        while let Ok(length @ 1..) = from_server.read(&mut piece).await {
            let frame = RelayFrame { payload: Some(relay_frame::Payload::Data(piece[..length].to_vec().into())) };
            if to.send(frame).await.is_err() {
                break;
            }
        }
    });
    while let Ok(Some(frame)) = inbound.message().await {
        let Some(relay_frame::Payload::Data(data)) = frame.payload else { break };
        if to_server.write_all(&data).await.is_err() {
            break;
        }
    }
    drop(to_server.shutdown().await);
    drop(outwards.await);
}

pub(crate) fn init(channel: String) -> RelayFrame {
    RelayFrame { payload: Some(relay_frame::Payload::Init(RelayInit { channel_id: channel })) }
}
