//! A gateway's hub with a server of supervisors, and sandboxes that are admitted.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chiton_gateway::Listen;
use chiton_gateway::sessions::{AgentClient, Exits, Sessions, Tokens, same_digest};
use chiton_model::{Error, SandboxId};
use chiton_openshell_session::{Handle, Limits, Options, serve};
use chiton_proto::agent::v1::exec_input::Input;
use chiton_proto::agent::v1::exec_output::Output;
use chiton_proto::agent::v1::{ExecExit, ExecInput, ExecOutput, ExecStart};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::supervisor::{Answer, Script, Supervisor};

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_mins(1);
pub(crate) const TOKEN: &str = "the-token-of-the-first-start";

/// Fails a test that waits too long instead of hanging it.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it happens in time")
}

/// The current starts: sandbox, token, attempt.
#[derive(Default)]
pub(crate) struct Book(Mutex<HashMap<SandboxId, (String, String)>>);

impl Book {
    /// A sandbox was started (again): it has a new token.
    pub(crate) fn start(&self, sandbox: &SandboxId, token: &str, attempt: &str) {
        self.0.lock().expect("whole").insert(sandbox.clone(), (token.to_owned(), attempt.to_owned()));
    }
}

#[async_trait]
impl Tokens for Book {
    async fn verify(&self, sandbox: &SandboxId, sha256: &[u8; 32]) -> bool {
        self.start_of(sandbox, sha256).await.is_some()
    }

    async fn start_of(&self, sandbox: &SandboxId, sha256: &[u8; 32]) -> Option<String> {
        let book = self.0.lock().expect("whole");
        let (token, attempt) = book.get(sandbox)?;
        same_digest(sha256, &Sha256::digest(token.as_bytes()).into()).then(|| attempt.clone())
    }
}

/// Exits as they were told.
pub(crate) struct Told(mpsc::UnboundedSender<(String, String, i32)>);

#[async_trait]
impl Exits for Told {
    async fn exited(&self, sandbox: &SandboxId, attempt: &str, code: i32) -> Result<(), Error> {
        let gone = |_| Error::unavailable("test", "nobody listens");
        self.0.send((sandbox.to_string(), attempt.to_owned(), code)).map_err(gone)
    }
}

pub(crate) struct Rig {
    pub(crate) book: Arc<Book>,
    pub(crate) sessions: Sessions,
    pub(crate) server: Handle,
    pub(crate) exits: mpsc::UnboundedReceiver<(String, String, i32)>,
    pub(crate) id: SandboxId,
    home: TempDir,
}

/// For what should not end by time: a busy machine may take its time for all of it.
pub(crate) fn limits() -> Limits {
    Limits { relay: Duration::from_mins(2), ..Limits::default() }
}

/// Any port of this machine's.
pub(crate) fn loopback() -> Listen {
    Listen::Tcp((std::net::Ipv4Addr::LOCALHOST, 0).into())
}

pub(crate) fn id(text: &str) -> SandboxId {
    SandboxId::new(text).expect("an id")
}

impl Rig {
    /// One sandbox `s-1`, admitted, in its start `a-1`.
    pub(crate) async fn new(limits: Limits) -> Self {
        Self::at(loopback(), limits).await
    }

    /// The same, whose server listens there.
    pub(crate) async fn at(listen: Listen, limits: Limits) -> Self {
        let book = Arc::new(Book::default());
        let sessions = Sessions::new(Arc::clone(&book) as _);
        let (sender, exits) = mpsc::unbounded_channel();
        let options = Options { limits, exits: Arc::new(Told(sender)), ..Options::new(listen) };
        let server = serve(Arc::clone(&book) as _, sessions.clone(), options).await.expect("served");
        let home = tempfile::tempdir().expect("a folder");
        // Profiles write things on both streams.
        std::fs::write(home.path().join(".profile"), "echo Welcome to the sandbox\necho Mind the gap >&2\n")
            .expect("written");
        let rig = Self { book, sessions, server, exits, id: id("s-1"), home };
        rig.book.start(&rig.id, TOKEN, "a-1");
        rig.sessions.admit(&rig.id);
        rig
    }

