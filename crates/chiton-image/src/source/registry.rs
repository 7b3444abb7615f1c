//! A registry, by the OCI distribution specification 1.1: manifests, blobs and the token dialogue in front of them.
//!
//! What a registry says is not trusted: bytes are checked against digests by the caller, documents have a size limit,
//! and redirections lead to HTTPS only (or stay on the host that they came from).

use std::collections::BTreeMap;
use std::sync::Once;
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_RANGE, HeaderMap, HeaderValue, RANGE, WWW_AUTHENTICATE};
use reqwest::{Client, Response, StatusCode, Url, redirect};
use serde::Deserialize;

use super::challenge::Challenge;
use crate::error::{ImageError, Result};
use crate::reference::is_loopback;
use crate::{Digest, Limits, Policy, manifest};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a registry may send nothing.
const SILENCE: Duration = Duration::from_secs(30);
/// Bytes of an answer with a token.
const TOKEN_BYTES: u64 = 256 << 10;
/// Tokens that are kept; whoever may name a repository makes one.
const MOST_TOKENS: usize = 256;
/// The longest that is kept. Another is asked for anew each time.
const LONGEST_TOKEN: usize = 16 << 10;

/// Talks to registries.
pub(crate) struct Registries {
    client: Client,
    policy: Policy,
    /// What to send in `Authorization`, by registry and repository. Secret.
    tokens: Mutex<BTreeMap<(String, String), HeaderValue>>,
}

/// A repository of a registry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Repository<'a> {
    pub(crate) registry: &'a str,
    pub(crate) name: &'a str,
}

impl Repository<'_> {
    fn error(&self, why: impl Into<String>, transient: bool) -> ImageError {
        let why = chiton_model::printable(&why.into());
        ImageError::Registry { registry: self.registry.to_owned(), why, transient }
    }

    fn unauthorized(&self) -> ImageError {
        ImageError::Unauthorized { registry: self.registry.to_owned(), repository: self.name.to_owned() }
    }

    /// What reqwest says, with all its causes, because the first of them alone says nothing; never with the address,
    /// whose query may hold a signature.
    fn failed(&self, error: reqwest::Error) -> ImageError {
        let error = error.without_url();
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        self.error(text, true)
    }
}

