//! A driver as a process of its own, and a client of it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use chiton_compute_wire::json::to_struct;
use chiton_compute_wire::v1 as wire;
use chiton_compute_wire::v1::compute_driver_client::ComputeDriverClient;
use chiton_compute_wire::v1::watch_sandboxes_event::Payload;
use chiton_socket::{Dial, own_and_root};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process};
use serde_json::json;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

/// No single step takes longer, or something hangs.
const PATIENCE: Duration = Duration::from_mins(2);

/// A driver with a folder of its own. When it is dropped, everything it made ends.
pub(crate) struct Subject {
    words: Vec<PathBuf>,
    folder: TempDir,
    pub(crate) process: Child,
}

impl Subject {
    pub(crate) fn rust() -> Self {
        Self::of(vec![env!("CARGO_BIN_EXE_chiton-example-driver-rust").into()])
    }

    pub(crate) fn python() -> Option<Self> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../driver-python/driver.py");
        Some(Self::of(vec![crate::venv::python()?, file]))
    }

    fn of(words: Vec<PathBuf>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let process = Self::spawn(&words, folder.path());
        Self { words, folder, process }
    }

    /// Starts it; it listens when this returns.
    fn spawn(words: &[PathBuf], folder: &Path) -> Child {
        let mut process = Self::command(words, folder).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let first = lines.next().and_then(Result::ok).unwrap_or_default();
        assert!(first.starts_with("driver: listening"), "the driver did not begin: {first:?}");
        // What it says besides goes where the tests' own words go.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| eprintln!("{line}")));
        process
    }

    fn command(words: &[PathBuf], folder: &Path) -> Command {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg("--socket").arg(folder.join("run/driver.sock"));
        command.arg("--state").arg(folder.join("state")).stdin(Stdio::null());
        command
    }

    /// Another one of the same kind on the same folder, not waited for.
    pub(crate) fn another(&self) -> Command {
        Self::command(&self.words, self.folder.path())
    }

    /// As a crash ends it, and the next one.
    pub(crate) fn killed_and_back(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = Self::spawn(&self.words, self.folder.path());
    }

    /// The next one after one that ended.
    pub(crate) fn back(&mut self) {
        self.process = Self::spawn(&self.words, self.folder.path());
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("run/driver.sock")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// The folder of a sandbox.
    pub(crate) fn sandbox(&self, id: &str) -> PathBuf {
        self.state().join("sandboxes").join(id)
    }

    /// A pipe by which a sandbox's process says something, as it is written in a script.
    pub(crate) fn pipe(&self, name: &str) -> String {
        let path = self.folder.path().join(name);
        let made = Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        path.display().to_string()
    }

    pub(crate) async fn client(&self) -> Client {
        let dial = Dial { what: "the driver".to_owned(), path: self.socket(), peers: own_and_root(), limit: PATIENCE };
        let endpoint = Endpoint::from_static("http://driver").timeout(PATIENCE);
        let (channel, _) = dial.channel(endpoint).await.unwrap();
        Client { calls: ComputeDriverClient::new(channel.clone()), channel }
    }

    /// Deletes what is there, and looks whether anything of it is left.
    pub(crate) async fn nothing_left(&self) {
        let client = self.client().await;
        for found in client.list().await {
            client.delete(&found.id).await.unwrap();
        }
        assert_eq!(client.list().await, []);
        let left: Vec<_> = fs::read_dir(self.state().join("sandboxes")).unwrap().map(|entry| entry.unwrap()).collect();
        assert!(left.is_empty(), "folders are left: {left:?}");
        // One that a killed driver did not tell to begin ends as soon as it finds out; one that was killed, when it can.
        self.until_none_runs().await;
    }

    /// Waits until every process of a sandbox has ended.
    pub(crate) async fn until_none_runs(&self) {
        let left = self.processes();
        let ended = tokio::task::spawn_blocking(move || left.into_iter().find(|number| !ends(*number)));
        assert_eq!(ended.await.unwrap(), None, "a process is left");
    }

    /// Waits until there are so many processes, and answers which: what was ended may still be ending, and what is just
    /// executing its program has neither words nor variables for a moment.
    pub(crate) async fn until_processes(&self, count: usize, why: &str) -> Vec<i32> {
        let end = Instant::now() + PATIENCE;
        loop {
            let there = self.processes();
            if there.len() == count {
                return there;
            }
            assert!(Instant::now() < end, "{why}: {there:?}");
            tokio::task::yield_now().await;
        }
    }

    /// How many processes there are that are no keepers: main processes, where these have no children.
    pub(crate) fn mains(&self) -> usize {
        let keeps = |number: &i32| {
            let line = fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word == b"--keep")
        };
        self.processes().iter().filter(|number| !keeps(number)).count()
    }

    /// Processes with this driver's folder among their words or variables, the driver left out. One that has ended is none.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let mark = self.state().join("sandboxes").display().to_string();
        let own = i32::try_from(self.process.id()).unwrap();
        let numbers =
            fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        numbers
            .filter(|number: &i32| {
                let text = |file: &str| fs::read(format!("/proc/{number}/{file}")).unwrap_or_default();
                let all = [text("cmdline"), text("environ")].concat();
                *number != own && String::from_utf8_lossy(&all).contains(&mark)
            })
            .collect()
    }

    /// The driver's niceness, to which that of a sandbox is added.
    pub(crate) fn niceness(&self) -> i32 {
        let line = fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        let after_name = line.rsplit_once(')').unwrap().1;
        after_name.split_whitespace().nth(16).unwrap().parse().unwrap()
    }
}

