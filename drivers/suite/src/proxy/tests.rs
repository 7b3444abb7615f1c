//! The proxy against a small server, and against a real engine where there is one.

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, BodyStream, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use super::rule::fits;
use super::{Fate, Fault, Proxy, Rule};

/// No step takes longer, or something hangs.
const PATIENCE: Duration = Duration::from_secs(90);

async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("{what} hangs"))
}

/// An engine that keeps what it was asked to make, tells what it is told to, and echoes.
struct Engine {
    made: watch::Sender<Vec<String>>,
    news: Mutex<Option<tokio::sync::mpsc::UnboundedReceiver<Bytes>>>,
}

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

fn plain(status: u16, text: &str) -> Answer {
    Response::builder().status(status).body(Full::new(Bytes::from(text.to_owned())).boxed_unsync()).unwrap()
}

async fn engine(state: Arc<Engine>, mut request: Request<Incoming>) -> Result<Answer, hyper::Error> {
    match (request.method(), request.uri().path()) {
        (&Method::POST, "/make") => {
            let body = request.collect().await?.to_bytes();
            let name = String::from_utf8(body.to_vec()).unwrap();
            state.made.send_modify(|made| made.push(name));
            Ok(plain(201, "{}"))
        }
        (&Method::GET, "/list") => Ok(plain(200, &json!(*state.made.borrow()).to_string())),
        (&Method::GET, "/events") => {
            let news = state.news.lock().take().unwrap();
            let frames = futures::stream::unfold(news, |mut news| async {
                let bytes = news.recv().await?;
                Some((Ok::<_, Infallible>(Frame::data(bytes)), news))
            });
            Ok(Response::new(StreamBody::new(frames.boxed()).boxed_unsync()))
        }
        (&Method::POST, "/attach") => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut stream = TokioIo::new(upgrade.await.unwrap());
                let mut text = Vec::new();
                stream.read_to_end(&mut text).await.unwrap();
                stream.write_all(b"heard ").await.unwrap();
                stream.write_all(&text).await.unwrap();
                stream.shutdown().await.unwrap();
            });
            let mut answer = plain(101, "");
            answer.headers_mut().insert("upgrade", "tcp".parse().unwrap());
            answer.headers_mut().insert("connection", "upgrade".parse().unwrap());
            Ok(answer)
        }
        _ => Ok(plain(404, "no such thing")),
    }
}

struct World {
    folder: tempfile::TempDir,
    made: watch::Receiver<Vec<String>>,
    tell: tokio::sync::mpsc::UnboundedSender<Bytes>,
    proxy: Proxy,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (made, receiver) = watch::channel(Vec::new());
        let (tell, news) = tokio::sync::mpsc::unbounded_channel();
        let state = Arc::new(Engine { made, news: Mutex::new(Some(news)) });
        let listener = UnixListener::bind(folder.path().join("engine")).unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&state);
                let service = service_fn(move |request| engine(Arc::clone(&state), request));
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection.with_upgrades());
            }
        });
        let proxy = Proxy::start(&folder.path().join("proxy"), &folder.path().join("engine")).unwrap();
        Self { folder, made: receiver, tell, proxy }
    }

    async fn make(&self, name: &str) -> io::Result<(StatusCode, Bytes)> {
        ask(self.proxy.socket(), Method::POST, "/make", name).await
    }
}

async fn send(socket: &Path, request: Request<Full<Bytes>>) -> io::Result<Response<Incoming>> {
    let stream = UnixStream::connect(socket).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request).await.map_err(io::Error::other)
}

fn request(method: Method, path: &str, body: &str) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri(path).header("host", "engine");
    let request = request.header("content-type", "application/json");
    request.body(Full::new(Bytes::from(body.to_owned()))).unwrap()
}

async fn ask(socket: &Path, method: Method, path: &str, body: &str) -> io::Result<(StatusCode, Bytes)> {
    let answer = send(socket, request(method, path, body)).await?;
    let status = answer.status();
    Ok((status, answer.into_body().collect().await.map_err(io::Error::other)?.to_bytes()))
}

