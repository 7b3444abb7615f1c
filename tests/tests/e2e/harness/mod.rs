//! A gateway of a test's own: the real program in a folder of its own, asked by its own command line and API, killed and
//! started again at will. When it is dropped everything of it is deleted, and the machine is looked at: what is left of
//! it is a failure of the test.

mod alone;
pub(crate) mod terminal;
pub(crate) mod user;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use chiton_client::Client;
use chiton_proto::v1 as wire;
use chiton_tests::crash::leftovers;
use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::runtime::Runtime;

use alone::Holder;

/// No command and no wait of these tests takes longer on a machine that works.
const DEADLINE: Duration = Duration::from_mins(1);
/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_chiton-test");

/// Whether the test can run here; says by name when it cannot.
pub(crate) fn root() -> bool {
    let can = rustix::process::geteuid().is_root();
    if !can {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("a test").to_owned();
        // Not by a macro, which the test runner would swallow.
        drop(writeln!(std::io::stderr(), "SKIPPED {name}: it makes real sandboxes, which needs root"));
    }
    can
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    /// Its standard output; fails the test when the command failed.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "the command failed: {self:#?}");
        self.stdout
    }

    /// What it said about its failure; fails the test when it did not fail.
    #[track_caller]
    pub(crate) fn refused(self) -> String {
        assert_eq!(self.code, 1, "the command was to be refused: {self:#?}");
        self.stderr
    }
}

/// One line of the fault extension's `calls.jsonl`.
pub(crate) type Call = Value;

/// How much of the machine a gateway's test needs.
#[derive(Clone, Copy)]
pub(crate) enum Share {
    /// Others may run beside it.
    Part,
    /// It measures or races: nothing else may run.
    Whole,
}

/// Waits for a share of the machine; it is held until the file is dropped.
pub(crate) fn share(share: Share) -> File {
    let lock = File::create(Path::new(PROGRAM).with_extension("lock")).expect("a lock file");
    let mode = match share {
        Share::Part => FlockOperation::LockShared,
        Share::Whole => FlockOperation::LockExclusive,
    };
    rustix::fs::flock(&lock, mode).expect("a share of the machine");
    lock
}

/// A gateway of a test's own.
pub(crate) struct Gateway {
    folder: TempDir,
    child: Option<Child>,
    /// Variables of the program's, by which it is another build.
    surroundings: Vec<(&'static str, String)>,
    /// What it said on standard error, over all its lives.
    said: Arc<Mutex<Vec<String>>>,
    /// Told of every line of that.
    news: Arc<Condvar>,
    /// What is run as the gateway from its next start on: the program, with what makes another machine of this one before it.
    program: Vec<PathBuf>,
    /// How many files it may have open, where it is limited.
    files: Option<u32>,
    id: String,
    runtime: Runtime,
    /// As whom it runs, when not as root.
    _user: Option<user::User>,
    /// Who keeps its network, when that is not the machine's.
    _network: Option<Holder>,
    _share: File,
}

impl Gateway {
    /// Starts a gateway. `{folder}` in the config stands for the folder of the test.
    pub(crate) fn start(config: &str) -> Self {
        Self::sharing(config, Share::Part)
    }

    pub(crate) fn sharing(config: &str, share: Share) -> Self {
        Self::run_by(config, share, user::By::Root)
    }

    /// The same, in a network namespace of its own for all its lives, with a loopback interface and nothing else.
    pub(crate) fn on_a_network_of_its_own(config: &str, share: Share) -> Self {
        Self::of(config, share, user::By::Root, Some(Holder::new()))
    }

    /// The same, run by this kind of user.
    pub(crate) fn run_by(config: &str, share: Share, by: user::By) -> Self {
        Self::of(config, share, by, None)
    }