impl Registries {
    pub(crate) fn new(policy: Policy) -> Result<Self> {
        static PROVIDER: Once = Once::new();
        // A second provider of the same process stays: whichever it is, it does TLS.
        PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let client = Client::builder()
            .user_agent(concat!("chiton/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .redirect(redirect::Policy::custom(|attempt| {
                let safe = attempt.url().scheme() == "https"
                    || attempt.previous().last().is_some_and(|from| {
                        from.scheme() == "http"
                            && from.host() == attempt.url().host()
                            && from.port() == attempt.url().port()
                    });
                match (safe, attempt.previous().len()) {
                    (true, ..=5) => attempt.follow(),
                    (true, _) => attempt.error("it redirects without end"),
                    (false, _) => attempt.error("it redirects to another host without TLS"),
                }
            }))
            .build()
            .map_err(|error| ImageError::Registry {
                registry: "client".to_owned(),
                why: format!("TLS cannot be set up: {error}"),
                transient: false,
            })?;
        Ok(Self { client, policy, tokens: Mutex::default() })
    }

    /// Whether the operator lets this registry be asked.
    pub(crate) fn allow(&self, reference: &str, registry: &str) -> Result<()> {
        if self.policy.registries.as_ref().is_none_or(|allowed| allowed.contains(registry)) {
            return Ok(());
        }
        Err(ImageError::Refused {
            reference: reference.to_owned(),
            why: format!("registry {registry:?} is not among those that may be asked"),
            cure: "name an image of another registry, or let the operator add it to the driver's registries".to_owned(),
        })
    }

    fn url(&self, at: Repository<'_>, rest: &str) -> Result<Url> {
        let host = if at.registry == "docker.io" { "registry-1.docker.io" } else { at.registry };
        let plain = is_loopback(at.registry) || self.policy.insecure.contains(at.registry);
        let scheme = if plain { "http" } else { "https" };
        Url::parse(&format!("{scheme}://{host}/v2/{}/{rest}", at.name))
            .map_err(|error| at.error(error.to_string(), false))
    }

    /// A manifest by tag or digest, with the digest of what came. The caller checks it.
    pub(crate) async fn manifest(&self, at: Repository<'_>, name: &str) -> Result<(Digest, Vec<u8>)> {
        let url = self.url(at, &format!("manifests/{name}"))?;
        let response = self.ask(at, url, &[(ACCEPT, HeaderValue::from_static(manifest::ACCEPT))]).await?;
        let bytes = document(at, response).await?;
        Ok((Digest::of(&bytes), bytes))
    }

    /// A small blob.
    pub(crate) async fn blob_document(&self, at: Repository<'_>, digest: &Digest) -> Result<Vec<u8>> {
        document(at, self.blob(at, digest, 0).await?.0).await
    }

    /// A blob from a place on, and the place where what comes begins: not every registry sends parts.
    pub(crate) async fn blob(&self, at: Repository<'_>, digest: &Digest, from: u64) -> Result<(Response, u64)> {
        let url = self.url(at, &format!("blobs/{digest}"))?;
        let mut headers = Vec::new();
        if from > 0 {
            let range =
                HeaderValue::from_str(&format!("bytes={from}-")).map_err(|error| at.error(error.to_string(), false))?;
            headers.push((RANGE, range));
        }
        let response = self.ask(at, url, &headers).await?;
        let begins = format!("bytes {from}-");
        let part = response.status() == StatusCode::PARTIAL_CONTENT
            && response
                .headers()
                .get(CONTENT_RANGE)
                .and_then(|range| range.to_str().ok())
                .is_some_and(|range| range.starts_with(&begins));
        match (part, response.status() == StatusCode::PARTIAL_CONTENT) {
            (true, _) => Ok((response, from)),
            (false, true) => Err(at.error("it sent another part than was asked for", false)),
            (false, false) => Ok((response, 0)),
        }
    }

    async fn ask(
        &self,
        at: Repository<'_>,
        url: Url,
        headers: &[(reqwest::header::HeaderName, HeaderValue)],
    ) -> Result<Response> {
        let key = (at.registry.to_owned(), at.name.to_owned());
        let send = async |token: Option<HeaderValue>| {
            let mut all: HeaderMap = headers.iter().cloned().collect();
            all.extend(token.map(|token| (AUTHORIZATION, token)));
            self.client.get(url.clone()).headers(all).send().await.map_err(|error| at.failed(error))
        };
        let known = self.tokens.lock().get(&key).cloned();
        let mut response = send(known).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            self.tokens.lock().remove(&key);
            let token = self.token(at, response.headers()).await?;
            response = send(Some(token.clone())).await?;
            if response.status().is_success() {
                self.keep(key, token);
            }
        }
        match response.status() {
            status if status.is_success() => Ok(response),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(at.unauthorized()),
            StatusCode::NOT_FOUND => Err(ImageError::Missing {
                reference: format!("{}/{}", at.registry, at.name),
                why: "the registry does not have it".to_owned(),
            }),
            status => {
                let transient = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
                Err(at.error(format!("it answered with status {status}"), transient))
            }
        }
    }

    fn keep(&self, key: (String, String), token: HeaderValue) {
        if token.len() > LONGEST_TOKEN {
            return;
        }
        let mut tokens = self.tokens.lock();
        // Whose it is does not matter: it is asked for again.
        if tokens.len() >= MOST_TOKENS && !tokens.contains_key(&key) {
            tokens.pop_first();
        }
        tokens.insert(key, token);
    }

    /// What to send in `Authorization`, by the challenge of a registry.
    async fn token(&self, at: Repository<'_>, headers: &HeaderMap) -> Result<HeaderValue> {
        let login = self.login(at)?;
        let mut challenges = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let challenge = challenges.find_map(Challenge::parse).ok_or_else(|| at.unauthorized())?;
        let (realm, service, scope) = match challenge {
            Challenge::Basic => {
                let (user, password) = login.ok_or_else(|| at.unauthorized())?;
                let request = self.client.get(self.url(at, "")?).basic_auth(user, Some(password));
                let request = request.build().map_err(|error| at.failed(error))?;
                return request.headers().get(AUTHORIZATION).cloned().ok_or_else(|| at.unauthorized());
            }
            Challenge::Bearer { realm, service, scope } => (realm, service, scope),
        };
        let mut url =
            Url::parse(&realm).map_err(|_| at.error("the address of its token service cannot be read", false))?;
        let own = self.url(at, "")?;
        // A password is not sent where others can read it, unless the whole registry is asked that way.
        let safe = url.scheme() == "https"
            || (own.scheme() == "http"
                && url.scheme() == "http"
                && (url.host() == own.host() || url.host_str().is_some_and(is_loopback)));
        if !safe {
            return Err(at.error("its token service is not reached by TLS", false));
        }
        {
            let mut query = url.query_pairs_mut();
            query.append_pair("scope", &scope.unwrap_or_else(|| format!("repository:{}:pull", at.name)));
            if let Some(service) = &service {
                query.append_pair("service", service);
            }
        }
        let mut request = self.client.get(url);
        if let Some((user, password)) = login {
            request = request.basic_auth(user, Some(password));
        }
        let response = request.send().await.map_err(|error| at.failed(error))?;
        match response.status() {
            status if status.is_success() => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(at.unauthorized()),
            status => {
                return Err(
                    at.error(format!("its token service answered with status {status}"), status.is_server_error())
                );
            }
        }
        let bytes = limited(at, response, TOKEN_BYTES).await?;
        let answer: Token =
            serde_json::from_slice(&bytes).map_err(|_| at.error("its token service sent no token", false))?;
        let token =
            answer.token.or(answer.access_token).ok_or_else(|| at.error("its token service sent no token", false))?;
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| at.error("its token service sent no token", false))?;
        value.set_sensitive(true);
        Ok(value)
    }

    fn login(&self, at: Repository<'_>) -> Result<Option<(String, String)>> {
        let Some(credential) = self.policy.credentials.get(at.registry) else { return Ok(None) };
        let password = std::fs::read_to_string(&credential.password_file).map_err(|error| ImageError::Io {
            doing: format!("read the password file {} of registry {}", credential.password_file.display(), at.registry),
            source: error,
        })?;
        Ok(Some((credential.username.clone(), password.trim_end_matches(['\n', '\r']).to_owned())))
    }
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

async fn document(at: Repository<'_>, response: Response) -> Result<Vec<u8>> {
    limited(at, response, Limits::DOCUMENT_BYTES).await
}

async fn limited(at: Repository<'_>, mut response: Response, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|error| at.failed(error))? {
        bytes.extend_from_slice(&piece);
        if bytes.len() as u64 > limit {
            return Err(ImageError::TooLarge { what: "bytes in a manifest, config or token", limit });
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