/// Whether a process ends within the patience of a test.
fn ends(number: i32) -> bool {
    let Some(pid) = Pid::from_raw(number) else { return true };
    let Ok(handle) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return true };
    let limit = Timespec { tv_sec: i64::try_from(PATIENCE.as_secs()).unwrap(), tv_nsec: 0 };
    poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&limit)) == Ok(1)
}

impl Drop for Subject {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
        for number in self.processes() {
            if let Some(pid) = Pid::from_raw(number) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// What a gateway calls.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) calls: ComputeDriverClient<Channel>,
    pub(crate) channel: Channel,
}

impl Client {
    pub(crate) async fn create(&self, sandbox: &wire::DriverSandbox) -> Result<(), Status> {
        let request = wire::CreateSandboxRequest { sandbox: Some(sandbox.clone()) };
        self.calls.clone().create_sandbox(request).await.map(drop)
    }

    pub(crate) async fn validate(&self, sandbox: &wire::DriverSandbox) -> Result<(), Status> {
        let request = wire::ValidateSandboxCreateRequest { sandbox: Some(sandbox.clone()) };
        self.calls.clone().validate_sandbox_create(request).await.map(drop)
    }

    pub(crate) async fn start(&self, id: &str, sandbox: Option<wire::DriverSandbox>) -> Result<(), Status> {
        let request = wire::StartSandboxRequest { sandbox_id: id.to_owned(), sandbox_name: String::new(), sandbox };
        self.calls.clone().start_sandbox(request).await.map(drop)
    }

    pub(crate) async fn stop(&self, id: &str) -> Result<(), Status> {
        let request = wire::StopSandboxRequest { sandbox_id: id.to_owned(), sandbox_name: String::new() };
        self.calls.clone().stop_sandbox(request).await.map(drop)
    }

    pub(crate) async fn delete(&self, id: &str) -> Result<bool, Status> {
        let request = wire::DeleteSandboxRequest { sandbox_id: id.to_owned(), sandbox_name: String::new() };
        self.calls.clone().delete_sandbox(request).await.map(|answer| answer.into_inner().deleted)
    }

    pub(crate) async fn get(&self, id: &str) -> Result<wire::DriverSandbox, Status> {
        let request = wire::GetSandboxRequest { sandbox_id: id.to_owned(), sandbox_name: String::new() };
        self.calls.clone().get_sandbox(request).await.map(|answer| answer.into_inner().sandbox.unwrap())
    }

    pub(crate) async fn status(&self, id: &str) -> wire::DriverSandboxStatus {
        self.get(id).await.unwrap().status.unwrap()
    }

    pub(crate) async fn list(&self) -> Vec<wire::DriverSandbox> {
        self.calls.clone().list_sandboxes(wire::ListSandboxesRequest {}).await.unwrap().into_inner().sandboxes
    }

