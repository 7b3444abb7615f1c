//! What goes to the agent inside a sandbox: exec and files. And the main process's output, which comes from the driver.

use std::sync::{Arc, OnceLock};

use chiton_driver::LogOptions;
use chiton_model::spec::{check_command, check_env};
use chiton_model::{Error, Principal, SandboxId, SandboxPhase};
use chiton_proto::agent::v1 as agent;
use chiton_proto::v1 as wire;
use futures::stream::BoxStream;
use futures::{StreamExt as _, stream};
use tonic::{Response, Status, Streaming};

use super::convert;
use super::service::Api;
use crate::sessions::{AgentClient, CallError as AgentCallError, SessionError};
use chiton_client::to_status;

/// How long a stream's first two messages may take.
const FIRST: std::time::Duration = std::time::Duration::from_secs(10);

/// How long the agent of a Ready sandbox may take to dial, after this gateway started.
const DIAL: std::time::Duration = std::time::Duration::from_secs(3);

/// How long an agent that lives may take to answer a call that only begins something.
const ANSWER: std::time::Duration = std::time::Duration::from_mins(1);

/// A stream whose first message selects a sandbox, as its selector and the rest.
trait Selecting: Send + 'static {
    type Rest: Send + 'static;
    fn split(self) -> Result<wire::SandboxSelector, Option<Self::Rest>>;
}

macro_rules! selecting {
    ($message:ty, $module:ident, $variant:ident, $rest:ty) => {
        impl Selecting for $message {
            type Rest = $rest;

            fn split(self) -> Result<wire::SandboxSelector, Option<$rest>> {
                match self.input {
                    Some(wire::$module::Input::Sandbox(selector)) => Ok(selector),
                    Some(wire::$module::Input::$variant(rest)) => Err(Some(rest)),
                    None => Err(None),
                }
            }
        }
    };
}

selecting!(wire::ExecSandboxRequest, exec_sandbox_request, Exec, agent::ExecInput);
selecting!(wire::WriteFileRequest, write_file_request, File, agent::WriteFileRequest);
selecting!(wire::WriteTarRequest, write_tar_request, Tar, agent::WriteTarRequest);

/// The stream's next message, which must come soon.
async fn soon<T>(input: &mut Streaming<T>) -> Result<T, Error> {
    let first = tokio::time::timeout(FIRST, input.message()).await;
    let message =
        first.map_err(|_| Error::deadline(format!("the stream's first messages did not come within {FIRST:?}")))?;
    let broken = |status: Status| Error::invalid("stream", format!("the stream broke: {}", status.message()));
    message.map_err(broken)?.ok_or_else(|| Error::invalid("stream", "the stream ended before its first messages"))
}

/// How the caller's stream broke, if it did. The agent sees only that it ended.
type Broken = Arc<OnceLock<Status>>;

/// The rest of a stream, as long as it keeps to its form. A broken input ends the agent's stream without its end mark, which
/// the agent takes as a client that went away.
fn rest<M: Selecting>(input: Streaming<M>, broken: &Broken) -> impl futures::Stream<Item = M::Rest> + Send + 'static {
    stream::unfold((input, Arc::clone(broken)), |(mut input, broken)| async move {
        match input.message().await {
            Ok(Some(message)) => message.split().err().flatten().map(|rest| (rest, (input, broken))),
            Ok(None) => None,
            Err(status) => {
                // It breaks once.
                drop(broken.set(status));
                None
            }
        }
    })
}

/// Why an upload failed: what was wrong with the caller's stream, else what the agent says.
fn upload_error(broken: &Broken, status: &Status) -> Error {
    broken.get().map_or_else(|| agent_error(status), chiton_client::from_status)
}

/// An agent's failure as the caller's: its text is its own, the condition is kept.
fn from_agent(status: &Status) -> Status {
    use chiton_model::ErrorKind as K;
    let kind = match status.code() {
        tonic::Code::InvalidArgument | tonic::Code::OutOfRange => K::Invalid { field: "agent".to_owned() },
        tonic::Code::NotFound => K::NotFound,
        tonic::Code::AlreadyExists => K::AlreadyExists,
        tonic::Code::Aborted => K::Conflict,
        tonic::Code::FailedPrecondition | tonic::Code::PermissionDenied => K::Refused { by: "sandbox".to_owned() },
        tonic::Code::ResourceExhausted => K::Exhausted { what: "sandbox".to_owned() },
        tonic::Code::DeadlineExceeded => K::Deadline,
        tonic::Code::Internal | tonic::Code::DataLoss => K::Internal,
        _ => K::Unavailable { what: "agent".to_owned() },
    };
    to_status(&Error::new(kind, status.message().to_owned()))
}

