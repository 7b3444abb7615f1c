//! A gateway that answers what it was told to: the command line is tested alone, over a real socket.

use std::any::Any;
use std::collections::HashMap;
use std::fmt::Debug;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use chiton_client::to_status;
use chiton_model::Error;
use chiton_proto::agent::v1 as agent;
use chiton_proto::agent::v1::exec_input::Input;
use chiton_proto::v1 as wire;
use chiton_proto::v1::gateway_server::{Gateway, GatewayServer};
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, Streaming};

type Answer<T> = Result<Response<T>, Status>;
type Stream<T> = BoxStream<'static, Result<T, Status>>;

/// What a scripted exec does after its outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// Ends the stream.
    End,
    /// Gives standard input back, and exits with 0 at its end.
    Echo,
    /// Exits with 128 and the number of the first signal that comes.
    Signal,
    /// Takes no input and never ends.
    Hang,
}

#[derive(Default)]
struct Script {
    answers: Mutex<HashMap<&'static str, Box<dyn Any + Send>>>,
    asked: Mutex<Vec<(&'static str, String)>>,
    then: Mutex<Option<Then>>,
}

impl Script {
    fn note(&self, method: &'static str, request: &impl Debug) {
        self.asked.lock().expect("no panic").push((method, format!("{request:?}")));
    }

    fn all<T: Clone + 'static>(&self, method: &'static str) -> Result<Vec<T>, Status> {
        let answers = self.answers.lock().expect("no panic");
        let answer = answers.get(method).ok_or_else(|| Status::internal(format!("{method} is not in the script")))?;
        let answer = answer.downcast_ref::<Result<Vec<T>, Error>>().expect("the script has the method's own type");
        answer.clone().map_err(|error| to_status(&error))
    }

    fn one<T: Clone + 'static>(&self, method: &'static str) -> Answer<T> {
        let mut all = self.all(method)?;
        Ok(Response::new(all.pop().expect("one answer")))
    }

    fn many<T: Clone + Send + 'static>(&self, method: &'static str) -> Answer<Stream<T>> {
        Ok(Response::new(stream::iter(self.all(method)?.into_iter().map(Ok)).boxed()))
    }
}

#[derive(Clone)]
struct Scripted(Arc<Script>);