#[test]
fn a_star_stands_for_any_text() {
    for (pattern, text) in [("/a", "/a"), ("*", "/a/b"), ("/a/*", "/a/"), ("*/b*", "/a/b?c=d"), ("/*/x/*y", "/a/x/b/y")]
    {
        assert!(fits(pattern, text), "{pattern} {text}");
    }
    for (pattern, text) in [("/a", "/a/b"), ("/a/*", "/b/a/"), ("*/b", "/a/b/c"), ("*x*x", "x")] {
        assert!(!fits(pattern, text), "{pattern} {text}");
    }
}

#[tokio::test]
async fn what_no_rule_is_about_passes_and_is_recorded() {
    let world = World::new();
    assert_eq!(world.make("one").await.unwrap().0, StatusCode::CREATED);
    let (status, body) = ask(world.proxy.socket(), Method::GET, "/list", "").await.unwrap();
    assert_eq!((status, &body[..]), (StatusCode::OK, &b"[\"one\"]"[..]));
    let fates: Vec<_> = world.proxy.log().into_iter().map(|passed| (passed.path, passed.fate)).collect();
    assert_eq!(
        fates,
        [
            ("/make".to_owned(), Fate::Answered(StatusCode::CREATED)),
            ("/list".to_owned(), Fate::Answered(StatusCode::OK))
        ]
    );
}

#[tokio::test]
async fn a_late_request_is_carried_out_although_its_client_has_gone() {
    let mut world = World::new();
    let late = world.proxy.inject(Rule::new(Method::POST, "/make", Fault::Late));
    {
        let asked = world.make("late");
        tokio::select! {
            _ = asked => panic!("answered"),
            () = within("the meeting", late.met()) => {}
        }
    }
    assert_eq!(*world.made.borrow(), Vec::<String>::new());
    world.make("soon").await.unwrap();
    late.release();
    within("the late one", late.carried_out()).await;
    within("what was made", world.made.wait_for(|made| made.len() == 2)).await.unwrap();
    assert_eq!(*world.made.borrow(), ["soon", "late"]);
    let passed = world.proxy.passed(&Method::POST, "/make", 0).await;
    assert_eq!(passed.fate, Fate::Lost(StatusCode::CREATED));
}

#[tokio::test]
async fn a_late_request_whose_client_waits_is_answered() {
    let world = World::new();
    let late = world.proxy.inject(Rule::new(Method::POST, "/make", Fault::LateBy(Duration::from_millis(20))));
    assert_eq!(world.make("late").await.unwrap().0, StatusCode::CREATED);
    assert_eq!(late.count(), 1);
    let held = world.proxy.inject(Rule::new(Method::POST, "/make", Fault::LateAnswer));
    let (answer, ()) = tokio::join!(world.make("held"), async {
        within("the engine's answer", held.carried_out()).await;
        assert_eq!(*world.made.borrow(), ["late", "held"]);
        held.release();
    });
    assert_eq!(answer.unwrap().0, StatusCode::CREATED);
}

#[tokio::test]
async fn a_dropped_answer_is_carried_out_and_a_dropped_request_is_not() {
    let world = World::new();
    let lost = world.proxy.inject(Rule::new(Method::POST, "/make", Fault::DropAnswer));
    assert!(world.make("lost").await.is_err());
    within("the lost one", lost.carried_out()).await;
    assert_eq!(*world.made.borrow(), ["lost"]);
    world.proxy.inject(Rule::new(Method::POST, "/make", Fault::DropRequest));
    assert!(world.make("dropped").await.is_err());
    assert_eq!(*world.made.borrow(), ["lost"]);
    world.make("again").await.unwrap();
    assert_eq!(*world.made.borrow(), ["lost", "again"]);
}