/// Checks an exec's first input as far as it can be checked without its agent.
pub(super) fn check_exec(first: &agent::ExecInput) -> Result<(), Error> {
    let Some(agent::exec_input::Input::Start(start)) = &first.input else { return Ok(()) };
    if start.argv.is_empty() {
        return Err(
            Error::invalid("argv", "there is no program to run").cure("name one after --, for example: -- ls -l")
        );
    }
    check_command("argv", &start.argv)?;
    check_env("env", &start.env.clone().into_iter().collect())
}

fn agent_error(status: &Status) -> Error {
    // The detail was encoded a line ago; reading it back keeps one mapping.
    chiton_client::from_status(&from_agent(status))
}

impl Api {
    /// The sandbox that a request selects, if its agent can be called.
    async fn callable(&self, selector: Option<wire::SandboxSelector>) -> Result<SandboxId, Error> {
        let view = self.select(selector, false).await?;
        let record = view.record;
        let driver = self.engine.drivers().find(|driver| driver.capabilities().id == record.driver);
        if driver.is_some_and(|driver| !driver.capabilities().agent) {
            let (name, driver) = (record.name.as_str(), record.driver.as_str());
            let text =
                format!("sandbox {name:?} has no agent, which commands and files need: driver {driver:?} has none");
            return Err(Error::unsupported(driver, "exec", text)
                .cure("read its output with chiton sandbox logs, or create it on a driver that has an agent"));
        }
        if let Some(why) = view.held {
            return Err(Error::unavailable("sandbox", format!("sandbox {:?} is held: {why}", record.name.as_str())));
        }
        if record.phase != SandboxPhase::Ready {
            let cure = match record.phase {
                SandboxPhase::Stopped | SandboxPhase::Completed => "start it: chiton sandbox start",
                SandboxPhase::Error => "its create failed: chiton sandbox get shows why",
                _ => "wait until it is Ready",
            };
            return Err(Error::conflict(format!("sandbox {:?} is {}, not Ready", record.name.as_str(), record.phase))
                .cure(cure));
        }
        Ok(record.id)
    }