/// Unary methods and those that stream answers. Written out as `async_trait` writes it, which does not look into macros.
macro_rules! methods {
    ($($how:ident $name:ident($request:ty) -> $response:ty;)+) => {
        $(
            fn $name<'a, 'async_trait>(&'a self, request: Request<$request>) -> BoxFuture<'async_trait, Answer<$response>>
            where
                'a: 'async_trait,
                Self: 'async_trait,
            {
                self.0.note(stringify!($name), &request.into_inner());
                let answer = self.0.$how(stringify!($name));
                Box::pin(std::future::ready(answer))
            }
        )+
    };
}

/// Methods that take a stream: it is read to its end first.
macro_rules! taking {
    ($($name:ident($request:ty) -> $response:ty;)+) => {
        $(
            fn $name<'a, 'async_trait>(&'a self, request: Request<Streaming<$request>>) -> BoxFuture<'async_trait, Answer<$response>>
            where
                'a: 'async_trait,
                Self: 'async_trait,
            {
                Box::pin(async move {
                    let mut input = request.into_inner();
                    while let Some(message) = input.message().await? {
                        self.0.note(stringify!($name), &message);
                    }
                    self.0.one(stringify!($name))
                })
            }
        )+
    };
}

impl Gateway for Scripted {
    type WatchSandboxesStream = Stream<wire::WatchSandboxesEvent>;
    type WaitOperationStream = Stream<wire::WaitOperationEvent>;
    type ExecSandboxStream = Stream<agent::ExecOutput>;
    type ReadFileStream = Stream<agent::FileChunk>;
    type ReadTarStream = Stream<agent::FileChunk>;
    type GetLogsStream = Stream<wire::LogChunk>;
    type PullImageStream = Stream<wire::PullImageEvent>;
    type BackupStream = Stream<wire::BackupPart>;

    methods! {
        one get_info(wire::GetInfoRequest) -> wire::GetInfoResponse;
        one create_sandbox(wire::CreateSandboxRequest) -> wire::OperationResponse;
        one get_sandbox(wire::GetSandboxRequest) -> wire::Sandbox;
        one list_sandboxes(wire::ListSandboxesRequest) -> wire::ListSandboxesResponse;
        many watch_sandboxes(wire::WatchSandboxesRequest) -> Self::WatchSandboxesStream;
        one start_sandbox(wire::SandboxRequest) -> wire::OperationResponse;
        one stop_sandbox(wire::SandboxRequest) -> wire::OperationResponse;
        one delete_sandbox(wire::DeleteSandboxRequest) -> wire::OperationResponse;
        many wait_operation(wire::WaitOperationRequest) -> Self::WaitOperationStream;
        many read_file(wire::ReadFileRequest) -> Self::ReadFileStream;
        many read_tar(wire::ReadFileRequest) -> Self::ReadTarStream;
        one stat(wire::ReadFileRequest) -> agent::StatResponse;
        many get_logs(wire::GetLogsRequest) -> Self::GetLogsStream;
        many backup(wire::BackupRequest) -> Self::BackupStream;
        one plan_sandbox(wire::CreateSandboxRequest) -> wire::PlanSandboxResponse;
        one explain_sandbox(wire::GetSandboxRequest) -> wire::ExplainSandboxResponse;
        one get_timeline(wire::GetSandboxRequest) -> wire::GetTimelineResponse;
        one list_obligations(wire::ListObligationsRequest) -> wire::ListObligationsResponse;
        one discharge_obligation(wire::DischargeObligationRequest) -> wire::DischargeObligationResponse;
        one list_orphans(wire::ListOrphansRequest) -> wire::ListOrphansResponse;
        one adopt_orphan(wire::OrphanRequest) -> wire::OrphanResponse;
        one delete_orphan(wire::OrphanRequest) -> wire::OrphanResponse;
        one list_extensions(wire::ListExtensionsRequest) -> wire::ListExtensionsResponse;
        one list_drivers(wire::ListDriversRequest) -> wire::ListDriversResponse;
        one list_images(wire::ListImagesRequest) -> wire::ListImagesResponse;
        many pull_image(wire::PullImageRequest) -> Self::PullImageStream;
        one remove_image(wire::RemoveImageRequest) -> wire::RemoveImagesResponse;
        one prune_images(wire::PruneImagesRequest) -> wire::RemoveImagesResponse;
        one list_workspaces(wire::ListWorkspacesRequest) -> wire::ListWorkspacesResponse;
        one delete_workspace(wire::DeleteWorkspaceRequest) -> wire::DeleteWorkspaceResponse;
        one list_volumes(wire::ListVolumesRequest) -> wire::ListVolumesResponse;
        one create_volume(wire::CreateVolumeRequest) -> wire::Volume;
        one delete_volume(wire::DeleteVolumeRequest) -> wire::DeleteVolumeResponse;
        one get_config(wire::GetConfigRequest) -> wire::GetConfigResponse;
    }
    taking! {
        write_file(wire::WriteFileRequest) -> agent::WriteFileResponse;
        write_tar(wire::WriteTarRequest) -> agent::WriteTarResponse;
    }

    fn exec_sandbox<'a, 'async_trait>(
        &'a self,
        request: Request<Streaming<wire::ExecSandboxRequest>>,
    ) -> BoxFuture<'async_trait, Answer<Self::ExecSandboxStream>>
    where
        'a: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move {
            let mut input = request.into_inner();
            // Which sandbox, and the start.
            for _ in 0..2 {
                self.0.note("exec_sandbox", &input.message().await?);
            }
            let first = stream::iter(self.0.all("exec_sandbox")?.into_iter().map(Ok));
            let then = self.0.then.lock().expect("no panic").unwrap_or(Then::End);
            Ok(Response::new(match then {
                Then::End => first.boxed(),
                Then::Hang => first.chain(stream::pending()).boxed(),
                Then::Echo | Then::Signal => first.chain(react(Arc::clone(&self.0), input)).boxed(),
            }))
        })
    }
}

fn react(
    script: Arc<Script>,
    input: Streaming<wire::ExecSandboxRequest>,
) -> impl futures::Stream<Item = Result<agent::ExecOutput, Status>> + Send {
    let echoes = *script.then.lock().expect("no panic") == Some(Then::Echo);
    stream::unfold(Some((script, input)), move |state| async move {
        let (script, mut input) = state?;
        loop {
            let message = input.message().await.ok()??;
            let Some(wire::exec_sandbox_request::Input::Exec(agent::ExecInput { input: Some(message) })) =
                message.input
            else {
                return Some((Err(Status::invalid_argument("no exec input")), None));
            };
            match message {
                Input::Stdin(data) if echoes => return Some((Ok(stdout(&data)), Some((script, input)))),
                Input::StdinEnd(_) if echoes => return Some((Ok(exit(0)), None)),
                Input::Signal(signal) => return Some((Ok(exit(128 + signal)), None)),
                other => script.note("exec_sandbox", &other),
            }
        }
    })
}

