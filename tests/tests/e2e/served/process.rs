//! A served driver of a test's own: the real program in a folder of its own, killed and started again at will.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use chiton_compute_wire::v1;
use chiton_compute_wire::v1::compute_driver_client::ComputeDriverClient;
use chiton_compute_wire::v1::watch_sandboxes_event::Payload;
use chiton_socket::{Dial, own_and_root};
use rustix::process::{Pid, Signal, kill_process};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status, Streaming};

use crate::harness::PROGRAM;

/// No call and no wait of these tests takes longer on a machine that works.
const DEADLINE: Duration = Duration::from_mins(1);

pub(crate) type Client = ComputeDriverClient<Channel>;

pub(crate) struct Served {
    folder: PathBuf,
    arguments: Vec<String>,
    child: Option<Child>,
    runtime: Runtime,
}

impl Served {
    /// Serves a driver from this folder; `config` may be empty.
    pub(crate) fn start(folder: &Path, config: &str, arguments: &[&str]) -> Self {
        std::fs::create_dir_all(folder).expect("a folder");
        let text = config.replace("{folder}", &folder.to_string_lossy());
        std::fs::write(folder.join("chiton.toml"), text).expect("a config");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let mut served = Self {
            folder: folder.to_owned(),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            child: None,
            runtime: runtime.expect("a runtime"),
        };
        served.begin();
        served
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("socket/driver.sock")
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts the program and waits until it takes calls.
    pub(crate) fn begin(&mut self) {
        let mut child = Command::new(PROGRAM)
            .args(["driver", "serve"])
            .arg("--config")
            .arg(self.folder.join("chiton.toml"))
            .arg("--data-dir")
            .arg(self.folder.join("data"))
            .arg("--listen")
            .arg(format!("unix://{}", self.socket().display()))
            .args(&self.arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program");
        let lines = BufReader::new(child.stderr.take().expect("its standard error")).lines();
        let (sender, begun) = channel();
        std::thread::spawn(move || {
            let mut before = String::new();
            for line in lines.map_while(Result::ok) {
                before = format!("{before}{line}\n");
                if line.starts_with("serving on ") {
                    _ = sender.send(Ok(()));
                }
            }
            _ = sender.send(Err(before));
        });
        match begun.recv_timeout(DEADLINE) {
            Ok(Ok(())) => self.child = Some(child),
            Ok(Err(said)) => panic!("the driver did not start:\n{said}"),
            Err(late) => panic!("the driver did not start in time: {late}"),
        }
    }

    pub(crate) fn kill(&mut self) {
        self.end(Signal::KILL);
    }

    /// Kills it from another thread. Its end is still to be waited for, by [`Served::kill`].
    pub(crate) fn killer(&self) -> impl FnOnce() + Send + use<> {
        let pid = Pid::from_child(self.child.as_ref().expect("it runs"));
        move || kill_process(pid, Signal::KILL).expect("a signal")
    }

    pub(crate) fn end(&mut self, signal: Signal) {
        let mut child = self.child.take().expect("it runs");
        kill_process(Pid::from_child(&child), signal).expect("a signal");
        child.wait().expect("its end");
    }

    /// Calls the driver as a gateway does.
    pub(crate) fn ask<T>(&self, call: impl AsyncFnOnce(Client) -> Result<Response<T>, Status>) -> Result<T, Status> {
        let dial = Dial {
            what: "driver".to_owned(),
            path: self.socket(),
            // A socket of our own that is open to others is dialled only by who knows of them.
            peers: own_and_root().into_iter().chain([4242]).collect(),
            limit: Duration::from_secs(10),
        };
        self.runtime.block_on(async {
            let asked = async {
                let endpoint = Endpoint::from_static("http://localhost");
                let dialled = dial.channel(endpoint).await;
                let (channel, _) = dialled.map_err(|error| Status::unavailable(error.message))?;
                call(Client::new(channel)).await.map(Response::into_inner)
            };
            tokio::time::timeout(DEADLINE, asked).await.expect("an answer in time")
        })
    }

    /// Goes on beside the test.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.runtime.spawn(work)
    }

    pub(crate) fn create(&self, sandbox: v1::DriverSandbox) -> Result<(), Status> {
        let request = v1::CreateSandboxRequest { sandbox: Some(sandbox) };
        self.ask(async |mut client: Client| client.create_sandbox(request).await).map(drop)
    }

    pub(crate) fn get(&self, id: &str) -> Option<v1::DriverSandbox> {
        let request = v1::GetSandboxRequest { sandbox_id: id.to_owned(), sandbox_name: String::new() };
        match self.ask(async |mut client: Client| client.get_sandbox(request).await) {
            Ok(found) => found.sandbox,
            Err(status) if status.code() == tonic::Code::NotFound => None,
            Err(status) => panic!("get failed: {status}"),
        }
    }

    pub(crate) fn list(&self) -> Vec<String> {
        let listed = self.ask(async |mut client: Client| client.list_sandboxes(v1::ListSandboxesRequest {}).await);
        listed.expect("a list").sandboxes.into_iter().map(|sandbox| sandbox.id).collect()
    }

    pub(crate) fn start_sandbox(&self, id: &str) -> Result<(), Status> {
        let request = v1::StartSandboxRequest { sandbox_id: id.to_owned(), ..v1::StartSandboxRequest::default() };
        self.ask(async |mut client: Client| client.start_sandbox(request).await).map(drop)
    }

    pub(crate) fn stop(&self, id: &str) -> Result<(), Status> {
        let request = v1::StopSandboxRequest { sandbox_id: id.to_owned(), sandbox_name: String::new() };
        self.ask(async |mut client: Client| client.stop_sandbox(request).await).map(drop)
    }

    pub(crate) fn delete(&self, id: &str) -> Result<bool, Status> {
        let request = v1::DeleteSandboxRequest { sandbox_id: id.to_owned(), sandbox_name: String::new() };
        self.ask(async |mut client: Client| client.delete_sandbox(request).await).map(|answer| answer.deleted)
    }

    /// News from now on, until one is what is waited for.
    pub(crate) fn watch_until(&self, wanted: impl Fn(&Payload) -> bool) {
        let watched = self.ask(async |mut client: Client| {
            let mut news: Streaming<v1::WatchSandboxesEvent> =
                client.watch_sandboxes(v1::WatchSandboxesRequest {}).await?.into_inner();
            while let Some(event) = news.message().await? {
                if event.payload.as_ref().is_some_and(&wanted) {
                    return Ok(Response::new(()));
                }
            }
            Err(Status::unavailable("the news ended"))
        });
        watched.expect("the news");
    }

    /// Waits until the driver says this of a sandbox, by its news: they begin with what is.
    #[track_caller]
    pub(crate) fn until(&self, id: &str, state: &str) -> v1::DriverSandbox {
        let said = |sandbox: &v1::DriverSandbox| {
            sandbox.id == id && sandbox.status.as_ref().is_some_and(|status| status.state == state)
        };
        if state != "absent" {
            self.watch_until(|payload| match payload {
                Payload::Sandbox(event) => event.sandbox.as_ref().is_some_and(said),
                _ => false,
            });
        } else if self.get(id).is_some() {
            self.watch_until(|payload| matches!(payload, Payload::Deleted(gone) if gone.sandbox_id == id));
        }
        let found = self.get(id);
        assert_eq!(found.is_none(), state == "absent", "{found:#?}");
        found.unwrap_or_default()
    }
}

/// Lets a time pass: where a test is about whatever moment comes.
pub(crate) fn pass(time: Duration) {
    let began = Instant::now();
    while began.elapsed() < time {
        std::thread::park_timeout(time.saturating_sub(began.elapsed()));
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// A main process that goes on until it is asked to end. As a sandbox's first process `sleep` alone would not hear.
pub(crate) const IDLE: [&str; 3] = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done"];

/// A sandbox as a gateway that knows nothing of us asks for it.
pub(crate) fn stock(id: &str, name: &str, command: &[&str]) -> v1::DriverSandbox {
    let template = v1::DriverSandboxTemplate { image: "host".to_owned(), ..v1::DriverSandboxTemplate::default() };
    v1::DriverSandbox {
        id: id.to_owned(),
        name: name.to_owned(),
        workspace: "default".to_owned(),
        spec: Some(v1::DriverSandboxSpec {
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            template: Some(template),
            sandbox_token: "a token of the gateway's".to_owned(),
            ..v1::DriverSandboxSpec::default()
        }),
        ..v1::DriverSandbox::default()
    }
}
