//! The listener and its life.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use chiton_gateway::plugin::Serving;
use chiton_gateway::sessions::{Exits, Sessions, Tokens};
use chiton_gateway::{GuestContext, GuestKind, GuestServer, Listen};
use chiton_model::Error;
use chiton_socket::{Access, PeerListener, PeerStream};
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Sleep, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Extensions;
use tonic::transport::Server;
use tonic::transport::server::Connected;

use crate::auth::{Auth, Mint, SameToken};
use crate::service::{NoExits, Service};
use crate::session::Supervisors;

/// Connections at a time. More wait in the kernel.
const CONNECTIONS: usize = 4096;
/// Calls of one connection at a time: a supervisor makes all its relays on one.
const CALLS: u32 = 512;
/// The largest message, in bytes, as the peer's own gateway takes it.
const MESSAGE: usize = 1024 * 1024;
/// How often a quiet connection is asked for a sign of life, and how long that may take.
const ALIVE: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(20));
/// What may be under way to us, per call and per connection.
const WINDOWS: (u32, u32) = (1024 * 1024, 16 * 1024 * 1024);
/// How long a drain waits for connections to end by themselves.
const DRAIN: Duration = Duration::from_secs(8);
/// How long to leave a listener alone that cannot accept, as when no descriptor is left.
const REST: Duration = Duration::from_millis(100);

/// Numbers of the protocol.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Between two heartbeats; full seconds, at least one. After three without a word a supervisor is gone.
    pub heartbeat: Duration,
    /// Relays that supervisors were asked for and did not open yet, of all sandboxes.
    pub pending: usize,
    /// The same of one sandbox.
    pub pending_of_one: usize,
    /// How long a relay may be pending.
    pub relay: Duration,
    /// How long a connection may last on which no call had a token that holds.
    pub strangers: Duration,
}

impl Default for Limits {
    /// Those of the peer's own gateway; it bounds no strangers.
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(15),
            pending: 256,
            pending_of_one: 32,
            relay: Duration::from_secs(10),
            strangers: Duration::from_secs(30),
        }
    }
}

/// What the server is made of.
#[derive(Clone)]
pub struct Options {
    /// Where it listens.
    pub listen: Listen,
    /// Whether it may listen where other machines reach it, although tokens and all that programs say then pass the network
    /// in clear.
    pub allow_remote: bool,
    /// Numbers of the protocol.
    pub limits: Limits,
    /// Who makes tokens anew.
    pub mint: Arc<dyn Mint>,
    /// Who hears of main processes that ended.
    pub exits: Arc<dyn Exits>,
}

impl Options {
    /// The usual ones, for an address.
    pub fn new(listen: Listen) -> Self {
        Self {
            listen,
            allow_remote: false,
            limits: Limits::default(),
            mint: Arc::new(SameToken),
            exits: Arc::new(NoExits),
        }
    }
}

/// A server that runs. Dropping it ends it at once.
pub struct Handle {
    listen: Listen,
    /// No more connections.
    stop: CancellationToken,
    /// No more calls.
    end: CancellationToken,
    server: Option<JoinHandle<Result<(), tonic::transport::Error>>>,
    supervisors: Arc<Supervisors>,
    service: Service,
}

impl fmt::Debug for Handle {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Handle").field("listen", &self.listen).finish_non_exhaustive()
    }
}

impl Handle {
    /// Where it listens; with the port that the system chose when none was named.
    pub fn listen(&self) -> &Listen {
        &self.listen
    }

    /// How many lines of supervisors' logs came and were dropped.
    pub fn dropped_log_lines(&self) -> u64 {
        self.service.dropped_log_lines()
    }