#[tokio::test]
async fn a_rule_takes_its_turns_and_no_more() {
    let world = World::new();
    let forged = Fault::Answer(StatusCode::CONFLICT, json!({ "message": "no" }));
    world.proxy.inject(Rule::new(Method::POST, "/make", forged).after(1).times(2));
    let mut codes = Vec::new();
    for name in ["1", "2", "3", "4"] {
        let (status, body) = world.make(name).await.unwrap();
        codes.push(status.as_u16());
        assert_eq!(status == StatusCode::CONFLICT, &body[..] == b"{\"message\":\"no\"}");
    }
    assert_eq!(codes, [201, 409, 409, 201]);
    assert_eq!(*world.made.borrow(), ["1", "4"]);
}

#[tokio::test]
async fn a_hung_request_ends_when_it_is_released_and_reaches_nobody() {
    let world = World::new();
    let hung = world.proxy.inject(Rule::new(Method::POST, "/make", Fault::Hang));
    let (answer, ()) = tokio::join!(world.make("hung"), async {
        within("the meeting", hung.met()).await;
        world.make("other").await.unwrap();
        hung.release();
    });
    assert!(answer.is_err());
    assert_eq!(*world.made.borrow(), ["other"]);
}

#[tokio::test]
async fn a_stream_passes_piece_by_piece_until_it_is_cut() {
    let world = World::new();
    let cut = world.proxy.inject(Rule::new(Method::GET, "/events*", Fault::Cut));
    let answer = send(world.proxy.socket(), request(Method::GET, "/events?since=0", "")).await.unwrap();
    let mut frames = BodyStream::new(answer.into_body());
    for text in ["one", "two"] {
        world.tell.send(Bytes::from(text)).unwrap();
        let frame = within("the news", frames.next()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), text);
    }
    cut.release();
    assert!(within("the end", frames.next()).await.unwrap().is_err(), "a cut stream does not end as if all was told");
}

#[tokio::test]
async fn a_stream_is_cut_after_so_many_bytes() {
    let world = World::new();
    world.proxy.inject(Rule::new(Method::GET, "/events", Fault::CutAfter(4)));
    let answer = send(world.proxy.socket(), request(Method::GET, "/events", "")).await.unwrap();
    world.tell.send(Bytes::from("abcdef")).unwrap();
    let frames = BodyStream::new(answer.into_body()).map_ok(|frame| frame.into_data().unwrap());
    let read: Vec<_> = within("the end", frames.collect::<Vec<_>>()).await;
    assert!(read.last().unwrap().is_err(), "{read:?}");
    let text: Vec<u8> = read.into_iter().filter_map(Result::ok).flatten().collect();
    assert_eq!(text, b"abcd");
}

async fn attached(world: &World) -> TokioIo<hyper::upgrade::Upgraded> {
    let mut asked = request(Method::POST, "/attach", "");
    asked.headers_mut().insert("connection", "Upgrade".parse().unwrap());
    asked.headers_mut().insert("upgrade", "tcp".parse().unwrap());
    let mut answer = send(world.proxy.socket(), asked).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    TokioIo::new(hyper::upgrade::on(&mut answer).await.unwrap())
}

#[tokio::test]
async fn a_connection_that_changes_its_protocol_passes_with_each_sides_end() {
    let world = World::new();
    let mut stream = attached(&world).await;
    stream.write_all(b"token").await.unwrap();
    // The other side answers only when it has seen our end.
    stream.shutdown().await.unwrap();
    let mut text = String::new();
    within("the echo", stream.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "heard token");
    let cut = world.proxy.inject(Rule::new(Method::POST, "/attach", Fault::Cut));
    let mut stream = attached(&world).await;
    cut.release();
    let mut rest = Vec::new();
    // Its end, or a reset: either way it is over.
    let _ = within("the cut", stream.read_to_end(&mut rest)).await;
    assert_eq!(rest, b"");
}

