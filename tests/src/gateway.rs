//! A gateway of a test's own.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tempfile::TempDir;

/// Real sandboxes of several tests at once would make their deadlines a matter of luck.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// What a command said.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its exit code; -1 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Output {
    /// Itself, if it succeeded.
    #[track_caller]
    #[expect(clippy::return_self_not_must_use, reason = "the check is what counts")]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "out: {}\nerr: {}", self.out, self.err);
        self
    }

    /// Its JSON document.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {:?} {:?}", self.out, self.err))
    }
}

/// A gateway, its folders and its configuration. When dropped, everything is deleted, and nothing may be left.
pub struct Gateway {
    folder: TempDir,
    program: PathBuf,
    child: Option<Child>,
    _turn: MutexGuard<'static, ()>,
}

impl Gateway {
    /// A gateway that runs with this configuration. `{folder}` in it stands for the test's own folder.
    #[track_caller]
    pub fn start(program: &str, config: &str) -> Self {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::Builder::new().prefix("chiton-test-").tempdir().expect("a temporary folder");
        let mut gateway = Self { folder, program: PathBuf::from(program), child: None, _turn: turn };
        gateway.configure(config);
        gateway.run();
        gateway
    }

    /// The test's own folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where the gateway keeps what must last.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Writes the configuration for the next start.
    pub fn configure(&self, config: &str) {
        let text = config.replace("{folder}", &self.folder.path().to_string_lossy());
        fs::write(self.folder.path().join("chiton.toml"), text).expect("the configuration is written");
    }

    /// Starts it and waits until it listens.
    #[track_caller]
    pub fn run(&mut self) {
        let mut child = Command::new(&self.program)
            .arg("gateway")
            .arg("--config")
            .arg(self.folder.path().join("chiton.toml"))
            .arg("--data-dir")
            .arg(self.data())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the gateway starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let mut said = Vec::new();
        for line in lines.by_ref().map_while(Result::ok) {
            if line.starts_with("listening on ") {
                // Somebody must read on, or the gateway would wait for its own log.
                std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| eprintln!("gateway: {line}")));
                self.child = Some(child);
                return;
            }
            said.push(line);
        }
        drop(child.wait());
        panic!("the gateway did not start: {}", said.join("\n"));
    }

    /// Ends it with a signal and waits for its end.
    pub fn end(&mut self, signal: rustix::process::Signal) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal);
            drop(child.wait());
        }
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.end(rustix::process::Signal::KILL);
    }

    /// A command of the program, talking to this gateway.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        let address = format!("unix:{}", self.data().join("gateway.sock").display());
        command.args(arguments).env("CHITON_GATEWAY", address).env_remove("RUST_BACKTRACE").stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn chiton(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output().expect("the program runs");
        Output {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// All sandboxes, the deleted ones with open cleanups too.
    #[track_caller]
    pub fn sandboxes(&self) -> Vec<Value> {
        match self.chiton(&["sandbox", "list", "--all", "--json"]).ok().json() {
            Value::Array(list) => list,
            other => panic!("not a list: {other}"),
        }
    }

    /// The id that everything of this gateway carries.
    #[track_caller]
    pub fn id(&self) -> String {
        let orphan = self.chiton(&["info", "--json"]).ok().json();
        orphan["gateway_id"].as_str().expect("a gateway id").to_owned()
    }

    /// What is on this machine that no live sandbox owns.
    pub fn leftovers(&self) -> Vec<String> {
        let live: BTreeSet<String> = self
            .sandboxes()
            .iter()
            .filter(|sandbox| !matches!(sandbox["phase"].as_str(), Some("Error" | "Deleted")))
            .filter_map(|sandbox| sandbox["id"].as_str().map(str::to_owned))
            .collect();
        crate::leftovers::look(&self.id(), &self.data(), &live)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if self.child.is_some() {
            drop(self.chiton(&["sandbox", "delete", "--all", "--yes", "--force"]));
            let left = if std::thread::panicking() { Vec::new() } else { self.leftovers() };
            self.end(rustix::process::Signal::TERM);
            assert!(left.is_empty() || std::thread::panicking(), "left behind: {left:#?}");
        }
    }
}