    /// Takes no more connections, ends all sessions and waits for that, for a few seconds at most.
    pub async fn drain(mut self) {
        self.stop.cancel();
        let Some(mut server) = self.server.take() else { return };
        let ended = async {
            // Ending a program takes a call of its supervisor, so calls are taken until then.
            self.supervisors.drain().await;
            self.end.cancel();
            let _ = (&mut server).await;
        };
        if tokio::time::timeout(DRAIN, ended).await.is_err() {
            server.abort();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

/// As what a gateway plugs it in.
#[must_use]
pub fn openshell() -> GuestKind {
    GuestKind { name: "openshell", serve: serve_guests }
}

fn serve_guests(context: GuestContext) -> Serving {
    Box::pin(async move {
        let GuestContext { tokens, sessions, exits, listen, allow_remote } = context;
        let options = Options { allow_remote, exits, ..Options::new(listen) };
        let handle = serve(tokens, sessions, options).await?;
        Ok(Box::new(handle) as Box<dyn GuestServer>)
    })
}

impl GuestServer for Handle {
    fn listen(&self) -> Listen {
        self.listen.clone()
    }

    fn drain(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(Handle::drain(*self))
    }
}

/// Serves supervisors and presents those of admitted sandboxes to the hub, by the tokens that the hub itself asks. To be
/// called on a tokio runtime.
///
/// # Errors
/// `invalid` for an address that other machines reach without [`Options::allow_remote`], `unavailable` when it cannot be
/// listened on.
pub async fn serve(tokens: Arc<dyn Tokens>, hub: Sessions, options: Options) -> Result<Handle, Error> {
    let (stop, end) = (CancellationToken::new(), CancellationToken::new());
    let (listen, incoming) = bind(&options, &stop).await?;
    let supervisors = Arc::new(Supervisors::new(hub, options.limits));
    let service = Service::new(Auth::new(tokens), Arc::clone(&supervisors), options.mint, options.exits);
    let router = Server::builder()
        .max_concurrent_streams(CALLS)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .http2_keepalive_interval(Some(ALIVE.0))
        .http2_keepalive_timeout(Some(ALIVE.1))
        .add_service(service.server(MESSAGE));
    let server = tokio::spawn(router.serve_with_incoming_shutdown(incoming, end.clone().cancelled_owned()));
    tracing::info!(%listen, "supervisors are served");
    Ok(Handle { listen, stop, end, server: Some(server), supervisors, service })
}

type Incoming = ReceiverStream<io::Result<Connection>>;

async fn bind(options: &Options, stop: &CancellationToken) -> Result<(Listen, Incoming), Error> {
    let (sender, receiver) = mpsc::channel(1);
    let strangers = options.limits.strangers;
    let listen = match &options.listen {
        Listen::Tcp(address) => {
            if !address.ip().is_loopback() && !options.allow_remote {
                return Err(Error::invalid(
                    "listen",
                    format!("{address} is reached by other machines, and supervisors are served without TLS"),
                )
                .cure(
                    "listen on 127.0.0.1, put a proxy with TLS before it, or set allow_remote = true where the network \
                     between is trusted",
                ));
            }
            let unavailable = |error: io::Error| {
                Error::unavailable("supervisor", format!("cannot listen on {address}: {error}"))
                    .cure("choose another address: [supervisor] listen")
            };
            let listener = TcpListener::bind(address).await.map_err(unavailable)?;
            let bound = listener.local_addr().map_err(unavailable)?;
            tokio::spawn(accept(Listener::Tcp(listener), strangers, sender, stop.clone()));
            Listen::Tcp(bound)
        }
        Listen::Unix(path) => {
            let access = Access {
                who: "supervisor",
                cure: "choose another path: [supervisor] listen",
                allowed: Arc::new(chiton_socket::own_and_root()),
                private: true,
            };
            let listener = PeerListener::bind(path, &access)?;
            tokio::spawn(accept(Listener::Unix(listener), strangers, sender, stop.clone()));
            Listen::Unix(path.clone())
        }
    };
    Ok((listen, ReceiverStream::new(receiver)))
}

enum Listener {
    Tcp(TcpListener),
    Unix(PeerListener),
}

async fn accept(
    listener: Listener,
    strangers: Duration,
    to: mpsc::Sender<io::Result<Connection>>,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let accepting = async {
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let stream = match &listener {
                Listener::Unix(listener) => Stream::Unix(listener.accept().await),
                Listener::Tcp(listener) => match listener.accept().await {
                    Ok((stream, _)) => {
                        // Keystrokes and their echoes are small: not to be held back for more. Without it they are slow.
                        let _ = stream.set_nodelay(true);
                        Stream::Tcp(stream)
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a supervisor; trying again");
                        sleep(REST).await;
                        continue;
                    }
                },
            };
            if to
                .send(Ok(Connection {
                    stream,
                    known: Known::default(),
                    end: Box::pin(sleep(strangers)),
                    _place: place,
                }))
                .await
                .is_err()
            {
                return;
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = accepting => {}
    }
    // The server ends when it has no more connections to wait for; until then it takes calls.
    to.closed().await;
}

/// Whether a call on this connection had a token that holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known(Arc<AtomicBool>);

impl Known {
    /// From now on the connection stays.
    pub(crate) fn set(extensions: &Extensions) {
        if let Some(Self(known)) = extensions.get() {
            known.store(true, Ordering::Relaxed);
        }
    }
}

/// A connection and its place among all. Places are few, and whoever reaches the port can take one: without a token that
/// holds it is lost again soon.
struct Connection {
    stream: Stream,
    known: Known,
    end: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

enum Stream {
    Tcp(TcpStream),
    Unix(PeerStream),
}

/// Does the same with either kind.
macro_rules! either {
    ($connection:expr, $stream:ident => $call:expr) => {
        match &mut $connection.get_mut().stream {
            Stream::Tcp($stream) => $call,
            Stream::Unix($stream) => $call,
        }
    };
}

impl Connected for Connection {
    type ConnectInfo = Known;

    fn connect_info(&self) -> Known {
        self.known.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.known.0.load(Ordering::Relaxed) && self.end.as_mut().poll(context).is_ready() {
            // As if it had hung up.
            return Poll::Ready(Ok(()));
        }
        either!(self, stream => Pin::new(stream).poll_read(context, into))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write(context, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_shutdown(context))
    }
}
