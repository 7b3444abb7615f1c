//! The listener and its life.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
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
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Sleep, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::Connected;

use crate::auth::{Auth, Mint, SameToken};
use crate::places::{From, Known, Place, Places};
use crate::service::{NoExits, Service};
use crate::session::Supervisors;

/// How much is read from a connection on which no call had a token that holds yet; then it waits. Enough for a first call.
const TRIAL: usize = 64 * 1024;
/// Calls of one connection at a time: a supervisor makes all its relays on one.
const CALLS: u32 = 512;
/// The largest message, in bytes, as the peer's own gateway takes it.
const MESSAGE: usize = 1024 * 1024;
/// How often a quiet connection is asked for a sign of life, and how long that may take.
const ALIVE: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(20));
/// What may be under way to us, per call and per connection. The library has no other for strangers: they are held back
/// below, by [`TRIAL`].
const WINDOWS: (u32, u32) = (256 * 1024, 4 * 1024 * 1024);
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
    /// How many such connections there may be at a time. One more, and one of those leaves that were there longest.
    pub strangers_at_once: usize,
    /// The same of one address that is not this machine's.
    pub strangers_of_one: usize,
    /// How many connections a sandbox may have whose calls had its token.
    pub connections_of_one: usize,
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
            strangers_at_once: 1024,
            strangers_of_one: 32,
            connections_of_one: 8,
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
    /// Holds the listener.
    accepting: Option<JoinHandle<()>>,
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
        // It ends with the server. The address is free, and the file of a socket gone, when it has.
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.await;
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
    let (listen, incoming, accepting) = bind(&options, &stop).await?;
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
    Ok(Handle { listen, stop, end, server: Some(server), accepting: Some(accepting), supervisors, service })
}

type Incoming = ReceiverStream<io::Result<Connection>>;

async fn bind(options: &Options, stop: &CancellationToken) -> Result<(Listen, Incoming, JoinHandle<()>), Error> {
    let (sender, receiver) = mpsc::channel(1);
    let (places, limits) = (Places::new(options.limits), options.limits);
    let (listen, listener) = match &options.listen {
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
            (Listen::Tcp(bound), Listener::Tcp(listener))
        }
        Listen::Unix(path) => {
            let access = Access {
                who: "supervisor",
                cure: "choose another path: [supervisor] listen",
                allowed: Arc::new(chiton_socket::own_and_root()),
                private: true,
            };
            let listener = PeerListener::bind(path, &access)?;
            (Listen::Unix(path.clone()), Listener::Unix(listener))
        }
    };
    let accepting = tokio::spawn(accept(listener, places, limits, sender, stop.clone()));
    Ok((listen, ReceiverStream::new(receiver), accepting))
}

enum Listener {
    Tcp(TcpListener),
    Unix(PeerListener),
}

async fn accept(
    listener: Listener,
    places: Arc<Places>,
    limits: Limits,
    to: mpsc::Sender<io::Result<Connection>>,
    stop: CancellationToken,
) {
    let accepting = async {
        loop {
            let (stream, from) = match &listener {
                Listener::Unix(listener) => (Stream::Unix(listener.accept().await), From::Here),
                Listener::Tcp(listener) => match listener.accept().await {
                    Ok((stream, from)) => {
                        // Keystrokes and their echoes are small: not to be held back for more. Without it they are slow.
                        let _ = stream.set_nodelay(true);
                        (Stream::Tcp(stream), From::address(from.ip()))
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a supervisor; trying again");
                        sleep(REST).await;
                        continue;
                    }
                },
            };
            let connection = Connection::new(stream, places.stranger(from), limits.strangers);
            if to.send(Ok(connection)).await.is_err() {
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

/// A connection and its place. Whoever reaches the port can take one: without a token that holds it is lost again soon,
/// and little is read from it.
struct Connection {
    stream: Stream,
    place: Place,
    /// When a stranger leaves.
    end: Pin<Box<Sleep>>,
    /// What may still be read from a stranger.
    trial: usize,
}

impl Connection {
    fn new(stream: Stream, place: Place, strangers: Duration) -> Self {
        Self { stream, place, end: Box::pin(sleep(strangers)), trial: TRIAL }
    }
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
        self.place.known()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.place.standing().is_known() {
            return either!(self, stream => Pin::new(stream).poll_read(context, into));
        }
        self.place.standing().register(context);
        if self.place.standing().has_ended() || self.end.as_mut().poll(context).is_ready() {
            // As if it had hung up.
            return Poll::Ready(Ok(()));
        }
        if self.place.standing().is_known() {
            return either!(self, stream => Pin::new(stream).poll_read(context, into));
        }
        let most = self.trial.min(into.remaining());
        if most == 0 {
            return Poll::Pending;
        }
        let mut piece = ReadBuf::new(into.initialize_unfilled_to(most));
        let read = either!(self.as_mut(), stream => Pin::new(stream).poll_read(context, &mut piece));
        let length = piece.filled().len();
        into.advance(length);
        self.trial -= length;
        read
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

#[cfg(test)]
mod tests;