pub(crate) fn started() -> agent::ExecOutput {
    agent::ExecOutput { output: Some(agent::exec_output::Output::Started(7)) }
}

pub(crate) fn stdout(data: &[u8]) -> agent::ExecOutput {
    agent::ExecOutput { output: Some(agent::exec_output::Output::Stdout(data.to_vec().into())) }
}

pub(crate) fn stderr(data: &[u8]) -> agent::ExecOutput {
    agent::ExecOutput { output: Some(agent::exec_output::Output::Stderr(data.to_vec().into())) }
}

pub(crate) fn exit(code: i32) -> agent::ExecOutput {
    ended(agent::ExecExit { code, ..agent::ExecExit::default() })
}

pub(crate) fn ended(exit: agent::ExecExit) -> agent::ExecOutput {
    agent::ExecOutput { output: Some(agent::exec_output::Output::Exit(exit)) }
}

/// A running scripted gateway with a folder of its own.
pub(crate) struct Server {
    script: Arc<Script>,
    pub(crate) folder: TempDir,
    _runtime: tokio::runtime::Runtime,
}

/// What a run of the program gave.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).expect("UTF-8"),
            err: String::from_utf8(output.stderr).expect("UTF-8"),
        }
    }
}

impl Server {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runs");
        let script = Arc::new(Script::default());
        let listener = runtime.block_on(async { UnixListener::bind(folder.path().join("s")).expect("listens") });
        let service = GatewayServer::new(Scripted(Arc::clone(&script)));
        runtime.spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(UnixListenerStream::new(listener)),
        );
        Self { script, folder, _runtime: runtime }
    }

    /// The method answers this from now on.
    pub(crate) fn answers<T: Clone + Send + 'static>(&self, method: &'static str, answer: T) -> &Self {
        self.streams(method, vec![answer])
    }

    /// The method streams these from now on.
    pub(crate) fn streams<T: Clone + Send + 'static>(&self, method: &'static str, answers: Vec<T>) -> &Self {
        let answers: Result<Vec<T>, Error> = Ok(answers);
        self.script.answers.lock().expect("no panic").insert(method, Box::new(answers));
        self
    }

    /// The method, whose answers are of type `T`, fails from now on.
    pub(crate) fn fails<T: Clone + Send + 'static>(&self, method: &'static str, error: Error) -> &Self {
        let answers: Result<Vec<T>, Error> = Err(error);
        self.script.answers.lock().expect("no panic").insert(method, Box::new(answers));
        self
    }

    /// Execs give this out, and then do that.
    pub(crate) fn execs(&self, outputs: Vec<agent::ExecOutput>, then: Then) -> &Self {
        *self.script.then.lock().expect("no panic") = Some(then);
        self.streams("exec_sandbox", outputs)
    }

    /// What the method was asked, in order.
    pub(crate) fn asked(&self, method: &str) -> Vec<String> {
        let asked = self.script.asked.lock().expect("no panic");
        asked.iter().filter(|(name, _)| *name == method).map(|(_, request)| request.clone()).collect()
    }

    /// The program, ready to be run against this gateway.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program(arguments);
        command.env("CHITON_GATEWAY", self.socket()).current_dir(self.folder.path());
        command
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("s")
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        self.command(arguments).output().expect("runs").into()
    }

    /// With this on standard input.
    pub(crate) fn feed(&self, arguments: &[&str], input: &[u8]) -> Ran {
        use std::io::Write as _;
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("runs");
        let mut stdin = child.stdin.take().expect("a pipe");
        let input = input.to_vec();
        let feeding = std::thread::spawn(move || stdin.write_all(&input));
        let ran = child.wait_with_output().expect("ends").into();
        feeding.join().expect("no panic").expect("all of it was read");
        ran
    }
}

/// The program with an empty environment, save for what it needs.
pub(crate) fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chiton"));
    command.args(arguments).env_clear().stdin(Stdio::null());
    command
}
