//! The engine's API with deadlines, and what an answer means for a call's outcome.

use std::path::PathBuf;
use std::time::Duration;

use bollard::errors::Error as ApiError;
use bollard::models::SystemInfo;
use bollard::{API_DEFAULT_VERSION, Docker};
use chiton_driver::{CallError, CallResult};
use chiton_model::{BackendId, Error, printable};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use crate::dialect::Dialect;

/// The longest look at the engine: within the engine's own deadline of ten seconds.
pub(crate) const LOOK: Duration = Duration::from_secs(9);
/// The longest change: within the engine's own deadline of a minute.
pub(crate) const ACT: Duration = Duration::from_secs(57);
/// What a change may last longer in all: looks before and after it have a limit of their own.
const SLACK: Duration = Duration::from_secs(1);
/// What bollard waits for an answer at most; ours are shorter, but pulls are not.
const TRANSPORT: u64 = 15 * 60;

/// How a request to the engine ended, if not well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// 404: what it is about is not there.
    Absent(Error),
    /// 409: it is in the way of itself or another.
    Conflict(Error),
    /// Another 4xx: refused as it is.
    Refused(Error),
    /// 5xx: the engine tried and failed.
    Failed(Error),
    /// Nothing was sent.
    Unreachable(Error),
    /// Sent, and nobody knows.
    Lost(Error),
}

impl Failure {
    pub(crate) fn error(self) -> Error {
        match self {
            Self::Absent(error)
            | Self::Conflict(error)
            | Self::Refused(error)
            | Self::Failed(error)
            | Self::Unreachable(error)
            | Self::Lost(error) => error,
        }
    }
}

impl From<Failure> for CallError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Failed(error) => Self::Failed(error),
            Failure::Lost(error) => Self::Unknown(error),
            other => Self::NotRun(other.error()),
        }
    }
}

pub(crate) type Answer<T> = Result<T, Failure>;

/// A connection to one engine. The API's version is agreed on at the first call, and again after the engine was away.
pub(crate) struct Client {
    dialect: &'static dyn Dialect,
    socket: PathBuf,
    agreed: Mutex<Option<Docker>>,
}

impl Client {
    pub(crate) fn new(dialect: &'static dyn Dialect, socket: PathBuf) -> Self {
        Self { dialect, socket, agreed: Mutex::default() }
    }

    /// A client that speaks the engine's version of the API.
    pub(crate) async fn api(&self) -> Answer<Docker> {
        if let Some(agreed) = self.agreed.lock().clone() {
            return Ok(agreed);
        }
        let address = self.socket.to_string_lossy();
        let spoken = self.dialect.speaks();
        let fresh = Docker::connect_with_unix(&address, TRANSPORT, spoken.as_ref().unwrap_or(API_DEFAULT_VERSION))
            .map_err(|error| self.unreachable(&error.to_string()))?;
        if spoken.is_some() {
            *self.agreed.lock() = Some(fresh.clone());
            return Ok(fresh);
        }
        let agreed = match timeout(LOOK, fresh.negotiate_version()).await {
            Ok(Ok(agreed)) => agreed,
            // Asking for the version changes nothing, however it ended.
            Ok(Err(error)) => return Err(self.unreachable(&self.failure("agree on a version", error).error().message)),
            Err(_) => return Err(self.unreachable("it does not answer")),
        };
        *self.agreed.lock() = Some(agreed.clone());
        Ok(agreed)
    }

    /// Asks for something that changes nothing. What cannot be read is asked again: engines have words for passing
    /// states that their API does not know. So is what fails, for a moment: podman fails when what it looks at changes
    /// meanwhile.
    pub(crate) async fn look<T, F: Future<Output = Result<T, ApiError>>>(
        &self,
        doing: &str,
        ask: impl Fn(Docker) -> F,
    ) -> Answer<T> {
        let deadline = Instant::now() + LOOK;
        let mut pause = Duration::from_millis(10);
        loop {
            let api = self.api().await?;
            match tokio::time::timeout_at(deadline, ask(api)).await {
                Ok(Ok(found)) => return Ok(found),
                Ok(Err(error)) if pause <= patience(&error) && Instant::now() + pause < deadline => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Ok(Err(error)) => return Err(self.failure(doing, error)),
                Err(_) => return Err(self.late(doing, LOOK)),
            }
        }
    }

