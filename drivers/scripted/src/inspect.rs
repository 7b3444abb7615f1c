//! Looks at a request's bytes before they are decoded: what generated code forgives, some faults do not.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use chiton_compute_wire::v1::{CreateSandboxRequest, GetSandboxRequest};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use prost::Message;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::fault::{Fault, Faults};
use crate::serve::Crash;

/// A gRPC message begins with its compression and its length.
const HEAD: usize = 5;

#[derive(Clone)]
pub(crate) struct Inspect {
    pub(crate) faults: Arc<Faults>,
    pub(crate) crash: Crash,
}

impl<S> Layer<S> for Inspect {
    type Service = Inspected<S>;

    fn layer(&self, inner: S) -> Inspected<S> {
        Inspected { inner, inspect: self.clone() }
    }
}

#[derive(Clone)]
pub(crate) struct Inspected<S> {
    inner: S,
    inspect: Inspect,
}

impl<S> Service<Request<Body>> for Inspected<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let Inspect { faults, crash } = self.inspect.clone();
        let wanted = faults.has(Fault::RefusesUnknownFields) || faults.has(Fault::CrashesOnGarbage);
        let read = match request.uri().path().rsplit('/').next() {
            Some("CreateSandbox") if wanted => known::<CreateSandboxRequest>,
            Some("GetSandbox") if wanted => known::<GetSandboxRequest>,
            _ => return Box::pin(inner.call(request)),
        };
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let Ok(body) = body.collect().await else {
                return Ok(Status::unknown("the request broke off").into_http());
            };
            let bytes = body.to_bytes();
            match read(bytes.get(HEAD..).unwrap_or_default()) {
                Read::Garbage if faults.has(Fault::CrashesOnGarbage) => crash.now().await,
                Read::Unknown if faults.has(Fault::RefusesUnknownFields) => {
                    return Ok(Status::invalid_argument("the message has unknown fields").into_http());
                }
                _ => {}
            }
            inner.call(Request::from_parts(head, whole(bytes))).await
        })
    }
}

fn whole(bytes: Bytes) -> Body {
    Body::new(Full::new(bytes))
}

enum Read {
    Known,
    Unknown,
    Garbage,
}

/// Whether nothing is lost when the message is decoded.
fn known<M: Message + Default>(bytes: &[u8]) -> Read {
    match M::decode(bytes) {
        Ok(message) if message.encoded_len() == bytes.len() => Read::Known,
        Ok(_) => Read::Unknown,
        Err(_) => Read::Garbage,
    }
}
