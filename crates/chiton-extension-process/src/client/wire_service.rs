//! HTTP/2 over one connection whose end is seen.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::UnixStream;
use tonic::body::Body;
use tower::Service;

/// How often a connection is asked for a sign of life, and how long that may take: a process that was stopped, or whose
/// runtime hangs, is noticed within their sum.
const ALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));

/// Sends calls.
#[derive(Clone)]
pub(super) struct Wire(http2::SendRequest<Body>);

impl Wire {
    /// Greets. The second part is the connection itself: it resolves when that has ended, and must be driven.
    pub(super) async fn over(
        stream: UnixStream,
    ) -> Result<(Self, impl Future<Output = Result<(), hyper::Error>> + Send), hyper::Error> {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(ALIVE.0)
            .keep_alive_timeout(ALIVE.1)
            .keep_alive_while_idle(true);
        let (send, connection) = builder.handshake(TokioIo::new(stream)).await?;
        Ok((Self(send), connection))
    }
}

impl Service<http::Request<Body>> for Wire {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