    /// Asks for a change, within the time that is left of a call.
    pub(crate) async fn act<T, F: Future<Output = Result<T, ApiError>>>(
        &self,
        doing: &str,
        deadline: Instant,
        ask: impl FnOnce(Docker) -> F,
    ) -> Answer<T> {
        let limit = deadline.saturating_duration_since(Instant::now());
        let api = self.api().await?;
        match tokio::time::timeout_at(deadline, ask(api)).await {
            Ok(result) => result.map_err(|error| self.failure(doing, error)),
            Err(_) => Err(self.late(doing, limit)),
        }
    }

    /// Its version holds: that was the answer of whoever is at the other end, and asking again would take as long.
    pub(crate) fn late(&self, doing: &str, limit: Duration) -> Failure {
        Failure::Lost(
            Error::deadline(format!("{doing}: {} did not answer within {} s", self.name(), limit.as_secs()))
                .cure("look at the engine's own log"),
        )
    }

    /// A call within what it may take, whatever it consists of. Something of it may have been done by then.
    pub(crate) async fn in_time<T>(&self, doing: &str, call: impl Future<Output = CallResult<T>>) -> CallResult<T> {
        let limit = ACT + SLACK;
        let ended = timeout(limit, call).await;
        ended.unwrap_or_else(|_| Err(self.late(doing, limit).into()))
    }

    pub(crate) fn socket(&self) -> &std::path::Path {
        &self.socket
    }

    fn name(&self) -> String {
        format!("{} at {}", self.dialect.kind(), self.socket.display())
    }

    pub(crate) fn unreachable(&self, why: &str) -> Failure {
        self.forget();
        Failure::Unreachable(
            Error::unavailable(self.dialect.kind(), format!("{} cannot be reached: {}", self.name(), printable(why)))
                .cure(self.dialect.start_it()),
        )
    }

    /// What was known of the engine may no longer hold.
    pub(crate) fn forget(&self) {
        *self.agreed.lock() = None;
    }

    /// What an error of the library means.
    pub(crate) fn failure(&self, doing: &str, error: ApiError) -> Failure {
        let kind = self.dialect.kind();
        match error {
            ApiError::DockerResponseServerError { status_code, message } => {
                let text = format!("{doing}: {kind} answered {status_code}: {}", printable(message.trim()));
                match status_code {
                    404 => Failure::Absent(Error::not_found(text)),
                    409 => Failure::Conflict(
                        Error::conflict(text)
                            .cure("wait for what the engine does with it, or remove what is in the way"),
                    ),
                    400..500 => Failure::Refused(Error::refused("driver", text)),
                    _ => Failure::Failed(
                        Error::unavailable(kind, text).cure("look at what the engine says; its own log may say more"),
                    ),
                }
            }
            ApiError::HyperLegacyError { err } if err.is_connect() => self.unreachable(&chain(&err)),
            ApiError::SocketNotFoundError(path) => self.unreachable(&format!("there is no socket {path}")),
            other => {
                self.forget();
                let text = format!("{doing}: the answer of {} was lost: {}", self.name(), printable(&chain(&other)));
                Failure::Lost(Error::unavailable(kind, text).cure(self.dialect.start_it()))
            }
        }
    }

    pub(crate) async fn info(&self) -> Answer<SystemInfo> {
        self.look("look at the engine", |api| async move { api.info().await }).await
    }

    /// Which installation of the engine this is. Asked each time: whoever remembers it knows when to forget it.
    pub(crate) async fn backend_id(&self) -> CallResult<BackendId> {
        let info = self.info().await?;
        let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
        let machine = if machine.trim().is_empty() { "unidentified" } else { machine.trim() };
        let Some(installation) = self.dialect.installation(&info, machine) else {
            let text = format!("{} does not say which installation it is", self.name());
            return Err(CallError::NotRun(Error::unavailable(self.dialect.kind(), text).cure("update the engine")));
        };
        Ok(BackendId(format!("{}:{installation}", self.dialect.kind())))
    }
}

/// The longest pause before a look that ended so is repeated.
fn patience(error: &ApiError) -> Duration {
    match error {
        ApiError::JsonDataError { .. } => LOOK,
        ApiError::DockerResponseServerError { status_code: 500, .. } => Duration::from_millis(320),
        _ => Duration::ZERO,
    }
}

/// An error with all its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}