    fn of(config: &str, share: Share, by: user::By, network: Option<Holder>) -> Self {
        let lock = self::share(share);
        let folder = tempfile::Builder::new().prefix("chiton-e2e-").tempdir().expect("a folder");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (said, news, surroundings) = (Arc::default(), Arc::default(), Vec::new());
        let user = (by == user::By::User).then(|| user::User::new(folder.path()));
        let program = match (&network, &user) {
            (Some(holder), _) => holder.program(),
            (None, Some(user)) => user.program(folder.path()),
            (None, None) => vec![PROGRAM.into()],
        };
        let mut gateway = Self {
            folder,
            child: None,
            surroundings,
            said,
            news,
            program,
            files: None,
            id: String::new(),
            runtime,
            _user: user,
            _network: network,
            _share: lock,
        };
        gateway.configure(config);
        gateway.begin();
        let info = gateway.ask(async |mut client| client.get_info(wire::GetInfoRequest {}).await);
        gateway.id = info.expect("facts").into_inner().gateway_id;
        gateway
    }

    /// Writes the config that the next start reads.
    pub(crate) fn configure(&self, config: &str) {
        let text = config.replace("{folder}", &self.folder.path().to_string_lossy());
        fs::write(self.path("chiton.toml"), text).expect("a config");
    }

    /// What the next start finds in its environment.
    pub(crate) fn surround(&mut self, variables: &[(&'static str, &str)]) {
        self.surroundings = variables.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    }

    /// Starts the program and waits until it serves.
    #[track_caller]
    pub(crate) fn begin(&mut self) {
        self.begin_with(&[]);
    }

    /// The same with more arguments.
    #[track_caller]
    pub(crate) fn begin_with(&mut self, arguments: &[&str]) {
        if let Err(said) = self.try_begin_with(arguments) {
            panic!("the gateway did not start:\n{said}");
        }
    }

    /// Starts the program; what it said when it did not begin to serve.
    pub(crate) fn try_begin(&mut self) -> Result<(), String> {
        self.try_begin_with(&[])
    }

    /// The same with more arguments.
    pub(crate) fn try_begin_with(&mut self, arguments: &[&str]) -> Result<(), String> {
        assert!(self.child.is_none(), "the gateway runs already");
        let (program, rest) = self.program.split_first().expect("a program");
        let mut command = match self.files {
            None => Command::new(program),
            Some(files) => {
                let mut command = Command::new("prlimit");
                command.arg(format!("--nofile={files}:{files}")).arg("--").arg(program);
                command
            }
        };
        command.args(rest);
        let mut child = command
            .arg("gateway")
            .arg("--config")
            .arg(self.path("chiton.toml"))
            .arg("--data-dir")
            .arg(self.path("data"))
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(self.surroundings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program");
        let lines = BufReader::new(child.stderr.take().expect("its standard error")).lines();
        let (sender, served) = channel();
        let (said, news) = (Arc::clone(&self.said), Arc::clone(&self.news));
        let before = said.lock().expect("no panic while it is held").len();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let listening = line.starts_with("listening on ");
                said.lock().expect("no panic while it is held").push(line);
                news.notify_all();
                if listening {
                    _ = sender.send(());
                }
            }
        });
        self.child = Some(child);
        if wait(&served) {
            return Ok(());
        }
        self.kill();
        let said = self.said.lock().expect("no panic while it is held");
        Err(said[before..].join("\n"))
    }

    /// Another program is the gateway from its next start on.
    pub(crate) fn replace(&mut self, program: PathBuf) {
        self.program = vec![program];
    }

    /// What a restart of the machine does: every process dies at once, control groups and what is on a tmpfs are gone, and
    /// the kernel has another boot id. The gateway runs afterwards.
    #[track_caller]
    pub(crate) fn restart_machine(&mut self) {
        self.kill();
        let mut pids = leftovers::pids(&self.id, self.folder.path());
        // Monitors first: none may live to write down how its sandbox ended.
        pids.sort_by_key(|(_, what)| !what.contains(" monitor "));
        for (pid, _) in pids {
            // One that is gone needs no signal.
            let _ = kill_process(Pid::from_raw(pid).expect("a process id"), Signal::KILL);
        }
        self.until_sandboxes_ended();
        leftovers::remove_groups(&self.id);
        fs::remove_dir_all(self.path("data/run")).expect("the run folder");
        fs::write(self.path("boot_id"), "00000000-1111-4222-8333-444444444444\n").expect("a boot id");
        let script = format!(
            "mount --bind '{}' /proc/sys/kernel/random/boot_id && exec \"$0\" \"$@\"",
            self.path("boot_id").display()
        );
        self.program = ["unshare", "--mount", "sh", "-c", &script, PROGRAM].into_iter().map(PathBuf::from).collect();
        self.begin();
    }

