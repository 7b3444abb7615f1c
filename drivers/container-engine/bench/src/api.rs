//! One request to an engine, whatever it is.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use chiton_driver_suite::{Failure, Verdict};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

/// The longest request of a bench.
const PATIENCE: Duration = Duration::from_mins(1);

/// An engine's API as its JSON is: nothing that an engine says is lost in types.
#[derive(Clone, Debug)]
pub struct Api(PathBuf);

/// What an engine answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The body.
    pub text: String,
}

impl Answer {
    /// The body, which must be JSON, of an answer that must be good.
    pub fn json(&self, doing: &str) -> Verdict<Value> {
        self.good(doing)?;
        serde_json::from_str(&self.text).map_err(|error| Failure::bench(doing, error).into())
    }

    /// Fails when the engine refused.
    pub fn good(&self, doing: &str) -> Verdict {
        if self.status.is_success() || self.status == StatusCode::NOT_MODIFIED {
            return Ok(());
        }
        Err(Failure::bench(doing, format!("{}: {}", self.status, self.text.trim())).into())
    }
}

impl Api {
    /// Of the engine behind a socket.
    pub fn new(socket: PathBuf) -> Self {
        Self(socket)
    }

    /// Where the engine listens.
    pub fn socket(&self) -> &std::path::Path {
        &self.0
    }

    /// Asks, and reads all of the answer.
    pub async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Verdict<Answer> {
        let asking = format!("{method} {path}");
        let asked = tokio::time::timeout(PATIENCE, self.exchange(method, path, body)).await;
        let answer = asked.map_err(|_| Failure::bench(&asking, format!("no answer in {PATIENCE:?}")))?;
        answer.map_err(|error| Failure::bench(asking, error).into())
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, std::io::Error> {
        let stream = UnixStream::connect(&self.0).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "engine")
            .header("connection", "close")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(std::io::Error::other)?;
        // The sender goes with the answer, and the connection with the sender.
        let asking = async move {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let text = String::from_utf8_lossy(&response.into_body().collect().await?.to_bytes()).into_owned();
            Ok::<_, hyper::Error>(Answer { status, text })
        };
        let (answer, ()) = futures::future::join(asking, async {
            // Its failure is the answer's as well.
            drop(connection.await);
        })
        .await;
        answer.map_err(std::io::Error::other)
    }

    /// Asks for something to look at; nothing when it is not there.
    pub async fn find(&self, path: &str) -> Verdict<Option<Value>> {
        let answer = self.ask(Method::GET, path, None).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        answer.json(path).map(Some)
    }

    /// Asks for a change.
    pub async fn change(&self, method: Method, path: &str, body: Option<&Value>) -> Verdict<Answer> {
        let answer = self.ask(method, path, body).await?;
        answer.good(path)?;
        Ok(answer)
    }

    /// Removes what may be gone.
    pub async fn remove(&self, path: &str) -> Verdict {
        let answer = self.ask(Method::DELETE, path, None).await?;
        if answer.status == StatusCode::NOT_FOUND { Ok(()) } else { answer.good(path) }
    }
}

/// A value for a query.
pub(crate) fn query(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// The filter for what has a label.
pub(crate) fn labelled(label: &str) -> String {
    format!("filters={}", query(&serde_json::json!({ "label": [label] }).to_string()))
}
