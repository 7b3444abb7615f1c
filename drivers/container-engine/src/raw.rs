//! Looks at containers whose answer is taken as JSON first. Engines have words for how a container stands that the
//! library does not know ("stopped" of podman: over and not yet cleaned up). One such word must not hide all the others.

use bollard::errors::Error as ApiError;
use bollard::models::ContainerSummary;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use crate::client::{Answer, Client};

/// The largest answer: far more than a list of ten thousand containers.
const LARGEST: usize = 256 << 20;
/// The words that the library knows.
const KNOWN: [&str; 8] = ["created", "running", "paused", "restarting", "removing", "exited", "dead", "stopping"];

impl Client {
    /// Asks for something. `path` begins with a slash and has its query.
    pub(crate) async fn document<T: DeserializeOwned>(&self, doing: &str, path: &str) -> Answer<T> {
        let version = self.api().await?.client_version();
        let target = format!("/v{version}{path}");
        let ask = async |_| match UnixStream::connect(self.socket()).await {
            Ok(stream) => get(stream, &target).await.map(Ok),
            // Nobody is there: nothing to ask again for.
            Err(error) => Ok(Err(self.unreachable(&error.to_string()))),
        };
        let mut found = self.look(doing, ask).await??;
        match &mut found {
            Value::Array(all) => all.iter_mut().for_each(|one| plain(one.get_mut("State"))),
            one => plain(one.pointer_mut("/State/Status")),
        }
        serde_json::from_value(found).map_err(|err| self.failure(doing, ApiError::from(err)))
    }

    /// All containers, running or not, that fit a filter, or all that there are.
    pub(crate) async fn list_containers(
        &self,
        doing: &str,
        filter: Option<(&str, &str)>,
    ) -> Answer<Vec<ContainerSummary>> {
        let mut path = "/containers/json?all=true".to_owned();
        if let Some((key, value)) = filter {
            path = format!("{path}&filters={}", query(&json!({ key: [value] }).to_string()));
        }
        self.document(doing, &path).await
    }
}

async fn get(stream: UnixStream, target: &str) -> Result<Value, ApiError> {
    let lost = |error: std::io::Error| ApiError::from(error);
    let broken = |error: hyper::Error| lost(std::io::Error::other(error));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let request = Request::builder()
        .method(Method::GET)
        .uri(target)
        .header("host", "engine")
        .header("connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| lost(std::io::Error::other(error)))?;
    // The sender goes with the answer, and the connection with the sender.
    let asking = async move {
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LARGEST).collect().await;
        let body = body.map_err(|error| lost(std::io::Error::other(error)))?.to_bytes();
        Ok::<_, ApiError>((status, body))
    };
    let (answer, _) = tokio::join!(asking, connection);
    let (status, body) = answer?;
    let value = serde_json::from_slice::<Value>(&body);
    if status.is_success() {
        return Ok(value?);
    }
    let said = value.ok().and_then(|value| Some(value.get("message")?.as_str()?.to_owned()));
    let message = said.unwrap_or_else(|| String::from_utf8_lossy(&body).into_owned());
    Err(ApiError::DockerResponseServerError { status_code: status.as_u16(), message })
}

/// Puts a word that the library knows in the place of one that it does not.
fn plain(word: Option<&mut Value>) {
    let Some(word) = word else { return };
    let known = match word.as_str() {
        Some(known) if KNOWN.contains(&known) => return,
        Some("stopped") => "exited",
        Some("configured" | "initialized") => "created",
        // It is there, and nobody knows how.
        _ => "",
    };
    *word = Value::from(known);
}

/// A value for a query.
fn query(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use bollard::models::{ContainerInspectResponse, ContainerState};
    use serde_json::json;

    use super::*;

    /// The words of an answer after `plain`, which the library must be able to read.
    fn read(word: &str) -> String {
        let mut found = json!({ "State": { "Status": word } });
        plain(found.pointer_mut("/State/Status"));
        let typed: ContainerInspectResponse = serde_json::from_value(found.clone()).unwrap();
        assert!(matches!(typed.state, Some(ContainerState { status: Some(_), .. })), "{word}");
        let mut listed = json!([{ "State": word }]);
        listed.as_array_mut().unwrap().iter_mut().for_each(|one| plain(one.get_mut("State")));
        serde_json::from_value::<Vec<ContainerSummary>>(listed).unwrap();
        found["State"]["Status"].as_str().unwrap().to_owned()
    }

    #[test]
    fn words_that_the_library_does_not_know_are_read_as_what_they_mean() {
        for word in KNOWN {
            assert_eq!(read(word), word);
        }
        for (word, meant) in [("stopped", "exited"), ("configured", "created"), ("initialized", "created")] {
            assert_eq!(read(word), meant);
        }
        for word in ["", "unknown", "improper", "of another year"] {
            assert_eq!(read(word), "");
        }
    }

    #[test]
    fn a_filter_survives_the_way_in_a_query() {
        assert_eq!(query(r#"{"label":["a/b=c"]}"#), "%7B%22label%22%3A%5B%22a%2Fb%3Dc%22%5D%7D");
    }
}
