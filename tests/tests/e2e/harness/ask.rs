//! Asking it: by the command line, by the API, by plain HTTP.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::time::Instant;

use chiton_client::Client;
use chiton_proto::v1 as wire;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use super::{DEADLINE, Gateway, Output, PROGRAM};

impl Gateway {
    pub(super) fn address(&self) -> String {
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

    /// Waits until the agent of a sandbox can be called: it dials again by itself when its gateway or it was away.
    #[track_caller]
    pub(crate) fn until_reached(&self, name: &str) {
        let end = Instant::now() + DEADLINE;
        loop {
            let tried = self.shell(name, "true");
            if tried.code == 0 {
                return;
            }
            assert!(Instant::now() < end, "the agent of {name} cannot be reached: {tried:?}");
        }
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
}
