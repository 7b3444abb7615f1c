//! One sandbox as far as its agent is concerned: a folder, a token and the embedded binary.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chiton_gateway::sessions::{AgentClient, Sessions, Tokens, same_digest};
use chiton_model::SandboxId;
use chiton_proto::agent::v1::exec_input::Input;
use chiton_proto::agent::v1::exec_output::Output;
use chiton_proto::agent::v1::{ExecExit, ExecInput, ExecOutput, ExecStart};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

pub(crate) const TOKEN: &str = "the-token-of-this-sandbox";
pub(crate) const ATTEMPT: &str = "a-1";
/// No test waits longer for anything.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Fails a test that waits too long instead of hanging it.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it happens in time")
}

struct OneToken;

#[async_trait]
impl Tokens for OneToken {
    async fn verify(&self, _sandbox: &SandboxId, sha256: &[u8; 32]) -> bool {
        same_digest(sha256, &Sha256::digest(TOKEN.as_bytes()).into())
    }

    async fn start_of(&self, sandbox: &SandboxId, sha256: &[u8; 32]) -> Option<String> {
        self.verify(sandbox, sha256).await.then(|| ATTEMPT.to_owned())
    }
}

pub(crate) fn hub() -> Sessions {
    Sessions::new(Arc::new(OneToken))
}

/// The embedded binary as a file, written once.
pub(crate) fn binary() -> &'static Path {
    static FILE: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    &FILE
        .get_or_init(|| {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let file = folder.path().join("chiton-agent");
            fs::write(&file, chiton_agent_binary::AGENT).expect("written");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("executable");
            (folder, file)
        })
        .1
}

pub(crate) struct Sandbox {
    pub(crate) id: SandboxId,
    pub(crate) sessions: Sessions,
    pub(crate) run: TempDir,
    pub(crate) work: TempDir,
}

impl Sandbox {
    /// A sandbox whose socket is bound and whose agent was not started.
    pub(crate) fn new() -> Self {
        let sandbox = Self {
            id: SandboxId::new("s-test").expect("an id"),
            sessions: hub(),
            run: tempfile::tempdir().expect("a folder"),
            work: tempfile::tempdir().expect("a folder"),
        };
        sandbox.sessions.listen(&sandbox.id, sandbox.run.path()).expect("bound");
        sandbox
    }

    pub(crate) fn command(&self, command: &[&str]) -> Command {
        let mut agent = Command::new(binary());
        agent
            .args(["agent", "--"])
            .args(command)
            .env("CHITON_AGENT_SOCKET", self.run.path().join("agent.sock"))
            .env("CHITON_AGENT_TOKEN", TOKEN)
            .env("CHITON_AGENT_ATTEMPT", ATTEMPT)
            .env("CHITON_AGENT_WORKDIR", self.work.path())
            .env("GREETING", "hello")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        agent
    }

    pub(crate) async fn connected(&self) {
        soon(self.sessions.wait_connected(&self.id, ATTEMPT)).await.expect("connected");
    }

    pub(crate) fn client(&self) -> AgentClient {
        self.sessions.client(&self.id).expect("a client")
    }
}

/// A sandbox with a connected agent and no main program.
pub(crate) async fn ready() -> (Sandbox, Child) {
    let sandbox = Sandbox::new();
    let agent = sandbox.command(&[]).spawn().expect("started");
    sandbox.connected().await;
    (sandbox, agent)
}

/// An exec under way.
pub(crate) struct Call {
    pub(crate) input: mpsc::Sender<ExecInput>,
    pub(crate) output: Streaming<ExecOutput>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) pid: i32,
}

pub(crate) fn start(argv: &[&str]) -> ExecStart {
    ExecStart { argv: argv.iter().map(|&text| text.to_owned()).collect(), ..ExecStart::default() }
}

impl Call {
    pub(crate) async fn begin(client: &mut AgentClient, start: ExecStart) -> Result<Self, Status> {
        let (input, inputs) = mpsc::channel(64);
        input.send(ExecInput { input: Some(Input::Start(start)) }).await.expect("room");
        let output = soon(client.exec(ReceiverStream::new(inputs))).await?.into_inner();
        Ok(Self { input, output, stdout: Vec::new(), stderr: Vec::new(), pid: 0 })
    }

    pub(crate) async fn send(&self, input: Input) {
        soon(self.input.send(ExecInput { input: Some(input) })).await.expect("the call takes input");
    }

    pub(crate) async fn stdin(&self, bytes: &'static [u8]) {
        self.send(Input::Stdin(Bytes::from_static(bytes))).await;
    }

    /// Takes output until standard output holds the text.
    pub(crate) async fn until(&mut self, text: &str) {
        while !String::from_utf8_lossy(&self.stdout).contains(text) {
            assert_eq!(self.next().await, None, "the program ended before it wrote {text:?}");
        }
    }

    pub(crate) async fn started(&mut self) {
        while self.pid == 0 {
            assert_eq!(self.next().await, None, "the program did not start");
        }
    }

    async fn next(&mut self) -> Option<ExecExit> {
        let message = soon(self.output.message()).await.expect("no error").expect("an exit comes before the end");
        match message.output.expect("a known output") {
            Output::Started(pid) => self.pid = pid,
            Output::Stdout(bytes) => self.stdout.extend_from_slice(&bytes),
            Output::Stderr(bytes) => self.stderr.extend_from_slice(&bytes),
            Output::Exit(exit) => return Some(exit),
        }
        None
    }

    pub(crate) async fn end(&mut self) -> ExecExit {
        loop {
            if let Some(exit) = self.next().await {
                assert!(soon(self.output.message()).await.expect("no error").is_none(), "the exit is the last message");
                return exit;
            }
        }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// Runs a program to its end with no input.
pub(crate) async fn run(client: &mut AgentClient, start: ExecStart) -> (Call, ExecExit) {
    let mut call = Call::begin(client, start).await.expect("accepted");
    // A program that did not start has ended the call already.
    let _ = call.input.send(ExecInput { input: Some(Input::StdinEnd(true)) }).await;
    let exit = call.end().await;
    (call, exit)
}
