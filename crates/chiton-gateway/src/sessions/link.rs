//! One accepted connection.
//!
//! HTTP/2 costs tens of kilobytes of buffers on each side, and most sandboxes wait long for their first call, so a
//! connection stays bare until somebody asks for a client. Until then the agent has nothing to say: whatever becomes
//! readable is its end.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::{Channel, Endpoint};

use super::AgentClient;

/// How often a quiet connection in use is asked for a sign of life, and how long that may take. The end of a Unix socket
/// is seen without this; it finds an agent that hangs.
const ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));
/// What may be under way to us: per call, so that one slow reader stops only itself, and in all. The second is the first
/// times all calls that an agent takes at a time: less, and a few callers that do not read would stop every other.
const WINDOWS: (u32, u32) = (1024 * 1024, 256 * 1024 * 1024);
/// The largest frame that the agent may send: one of its reads should not be cut in four.
const FRAME: u32 = 64 * 1024;

/// A connection to an agent. Dropping it ends the connection, once no client is left.
pub(super) struct Link(Mutex<State>);

enum State {
    /// Asks the keeper for the connection.
    Idle(oneshot::Sender<oneshot::Sender<Io>>),
    Used(AgentClient),
    /// Only while the state changes, and when that failed.
    Ended,
}

impl Link {
    /// Takes a connection; the future resolves when it has ended, and must be driven. Cancelling `cut` ends it at once.
    pub(super) fn new(stream: UnixStream, cut: CancellationToken) -> (Self, impl Future<Output = ()> + Send) {
        let (ask, asked) = oneshot::channel();
        (Self(Mutex::new(State::Idle(ask))), keep(stream, asked, cut))
    }

    /// A client on this connection, or none when it has ended.
    pub(super) fn client(&self) -> Option<AgentClient> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *state, State::Ended) {
            State::Ended => None,
            State::Used(client) => {
                *state = State::Used(client.clone());
                Some(client)
            }
            State::Idle(ask) => {
                let (give, given) = oneshot::channel();
                ask.send(give).ok()?;
                let client = AgentClient::new(channel(given));
                *state = State::Used(client.clone());
                Some(client)
            }
        }
    }
}

/// Watches a connection to its end.
async fn keep(stream: UnixStream, asked: oneshot::Receiver<oneshot::Sender<Io>>, cut: CancellationToken) {
    let give = tokio::select! {
        give = asked => give,
        () = spoken(&stream) => return,
        () = cut.cancelled() => return,
    };
    // Otherwise the link was dropped: the connection is no longer wanted.
    let Ok(give) = give else { return };
    let (open, ended) = oneshot::channel();
    let io = Io { stream, cut: Box::pin(cut.cancelled_owned()), _open: open };
    // When the client is gone already, the connection ends right here. Else its owner drops it when it has ended; nothing
    // is ever sent.
    drop(give.send(io));
    let _ = ended.await;
}

/// Resolves when an idle connection has ended or broke the rule that it stays silent.
async fn spoken(stream: &UnixStream) {
    loop {
        let ready = stream.readable().await;
        match stream.try_read(&mut [0]) {
            Err(error) if ready.is_ok() && error.kind() == io::ErrorKind::WouldBlock => {}
            _ => return,
        }
    }
}

fn channel(given: oneshot::Receiver<Io>) -> Channel {
    let mut given = Some(given);
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        let given = given.take();
        async move {
            // One connection, ever: the agent dials, we cannot.
            let over = || io::Error::new(io::ErrorKind::NotConnected, "the agent's connection has ended");
            given.ok_or_else(over)?.await.map(TokioIo::new).map_err(|_| over())
        }
    });
    Endpoint::from_static("http://agent")
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .max_frame_size(FRAME)
        .http2_keep_alive_interval(ALIVE.0)
        .keep_alive_timeout(ALIVE.1)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(connector)
}

/// A connection that can be cut from outside and whose end can be seen.
struct Io {
    stream: UnixStream,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Dropped with the connection, which is how the keeper learns of its end.
    _open: oneshot::Sender<()>,
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.cut.as_mut().poll(context).is_ready() {
            // As if the other side had closed.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
