//! One request on its way to the engine, and its answer on the way back.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::{Body, Incoming};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use super::Inner;
use super::body::{Cutting, Passing};
use super::record::Fate;
use super::rule::{Fault, Meeting};

type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

/// An error here closes the client's connection without an answer.
fn cut<T>() -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::ConnectionAborted, "cut by the proxy"))
}

pub(super) async fn forward(
    inner: Arc<Inner>,
    life: CancellationToken,
    request: Request<Incoming>,
) -> io::Result<Answer> {
    let method = request.method().clone();
    let path = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
    let number = inner.record.came(&method, &path);
    let met = inner.rules.lock().iter_mut().find_map(|rule| rule.meets(&method, &path));
    let told = |fate| inner.record.became(number, fate);
    let Some((fault, meeting)) = met else {
        let answer = pass(&inner, number, life, request, Cutting::Never).await;
        return answer;
    };
    // What is carried out on a task of its own is told when it has one: a client that goes away before takes it along.
    if !matches!(fault, Fault::Late | Fault::LateBy(_) | Fault::DropAnswer | Fault::LateAnswer) {
        meeting.met();
    }
    match fault {
        Fault::DropRequest => {
            told(Fate::Dropped);
            cut()
        }
        Fault::Hang => {
            told(Fate::Dropped);
            meeting.released().await;
            cut()
        }
        Fault::Answer(status, document) => {
            told(Fate::Forged(status));
            let body = Full::new(Bytes::from(document.to_string())).map_err(|never| match never {}).boxed_unsync();
            let answer = Response::builder().status(status).header("content-type", "application/json").body(body);
            answer.map_err(io::Error::other)
        }
        Fault::CutAfter(bytes) => {
            let answer = pass(&inner, number, life, request, Cutting::After(bytes)).await;
            meeting.carried_out();
            answer
        }
        Fault::Cut => {
            let released = meeting.clone();
            let when = async move { released.released().await }.boxed();
            let answer = pass(&inner, number, life, request, Cutting::When(when)).await;
            meeting.carried_out();
            answer
        }
        Fault::Late | Fault::LateBy(_) | Fault::DropAnswer | Fault::LateAnswer => {
            detached(inner, number, request, fault, meeting).await
        }
    }
}

/// Carries a request out on a task of its own, which a client that goes away does not end.
async fn detached(
    inner: Arc<Inner>,
    number: usize,
    request: Request<Incoming>,
    fault: Fault,
    meeting: Meeting,
) -> io::Result<Answer> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let request = Request::from_parts(parts, Full::new(body));
    meeting.met();
    let (answered, answer) = tokio::sync::oneshot::channel();
    let of = fault.clone();
    tokio::spawn(async move {
        match of {
            Fault::Late => meeting.released().await,
            Fault::LateBy(time) => tokio::time::sleep(time).await,
            _ => {}
        }
        let result = send(&inner.engine, request).await;
        let fate = match &result {
            Ok(response) if fault == Fault::DropAnswer => Fate::Lost(response.status()),
            Ok(response) => Fate::Answered(response.status()),
            Err(error) => Fate::Failed(error.to_string()),
        };
        meeting.carried_out();
        if fault == Fault::LateAnswer {
            inner.record.became(number, fate.clone());
            meeting.released().await;
        }
        let fate = match (fate, fault) {
            (fate, Fault::DropAnswer) => fate,
            (fate, _) => match (answered.send(result), fate) {
                // The client did not wait for it.
                (Err(_), Fate::Answered(status)) => Fate::Lost(status),
                (_, fate) => fate,
            },
        };
        inner.record.became(number, fate);
    });
    match answer.await {
        Ok(response) => Ok(response?.map(|body| Passing::new(body, Cutting::Never).boxed_unsync())),
        Err(_) => cut(),
    }
}

/// As it is, but for where it is cut.
async fn pass(
    inner: &Inner,
    number: usize,
    life: CancellationToken,
    mut request: Request<Incoming>,
    cutting: Cutting,
) -> io::Result<Answer> {
    let upgrade = request.headers().contains_key(http::header::UPGRADE).then(|| hyper::upgrade::on(&mut request));
    let mut response = match send(&inner.engine, request).await {
        Ok(response) => response,
        Err(error) => {
            inner.record.became(number, Fate::Failed(error.to_string()));
            return Err(error);
        }
    };
    inner.record.became(number, Fate::Answered(response.status()));
    if let (Some(client), StatusCode::SWITCHING_PROTOCOLS) = (upgrade, response.status()) {
        let engine = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            tokio::select! {
                () = life.cancelled() => {}
                // How either side ends it is theirs.
                _ = both(client, engine, cutting) => {}
            }
        });
        return Ok(response.map(|_| Empty::new().map_err(|never| match never {}).boxed_unsync()));
    }
    Ok(response.map(|body| Passing::new(body, cutting).boxed_unsync()))
}

/// A connection of its own for each request, so that a cut one takes nothing else with it.
async fn send<B>(engine: &Path, request: Request<B>) -> io::Result<Response<Incoming>>
where
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let stream = UnixStream::connect(engine).await?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(io::Error::other)?;
    // Ends when the answer was read or dropped.
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request).await.map_err(io::Error::other)
}

/// Both ways, each to its own end.
async fn both(client: OnUpgrade, engine: OnUpgrade, cutting: Cutting) -> io::Result<()> {
    let (client, engine) = tokio::try_join!(client, engine).map_err(io::Error::other)?;
    let (mut client, mut engine) = (TokioIo::new(client), TokioIo::new(engine));
    match cutting {
        Cutting::Never => tokio::io::copy_bidirectional(&mut client, &mut engine).await.map(drop),
        Cutting::When(released) => {
            tokio::select! {
                () = released => Ok(()),
                copied = tokio::io::copy_bidirectional(&mut client, &mut engine) => copied.map(drop),
            }
        }
        Cutting::After(bytes) => {
            let (mut from_client, mut to_client) = tokio::io::split(client);
            let (from_engine, mut to_engine) = tokio::io::split(engine);
            let mut bounded = from_engine.take(bytes);
            let up = async {
                tokio::io::copy(&mut from_client, &mut to_engine).await?;
                to_engine.shutdown().await?;
                std::future::pending::<io::Result<()>>().await
            };
            tokio::select! {
                copied = tokio::io::copy(&mut bounded, &mut to_client) => copied.map(drop),
                ended = up => ended,
            }
        }
    }
}