    /// The agents that sandboxes were started with.
    pub(crate) fn agents(&self) -> Vec<PathBuf> {
        let folder = self.path("data/drivers/oci/bin");
        self.entries("data/drivers/oci/bin").into_iter().map(|name| folder.join(name)).collect()
    }

    /// Ends the program as a crash would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// Asks the program to end, and does not wait.
    pub(crate) fn ask_to_end(&self) {
        if let Some(child) = &self.child {
            kill_process(Pid::from_child(child), Signal::TERM).expect("a signal");
        }
    }

    /// Asks the program to end and waits until it did.
    #[track_caller]
    pub(crate) fn terminate(&mut self) {
        self.ask_to_end();
        let Some(mut child) = self.child.take() else { return };
        let (sender, ended) = channel();
        let waiting = std::thread::spawn(move || {
            let status = child.wait();
            _ = sender.send(());
            status
        });
        assert!(wait(&ended), "the gateway did not end within {DEADLINE:?} of SIGTERM:\n{}", self.said());
        let status = waiting.join().expect("a thread").expect("a status");
        assert!(status.success(), "the gateway ended with {status}:\n{}", self.said());
    }

    /// Waits until the program has ended by itself.
    #[track_caller]
    pub(crate) fn until_ended(&mut self) {
        let mut child = self.child.take().expect("it runs");
        let process = rustix::process::pidfd_open(Pid::from_child(&child), rustix::process::PidfdFlags::empty());
        let process = process.expect("its handle");
        let limit = rustix::event::Timespec::try_from(DEADLINE).expect("a time");
        let mut ended = [rustix::event::PollFd::new(&process, rustix::event::PollFlags::IN)];
        let count = rustix::event::poll(&mut ended, Some(&limit)).expect("a wait");
        drop(child.kill());
        let status = child.wait().expect("a status");
        assert_eq!(count, 1, "it did not end within {DEADLINE:?}:\n{}", self.said());
        assert!(!status.success(), "it ended as if all were well:\n{}", self.said());
    }

    /// Waits until it has said something so many times, over all its lives.
    #[track_caller]
    pub(crate) fn until_said(&self, times: usize, what: &str) {
        let said = self.said.lock().expect("no panic while it is held");
        let (said, wait) = self
            .news
            .wait_timeout_while(said, DEADLINE, |said| said.iter().filter(|line| line.contains(what)).count() < times)
            .expect("no panic while it is held");
        assert!(!wait.timed_out(), "it did not say {what:?} {times} times within {DEADLINE:?}:\n{}", said.join("\n"));
    }

    /// How many files the program may have open from its next start on.
    pub(crate) fn limit_files(&mut self, files: Option<u32>) {
        self.files = files;
    }

    /// The program's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// How much memory it holds now, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        let kibibytes = line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number");
        kibibytes * 1024
    }

    /// The processor time that it has used.
    pub(crate) fn cpu_time(&self) -> Duration {
        let pid = self.pid();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("its statistics");
        // After the name in brackets: state is field 3, utime and stime are 14 and 15 (proc(5)).
        let fields = stat.rsplit(')').next().expect("fields").split_whitespace().skip(11);
        let ticks: u64 = fields.take(2).map(|field| field.parse::<u64>().expect("a number")).sum();
        // /proc counts in hundredths of a second on every Linux (USER_HZ).
        Duration::from_millis(ticks * 10)
    }

    /// Everything that the gateway said on standard error.
    pub(crate) fn said(&self) -> String {
        self.said.lock().expect("no panic while it is held").join("\n")
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    fn address(&self) -> String {
        format!("unix:{}", self.path("data/gateway.sock").display())
    }

    fn command(&self, arguments: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(PROGRAM);
        command.args(arguments).env("CHITON_GATEWAY", self.address()).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).current_dir(self.folder.path());
        command
    }