    /// Makes a call to a sandbox's agent. It may take as long as it likes while the agent lives.
    async fn call<T, F>(
        &self,
        sandbox: &SandboxId,
        broken: &Broken,
        call: impl FnOnce(AgentClient) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        match self.sessions.call(sandbox, DIAL, call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(AgentCallError::Status(status))) => Err(upload_error(broken, &status)),
            Ok(Err(AgentCallError::Silent)) => Err(Error::deadline(format!(
                "the agent of sandbox {sandbox} does not answer; what was asked for may still happen"
            ))
            .cure("chiton sandbox get tells when it answers again; stop and start the sandbox if it does not")),
            Err(error @ SessionError::Trouble(..)) => Err(Error::unavailable("agent", error.to_string())
                .cure("try again when it answers, or stop and start the sandbox")),
            Err(error) => Err(Error::unavailable("agent", error.to_string()).cure("try again in a moment")),
        }
    }

    /// Makes a call that only begins something or looks at something.
    async fn ask<T, F>(
        &self,
        sandbox: &SandboxId,
        broken: &Broken,
        call: impl FnOnce(AgentClient) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let late = |_| {
            Error::deadline(format!("sandbox {sandbox} did not answer within {ANSWER:?}"))
                .cure("look at its processes and disk: something there does not go on")
        };
        tokio::time::timeout(ANSWER, self.call(sandbox, broken, call)).await.map_err(late)?
    }

    /// Reads the two first messages of a stream: which sandbox, and what.
    async fn open<M: Selecting>(&self, input: &mut Streaming<M>) -> Result<(SandboxId, M::Rest), Error> {
        let order =
            || Error::invalid("stream", "the first message must select the sandbox, the second must be the start");
        let selector = soon(input).await?.split().map_err(|_| order())?;
        let sandbox = self.callable(Some(selector)).await?;
        let first = soon(input).await?.split().err().flatten().ok_or_else(order)?;
        Ok((sandbox, first))
    }

    pub(super) async fn exec_sandbox(
        &self,
        _: Principal,
        mut input: Streaming<wire::ExecSandboxRequest>,
    ) -> Result<BoxStream<'static, Result<agent::ExecOutput, Status>>, Error> {
        let (sandbox, first) = self.open(&mut input).await?;
        check_exec(&first)?;
        let broken = Broken::default();
        let input = stream::iter([first]).chain(rest(input, &broken));
        let output = self.ask(&sandbox, &broken, |mut client| async move { client.exec(input).await }).await?;
        Ok(output.map(move |item| item.map_err(|status| to_status(&upload_error(&broken, &status)))).boxed())
    }

    pub(super) async fn read_file(
        &self,
        _: Principal,
        request: wire::ReadFileRequest,
    ) -> Result<BoxStream<'static, Result<agent::FileChunk, Status>>, Error> {
        let sandbox = self.callable(request.sandbox).await?;
        let request = agent::ReadFileRequest { path: request.path };
        let chunks =
            self.ask(&sandbox, &Broken::default(), |mut client| async move { client.read_file(request).await }).await?;
        Ok(chunks.map(|item| item.map_err(|status| from_agent(&status))).boxed())
    }

    pub(super) async fn read_tar(
        &self,
        _: Principal,
        request: wire::ReadFileRequest,
    ) -> Result<BoxStream<'static, Result<agent::FileChunk, Status>>, Error> {
        let sandbox = self.callable(request.sandbox).await?;
        let request = agent::ReadTarRequest { path: request.path };
        let chunks =
            self.ask(&sandbox, &Broken::default(), |mut client| async move { client.read_tar(request).await }).await?;
        Ok(chunks.map(|item| item.map_err(|status| from_agent(&status))).boxed())
    }

    pub(super) async fn write_file(
        &self,
        _: Principal,
        mut input: Streaming<wire::WriteFileRequest>,
    ) -> Result<agent::WriteFileResponse, Error> {
        let (sandbox, first) = self.open(&mut input).await?;
        let broken = Broken::default();
        let input = stream::iter([first]).chain(rest(input, &broken));
        self.call(&sandbox, &broken, |mut client| async move { client.write_file(input).await }).await
    }

    pub(super) async fn write_tar(
        &self,
        _: Principal,
        mut input: Streaming<wire::WriteTarRequest>,
    ) -> Result<agent::WriteTarResponse, Error> {
        let (sandbox, first) = self.open(&mut input).await?;
        let broken = Broken::default();
        let input = stream::iter([first]).chain(rest(input, &broken));
        self.call(&sandbox, &broken, |mut client| async move { client.write_tar(input).await }).await
    }

    pub(super) async fn stat(
        &self,
        _: Principal,
        request: wire::ReadFileRequest,
    ) -> Result<agent::StatResponse, Error> {
        let sandbox = self.callable(request.sandbox).await?;
        let request = agent::StatRequest { path: request.path };
        self.ask(&sandbox, &Broken::default(), |mut client| async move { client.stat(request).await }).await
    }

    pub(super) async fn get_logs(
        &self,
        _: Principal,
        request: wire::GetLogsRequest,
    ) -> Result<BoxStream<'static, Result<wire::LogChunk, Status>>, Error> {
        let view = self.select(request.sandbox, true).await?;
        let options = LogOptions {
            follow: request.follow,
            tail: request.tail,
            since: request.since.map(convert::timestamp).transpose()?,
        };
        let chunks = self.engine.logs(&view.record.id, options).await?;
        let chunks = chunks.map(|chunk| match chunk {
            Ok(chunk) => Ok(wire::LogChunk {
                at: Some(convert::time(chunk.at)),
                stderr: chunk.stderr,
                data: chunk.data.to_vec(),
                dropped: chunk.dropped,
            }),
            Err(error) => Err(to_status(error.error())),
        });
        Ok(chunks.boxed())
    }
}