    pub(crate) async fn watch(&self) -> News {
        News(self.calls.clone().watch_sandboxes(wire::WatchSandboxesRequest {}).await.unwrap().into_inner())
    }

    /// The status with which it has ended, which news tell.
    pub(crate) async fn ended(&self, id: &str) -> wire::DriverSandboxStatus {
        let mut news = self.watch().await;
        news.status(id, |status| status.state == "exited").await
    }
}

/// A watch.
pub(crate) struct News(Streaming<wire::WatchSandboxesEvent>);

impl News {
    /// What comes next; the end as an error.
    pub(crate) async fn next(&mut self) -> Result<Payload, Status> {
        let next = tokio::time::timeout(PATIENCE, self.0.message()).await.expect("news within the patience of a test");
        next.map(|event| event.expect("a watch ends with a reason").payload.expect("an event with a payload"))
    }

    /// All that there is, up to the mark.
    pub(crate) async fn snapshot(&mut self) -> Vec<wire::DriverSandbox> {
        let mut found = Vec::new();
        loop {
            match self.next().await.unwrap() {
                Payload::Sandbox(event) => found.push(event.sandbox.unwrap()),
                Payload::SnapshotEnd(_) => return found,
                other => panic!("in a snapshot: {other:?}"),
            }
        }
    }

    /// The first status of a sandbox that is so.
    pub(crate) async fn status(
        &mut self,
        id: &str,
        met: impl Fn(&wire::DriverSandboxStatus) -> bool,
    ) -> wire::DriverSandboxStatus {
        loop {
            if let Payload::Sandbox(event) = self.next().await.unwrap()
                && let Some(found) = event.sandbox
                && found.id == id
                && let Some(status) = found.status
                && met(&status)
            {
                return status;
            }
        }
    }

    pub(crate) async fn deleted(&mut self, id: &str) {
        loop {
            if let Payload::Deleted(event) = self.next().await.unwrap()
                && event.sandbox_id == id
            {
                return;
            }
        }
    }
}

/// What a process says by a pipe: all until it closes it.
pub(crate) async fn heard(pipe: &str) -> String {
    let pipe = pipe.to_owned();
    let reading = tokio::task::spawn_blocking(move || fs::read_to_string(pipe).unwrap());
    tokio::time::timeout(PATIENCE, reading).await.expect("a word from the sandbox").unwrap().trim().to_owned()
}

/// A sandbox that is asked for.
pub(crate) fn sandbox(id: &str, command: &[&str]) -> wire::DriverSandbox {
    let template = wire::DriverSandboxTemplate {
        labels: [("team".to_owned(), "näher".to_owned())].into(),
        ..wire::DriverSandboxTemplate::default()
    };
    wire::DriverSandbox {
        id: id.to_owned(),
        name: format!("name-of-{id}"),
        workspace: "default".to_owned(),
        spec: Some(wire::DriverSandboxSpec {
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            template: Some(template),
            sandbox_token: "a-token-that-nobody-sees".to_owned(),
            agent_attempt: "first".to_owned(),
            ..wire::DriverSandboxSpec::default()
        }),
        ..wire::DriverSandbox::default()
    }
}

pub(crate) fn script(id: &str, script: &str) -> wire::DriverSandbox {
    sandbox(id, &["sh", "-c", script])
}

/// Runs until it is killed, or ends by a TERM.
pub(crate) fn sleeper(id: &str) -> wire::DriverSandbox {
    sandbox(id, &["sleep", "1000"])
}

/// Says by a pipe that it runs, and that it was asked to end, which it does not within its grace of so many seconds.
pub(crate) fn stubborn(id: &str, pipe: &str, grace: u32) -> wire::DriverSandbox {
    let mut asked =
        script(id, &format!("trap 'echo asked > {pipe}' TERM; echo ready > {pipe}; while :; do sleep 0.05; done"));
    template(&mut asked).driver_config = Some(to_struct(&json!({"grace_seconds": grace})));
    asked
}

/// The part of a request that most checks are about.
pub(crate) fn template(sandbox: &mut wire::DriverSandbox) -> &mut wire::DriverSandboxTemplate {
    sandbox.spec.get_or_insert_default().template.get_or_insert_default()
}
