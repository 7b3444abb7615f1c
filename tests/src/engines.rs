//! A container engine as the tests see it: asked over its own socket, beside the driver and not through it.
//!
//! Tests find engines by the environment (`docs/testing.md`). Requests are HTTP/1.0, to which engines answer with a body
//! that ends with the connection: no client is needed, and what is seen is what the engine said.

use std::fmt::{self, Write as _};
use std::io::{BufRead, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// No answer of an engine takes longer on a machine that works.
const PATIENCE: Duration = Duration::from_mins(3);
/// After how long without an event it is looked again: what an event tells of may be seen a moment after it.
const LOOKS: Duration = Duration::from_secs(1);
/// How often a list is asked for again of an engine that fails: podman does when a container, also somebody else's, goes
/// while it looks.
const AGAIN: usize = 20;
/// The label by which a gateway knows its own.
pub const GATEWAY: &str = "chiton.dev/gateway-id";
/// The label that says which sandbox it is.
pub const SANDBOX: &str = "chiton.dev/sandbox-id";

/// Which engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Docker.
    Docker,
    /// Podman, through its Docker-compatible service.
    Podman,
}

impl Kind {
    /// The driver's kind and id, and the program's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }

    fn variable(self) -> &'static str {
        match self {
            Self::Docker => "ENGINES_DOCKER",
            Self::Podman => "ENGINES_PODMAN",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An engine that runs.
#[derive(Clone, Debug)]
pub struct Engine {
    /// Which.
    pub kind: Kind,
    /// Its socket.
    pub socket: PathBuf,
    /// The test image's name in it.
    pub image: String,
}

impl Engine {
    /// The engine that the environment names.
    ///
    /// # Errors
    /// What is missing.
    pub fn from_environment(kind: Kind) -> Result<Self, String> {
        let get = |name: &str| std::env::var(name).map_err(|_| format!("{name} is not set (cargo xtask engines up)"));
        Ok(Self { kind, socket: get(kind.variable())?.into(), image: get("ENGINES_IMAGE")? })
    }

    /// The `[compute.driver]` block for it, and for what stands in its place.
    pub fn block(&self, socket: &Path) -> String {
        format!(
            "[compute.driver.{}]\nsocket = {:?}\ndefault_image = {:?}\nstop_grace_seconds = 1\n",
            self.kind,
            socket.display().to_string(),
            self.image
        )
    }

    fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Result<BufReader<UnixStream>, String> {
        let failed = |error: std::io::Error| format!("{} at {}: {error}", self.kind, self.socket.display());
        let mut stream = UnixStream::connect(&self.socket).map_err(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: engine\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).map_err(failed)?;
        Ok(BufReader::new(stream))
    }

    /// The status of a request and the body.
    ///
    /// # Errors
    /// The engine does not answer.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, String), String> {
        let failed = |why: &dyn fmt::Display| format!("{} {method} {path}: {why}", self.kind);
        let mut answer = self.send(method, path, body)?;
        let status = head(&mut answer).map_err(|error| failed(&error))?;
        let mut bytes = Vec::new();
        answer.read_to_end(&mut bytes).map_err(|error| failed(&error))?;
        Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// A document of the engine's; none when there is no such thing.
    ///
    /// # Panics
    /// When the engine does not answer, or with something else.
    #[track_caller]
    pub fn get(&self, path: &str) -> Option<Value> {
        let (status, text) = self.ask("GET", path, None).unwrap_or_else(|why| panic!("{why}"));
        match status {
            200 => Some(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}"))),
            404 => None,
            // Podman's word for a container that went while it looked.
            500 if text.contains("no such container") => None,
            _ => panic!("{} answered {status} to {path}: {text}", self.kind),
        }
    }

    /// Asks for a change; fails the test when it is not made.
    ///
    /// # Panics
    /// When the engine refuses.
    #[track_caller]
    pub fn act(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let (status, text) = self.ask(method, path, body).unwrap_or_else(|why| panic!("{why}"));
        assert!((200..300).contains(&status), "{} answered {status} to {method} {path}: {text}", self.kind);
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    #[track_caller]
    fn labelled(&self, path: &str, label: &str) -> Vec<Value> {
        self.listed(path, label).unwrap_or_else(|why| panic!("{why}"))
    }

    /// What the engine lists with a label: `/containers/json?all=true`, `/networks` or `/volumes`.
    ///
    /// # Errors
    /// The engine does not answer, or not with a list.
    pub fn listed(&self, path: &str, label: &str) -> Result<Vec<Value>, String> {
        let filters = escape(&json!({ "label": [label] }).to_string());
        let separator = if path.contains('?') { '&' } else { '?' };
        let ask = || self.ask("GET", &format!("{path}{separator}filters={filters}"), None);
        let mut answer = ask()?;
        for _ in 0..AGAIN {
            if answer.0 != 500 {
                break;
            }
            answer = ask()?;
        }
        let (status, text) = answer;
        let strange = |why: &dyn fmt::Display| format!("{} answered {status} to {path}: {why}: {text}", self.kind);
        let mut found: Value = serde_json::from_str(&text).map_err(|error| strange(&error))?;
        let list = if path.starts_with("/volumes") { found["Volumes"].take() } else { found };
        match list {
            Value::Array(list) if status == 200 => Ok(list),
            // Docker's way to say that there are no volumes.
            Value::Null if status == 200 => Ok(Vec::new()),
            _ => Err(strange(&"not a list")),
        }
    }

    /// The containers of a gateway.
    pub fn containers(&self, gateway: &str) -> Vec<Value> {
        self.labelled("/containers/json?all=true", &format!("{GATEWAY}={gateway}"))
    }

    /// The container of a sandbox, whole; none when there is none.
    #[track_caller]
    pub fn container(&self, sandbox: &str) -> Option<Value> {
        self.get(&format!("/containers/chiton-{sandbox}/json"))
    }

    /// Whether a sandbox's container runs.
    #[track_caller]
    pub fn runs(&self, sandbox: &str) -> bool {
        self.container(sandbox).is_some_and(|found| found["State"]["Running"] == true)
    }

    /// The host's number of a sandbox's first process.
    #[track_caller]
    pub fn pid(&self, sandbox: &str) -> i32 {
        let found = self.container(sandbox).expect("a container");
        found["State"]["Pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("a process id")
    }

    /// Everything of a gateway that is on the engine, in words.
    pub fn left(&self, gateway: &str) -> Vec<String> {
        let label = format!("{GATEWAY}={gateway}");
        let mut left = Vec::new();
        for (what, path, key) in [
            ("container", "/containers/json?all=true", "Names"),
            ("network", "/networks", "Name"),
            ("volume", "/volumes", "Name"),
        ] {
            left.extend(self.labelled(path, &label).iter().map(|found| format!("{} {what} {}", self.kind, found[key])));
        }
        left
    }

    /// After a test that failed: removes what is left.
    pub fn sweep(&self, gateway: &str) {
        let label = format!("{GATEWAY}={gateway}");
        for (list, path, key, more) in [
            ("/containers/json?all=true", "/containers", "Id", "?force=true&v=true"),
            ("/networks", "/networks", "Id", ""),
            ("/volumes", "/volumes", "Name", "?force=true"),
        ] {
            for found in self.labelled(list, &label) {
                let name = found[key].as_str().unwrap_or_default();
                // The test has failed already.
                drop(self.ask("DELETE", &format!("{path}/{name}{more}"), None));
            }
        }
    }

    /// Waits, by the engine's events, until something is so. The first look is after the events began.
    ///
    /// # Panics
    /// When it does not become so in time.
    #[track_caller]
    pub fn until(&self, what: &str, mut wanted: impl FnMut() -> bool) {
        let (now, end) = (seconds(), Instant::now() + PATIENCE);
        let mut events = self.send("GET", &format!("/events?since={}", now.saturating_sub(1)), None).expect("events");
        events.get_ref().set_read_timeout(Some(LOOKS)).expect("a timeout");
        // Podman sends the head with the first event only.
        let mut line = Vec::new();
        while !wanted() {
            assert!(Instant::now() < end, "waiting for {what} on {}: nothing of it in {PATIENCE:?}", self.kind);
            line.clear();
            // What an event says does not matter here, and a part of one is as good.
            match events.read_until(b'\n', &mut line) {
                Ok(0) => panic!("the events of {} ended before {what}", self.kind),
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => panic!("waiting for {what} on {}: {error}", self.kind),
            }
        }
    }

    /// The engine's own program, about this engine.
    pub fn tool(&self) -> Command {
        let address = format!("unix://{}", self.socket.display());
        match self.kind {
            Kind::Docker => {
                let mut command = Command::new("docker");
                command.args(["--host", &address]);
                command
            }
            Kind::Podman => {
                let mut command = Command::new("podman");
                command.args(["--remote", "--url", &address]);
                command
            }
        }
    }
}

fn seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.as_secs())
}

/// Reads the head of an answer; its status.
fn head(answer: &mut impl BufRead) -> std::io::Result<u16> {
    let mut first = String::new();
    answer.read_line(&mut first)?;
    let mut line = String::new();
    while answer.read_line(&mut line)? > 0 && line != "\r\n" {
        line.clear();
    }
    let status = first.split(' ').nth(1).and_then(|word| word.parse().ok());
    status.ok_or_else(|| std::io::Error::other(format!("no answer but {first:?}")))
}

/// A text as a value in a query.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            // A string takes everything.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}