    /// A command line that is not run yet.
    pub(crate) fn plain_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).env("CHITON_GATEWAY", self.address()).current_dir(self.folder.path());
        command
    }

    /// Runs the command line.
    #[track_caller]
    pub(crate) fn chiton(&self, arguments: &[&str]) -> Output {
        self.chiton_with(arguments, b"")
    }

    /// Runs the command line with a standard input.
    #[track_caller]
    pub(crate) fn chiton_with(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = self.command(arguments);
        if !input.is_empty() {
            command.stdin(Stdio::piped());
        }
        let output = self.runtime.block_on(async {
            let mut child = command.spawn().expect("the program");
            let feed = child.stdin.take().map(|mut stdin| {
                let input = input.to_vec();
                // A command that does not read its input is not an error here.
                tokio::spawn(async move { drop(stdin.write_all(&input).await) })
            });
            let output = tokio::time::timeout(DEADLINE, child.wait_with_output()).await;
            if let Some(feed) = feed {
                feed.abort();
            }
            output
        });
        let Ok(output) = output else {
            panic!("chiton {} took more than {DEADLINE:?}; the gateway said:\n{}", arguments.join(" "), self.said());
        };
        let output = output.expect("an output");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Output { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Runs the command line with `--json` and reads its one document.
    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let mut all = vec!["--json"];
        all.extend(arguments);
        let text = self.chiton(&all).ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text:?} is not one JSON document: {error}"))
    }

    /// The code of a command that is run in a sandbox, and its standard output.
    #[track_caller]
    pub(crate) fn shell(&self, name: &str, script: &str) -> Output {
        self.chiton(&["sandbox", "exec", name, "--", "sh", "-c", script])
    }

    /// A sandbox as JSON.
    #[track_caller]
    pub(crate) fn get(&self, name: &str) -> Value {
        self.json(&["sandbox", "get", name])
    }

    /// Calls the API directly.
    pub(crate) fn ask<T>(&self, call: impl AsyncFnOnce(Client) -> T) -> T {
        let address = self.address();
        let asked = self.runtime.block_on(async {
            tokio::time::timeout(DEADLINE, async {
                let address = chiton_client::discover(Some(&address)).expect("an address");
                call(chiton_client::connect(&address).await.expect("a connection")).await
            })
            .await
        });
        asked.unwrap_or_else(|_| panic!("a call took more than {DEADLINE:?}; the gateway said:\n{}", self.said()))
    }

    /// What a socket of the gateway answers to a plain HTTP request: head and body.
    #[track_caller]
    pub(crate) fn http(&self, socket: &str, path: &str) -> (String, String) {
        let mut stream = std::os::unix::net::UnixStream::connect(self.path(socket)).expect("a listener");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("a request");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer in time");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        (head.to_ascii_lowercase(), body.to_owned())
    }

    /// Waits until a sandbox is as wanted, by the gateway's own events. `None` stands for a row that is gone.
    #[track_caller]
    pub(crate) fn until(&self, id: &str, wanted: impl Fn(Option<&wire::Sandbox>) -> bool) {
        use wire::watch_sandboxes_event::Event;
        self.ask(async |mut client| {
            let request = wire::WatchSandboxesRequest { sandbox: None };
            let mut events = client.watch_sandboxes(request).await.expect("events").into_inner();
            let mut there = false;
            while let Some(event) = events.message().await.expect("an event") {
                match event.event {
                    Some(Event::Reset(_)) => there = false,
                    Some(Event::Changed(sandbox)) if sandbox.id == id => {
                        there = true;
                        if wanted(Some(&sandbox)) {
                            return;
                        }
                    }
                    Some(Event::Removed(removed)) if removed == id && wanted(None) => return,
                    Some(Event::SnapshotEnd(_)) if !there && wanted(None) => return,
                    _ => {}
                }
            }
            panic!("the events ended");
        });
    }

    /// Waits until no operation runs on any sandbox.
    #[track_caller]
    pub(crate) fn until_idle(&self) {
        self.ask(async |mut client| {
            loop {
                let request = wire::ListSandboxesRequest { all: true, ..Default::default() };
                let page = client.list_sandboxes(request).await.expect("a list").into_inner();
                let Some(busy) = page.sandboxes.into_iter().find(|sandbox| !sandbox.operation.is_empty()) else {
                    return;
                };
                let request = wire::WaitOperationRequest { operation: busy.operation };
                // One that ended meanwhile is not known any more.
                if let Ok(events) = client.wait_operation(request).await {
                    let mut events = events.into_inner();
                    while let Ok(Some(_)) = events.message().await {}
                }
            }
        });
    }

    /// What the fault extension was called for, oldest first.
    pub(crate) fn calls(&self) -> Vec<Call> {
        let text = fs::read_to_string(self.path("calls.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("a whole line")).collect()
    }

    /// The phases for which the fault extension was called about one sandbox, with what it was told about the action:
    /// `before_create`, `on_create_failed/failed`.
    pub(crate) fn phases(&self, id: &str) -> Vec<String> {
        let calls = self.calls();
        let of = calls.iter().filter(|call| call["sandbox"] == id && call["phase"] != "reconcile");
        let phase = |call: &Call| call["phase"].as_str().expect("a phase").to_owned();
        of.map(|call| match call["ran"].as_str() {
            Some(ran) => format!("{}/{ran}", phase(call)),
            None => phase(call),
        })
        .collect()
    }

    /// Waits until every process of the gateway's sandboxes has ended. Needs no gateway.
    pub(crate) fn until_sandboxes_ended(&self) {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        use rustix::process::{PidfdFlags, pidfd_open};
        let limit = Timespec::try_from(DEADLINE).expect("a time");
        for (pid, what) in leftovers::pids(&self.id, self.folder.path()) {
            // One that cannot be opened has ended.
            let Ok(process) = pidfd_open(Pid::from_raw(pid).expect("a process id"), PidfdFlags::empty()) else {
                continue;
            };
            let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit)).expect("a wait");
            assert_eq!(ended, 1, "process {pid} did not end: {what}");
        }
    }

    /// What is in one of the test's folders, sorted.
    pub(crate) fn entries(&self, folder: &str) -> Vec<String> {
        let Ok(listing) = fs::read_dir(self.path(folder)) else { return Vec::new() };
        let mut names: Vec<String> =
            listing.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// How many addresses a sandbox has.
    pub(crate) fn leases(&self, id: &str) -> usize {
        let holder =
            |name: &String| fs::read_to_string(self.path("leases").join(name)).is_ok_and(|holder| holder == id);
        self.entries("leases").into_iter().filter(holder).count()
    }

    /// The workspaces' names: one may have a row on each of several drivers.
    fn workspaces(&self) -> BTreeSet<String> {
        let rows = self.json(&["workspaces", "list"]);
        let name = |row: &Value| row["name"].as_str().expect("a name").to_owned();
        rows.as_array().expect("a list").iter().map(name).collect()
    }

    /// Deletes everything, ends the program, and looks at the machine.
    fn finish(&mut self) {
        if self.child.is_none() {
            self.begin();
        }
        fs::write(self.path("cured"), "").expect("a file");
        self.until_idle();
        for name in self.workspaces() {
            self.chiton(&["sandbox", "delete", "--all", "--yes", "--workspace", &name]).ok();
        }
        // Also those that let go of their names: failed creates, and what still owes something.
        for sandbox in self.json(&["sandbox", "list", "--all"]).as_array().expect("a list") {
            let id = sandbox["id"].as_str().expect("an id");
            if sandbox["phase"] != "Deleted" {
                self.chiton(&["sandbox", "delete", "--id", id]).ok();
            }
            self.until(id, |sandbox| sandbox.is_none());
        }
        for name in self.workspaces() {
            self.chiton(&["workspaces", "delete", &name]).ok();
        }
        let owed = self.json(&["obligations", "list"]);
        assert_eq!(owed.as_array().map(Vec::len), Some(0), "something is owed: {owed:#}");
        self.terminate();
        let left = leftovers::look(&self.id, self.folder.path());
        assert!(left.is_empty(), "something is left:\n{}\nthe gateway said:\n{}", left.join("\n"), self.said());
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let failed = std::thread::panicking()
            || std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.finish())).is_err();
        if !failed {
            return;
        }
        eprintln!("the gateway said:\n{}", self.said());
        self.kill();
        leftovers::sweep(&self.id, self.folder.path());
        assert!(std::thread::panicking(), "the gateway's end failed; see above");
    }
}

/// Waits for a message; false when none came in time or none can come any more.
fn wait(receiver: &Receiver<()>) -> bool {
    receiver.recv_timeout(DEADLINE).is_ok()
}