#[tokio::test]
async fn an_engine_that_is_down_is_not_there_and_is_there_again() {
    let world = World::new();
    let answer = send(world.proxy.socket(), request(Method::GET, "/events", "")).await.unwrap();
    world.proxy.down();
    let mut frames = BodyStream::new(answer.into_body());
    assert!(within("the stream's end", frames.next()).await.is_none_or(|frame| frame.is_err()));
    assert_eq!(world.make("nobody").await.unwrap_err().kind(), io::ErrorKind::NotFound);
    assert!(!world.proxy.socket().exists());
    world.proxy.up().unwrap();
    world.make("again").await.unwrap();
    assert_eq!(*world.made.borrow(), ["again"]);
    let socket = world.folder.path().join("proxy");
    drop(world.proxy);
    assert!(!socket.exists(), "a proxy that nobody has is down");
}

/// The socket of a real engine, or why there is none.
fn docker(test: &str) -> Option<std::path::PathBuf> {
    match crate::engine("ENGINES_DOCKER") {
        Ok(socket) => Some(socket),
        Err(crate::Stop::Skipped(why)) => {
            eprintln!("SKIPPED {test}: {why}");
            None
        }
        Err(crate::Stop::Failed(failure)) => panic!("{failure}"),
    }
}

#[tokio::test]
async fn a_real_dockerd_is_itself_behind_it_and_loses_what_it_is_told_to() {
    let Some(engine) = docker("a_real_dockerd_is_itself_behind_it_and_loses_what_it_is_told_to") else { return };
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&folder.path().join("proxy"), &engine).unwrap();
    let (status, body) = within("ping", ask(proxy.socket(), Method::GET, "/_ping", "")).await.unwrap();
    assert_eq!((status, &body[..]), (StatusCode::OK, &b"OK"[..]));
    let image = std::env::var("ENGINES_IMAGE").unwrap();
    let name = format!("chiton-proxy-{}", uuid::Uuid::new_v4().simple());
    let body = json!({
        "Image": image, "Cmd": ["sh", "-c", "cat; echo over"], "OpenStdin": true, "StdinOnce": true,
        "AttachStdin": true, "AttachStdout": true,
    });
    // Made, and nobody was told.
    proxy.inject(Rule::new(Method::POST, "*/containers/create*", Fault::DropAnswer));
    let path = format!("/containers/create?name={name}");
    let made = within("the create", ask(proxy.socket(), Method::POST, &path, &body.to_string())).await;
    assert!(made.is_err(), "{made:?}");
    let look = |what: &str| format!("/containers/{name}/{what}");
    let (status, _) = ask(&engine, Method::GET, &look("json"), "").await.unwrap();
    assert_eq!(status, StatusCode::OK, "the container is there");
    // Attached through the proxy: input, its end, output.
    let mut asked = request(Method::POST, &look("attach?stream=1&stdin=1&stdout=1"), "");
    asked.headers_mut().insert("connection", "Upgrade".parse().unwrap());
    asked.headers_mut().insert("upgrade", "tcp".parse().unwrap());
    let mut answer = within("the attach", send(proxy.socket(), asked)).await.unwrap();
    let mut stream = TokioIo::new(hyper::upgrade::on(&mut answer).await.unwrap());
    let (status, _) = within("start", ask(proxy.socket(), Method::POST, &look("start"), "")).await.unwrap();
    assert_eq!(status, StatusCode::NO_CONTENT);
    stream.write_all(b"a line\n").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut output = Vec::new();
    within("the output", stream.read_to_end(&mut output)).await.unwrap();
    let text = String::from_utf8_lossy(&output).into_owned();
    assert!(text.contains("a line\n") && text.contains("over\n"), "{text:?}");
    // Its delete fails once.
    let error = Fault::Answer(StatusCode::INTERNAL_SERVER_ERROR, json!({ "message": "not now" }));
    proxy.inject(Rule::new(Method::DELETE, format!("*/containers/{name}*"), error));
    let path = look("").trim_end_matches('/').to_owned() + "?force=1&v=1";
    let mut codes = Vec::new();
    for _ in 0..2 {
        codes.push(within("delete", ask(proxy.socket(), Method::DELETE, &path, "")).await.unwrap().0.as_u16());
    }
    assert_eq!(codes, [500, 204]);
    let (status, _) = ask(&engine, Method::GET, &look("json"), "").await.unwrap();
    assert_eq!(status, StatusCode::NOT_FOUND);
}