    /// One with its supervisor connected.
    pub(crate) async fn ready() -> (Self, Supervisor) {
        let rig = Self::new(limits()).await;
        let supervisor = rig.dial(rig.script()).await.expect("accepted");
        (rig, supervisor)
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.server.listen())
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.home.path().to_owned()
    }

    pub(crate) fn script(&self) -> Script {
        Script { instance: "run-1".to_owned(), answer: Answer::Open, beats: true, home: self.home() }
    }

    pub(crate) async fn dial(&self, script: Script) -> Result<Supervisor, String> {
        Supervisor::dial(&self.endpoint(), TOKEN, self.id.as_str(), script).await
    }

    /// A client as the gateway's API takes it.
    pub(crate) fn agent(&self) -> AgentClient {
        self.sessions.client(&self.id).expect("a session")
    }

    /// Runs a program to its end without input.
    pub(crate) async fn run(&self, argv: &[&str]) -> Done {
        self.run_with(start(argv), &[]).await
    }

    /// Runs a program to its end.
    pub(crate) async fn run_with(&self, start: ExecStart, stdin: &[u8]) -> Done {
        let call = Call::begin(&mut self.agent(), start).await.expect("accepted");
        let input = call.input.clone();
        let pieces: Vec<Bytes> = stdin.chunks(32 * 1024).map(Bytes::copy_from_slice).collect();
        let feeding = tokio::spawn(async move {
            for piece in pieces {
                if input.send(ExecInput { input: Some(Input::Stdin(piece)) }).await.is_err() {
                    return;
                }
            }
            // A program that ended has no more input.
            drop(input.send(ExecInput { input: Some(Input::StdinEnd(true)) }).await);
        });
        let done = call.end().await;
        feeding.abort();
        done
    }
}

pub(crate) fn start(argv: &[&str]) -> ExecStart {
    ExecStart { argv: argv.iter().map(|&text| text.to_owned()).collect(), ..ExecStart::default() }
}

/// A program that ended.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) pid: i32,
    pub(crate) exit: ExecExit,
}

impl Done {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// An exec under way.
pub(crate) struct Call {
    pub(crate) input: mpsc::Sender<ExecInput>,
    output: Streaming<ExecOutput>,
    pub(crate) stdout: Vec<u8>,
    stderr: Vec<u8>,
    pub(crate) pid: i32,
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

    /// Takes output until standard output holds the text.
    pub(crate) async fn until(&mut self, text: &str) {
        while !String::from_utf8_lossy(&self.stdout).contains(text) {
            let exit = self.next().await.expect("no error");
            assert_eq!(exit, None, "the program ended before it wrote {text:?}: {self:?}");
        }
    }

    /// Takes one message; gives the exit when it is that.
    pub(crate) async fn next(&mut self) -> Result<Option<ExecExit>, Status> {
        let message = soon(self.output.message()).await?.expect("an exit comes before the end");
        match message.output.expect("a known output") {
            Output::Started(pid) => {
                assert!(self.stdout.is_empty() && self.stderr.is_empty(), "output before the start");
                self.pid = pid;
            }
            Output::Stdout(bytes) => self.stdout.extend_from_slice(&bytes),
            Output::Stderr(bytes) => self.stderr.extend_from_slice(&bytes),
            Output::Exit(exit) => return Ok(Some(exit)),
        }
        Ok(None)
    }

    pub(crate) async fn end(mut self) -> Done {
        loop {
            if let Some(exit) = self.next().await.expect("no error") {
                assert!(soon(self.output.message()).await.expect("no error").is_none(), "the exit is the last message");
                return Done { stdout: self.stdout, stderr: self.stderr, pid: self.pid, exit };
            }
        }
    }
}

impl std::fmt::Debug for Call {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        write!(to, "stdout {:?}, stderr {:?}", text(&self.stdout), text(&self.stderr))
    }
}
