//! The program under test as a process: started, listened to, killed, asked.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chiton_client::Client;
use chiton_proto::v1 as wire;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

/// No start, no wait and no call takes longer on a machine that works.
pub const DEADLINE: Duration = Duration::from_mins(3);

/// How often what an operation waits for is looked at.
const LOOKS: Duration = Duration::from_millis(200);

/// What a gateway said that a run wants to know.
#[derive(Debug, Default)]
pub struct Heard {
    /// Interrupted operations that it took up, as `kind/step`.
    pub resumed: BTreeMap<String, u64>,
    /// Panics that nobody asked for.
    pub panics: Vec<String>,
    /// The last lines, for whoever has to find out what happened.
    pub tail: Vec<String>,
}

/// How many lines are kept.
const TAIL: usize = 400;

impl Heard {
    fn line(&mut self, line: String) {
        if let Ok(entry) = serde_json::from_str::<Value>(&line) {
            if entry["fields"]["message"] == "an interrupted operation goes on" {
                let field = |name: &str| entry["fields"][name].as_str().unwrap_or("unknown").to_owned();
                *self.resumed.entry(format!("{}/{}", field("kind"), field("step"))).or_default() += 1;
            }
        } else if line.contains("panicked at") && !line.contains("tests/src/fault.rs") {
            self.panics.push(line.clone());
        }
        if self.tail.len() == TAIL {
            self.tail.remove(0);
        }
        self.tail.push(line);
    }
}

/// A gateway's installation and, while it runs, its process.
pub struct Process {
    program: PathBuf,
    folder: PathBuf,
    child: Option<Child>,
    heard: Arc<Mutex<Heard>>,
    serving: watch::Receiver<bool>,
    begun: Instant,
}

impl Process {
    /// An installation in a folder that holds `chiton.toml`. Starts nothing yet.
    pub fn new(program: &Path, folder: &Path) -> Self {
        Self {
            program: program.to_owned(),
            folder: folder.to_owned(),
            child: None,
            heard: Arc::default(),
            serving: watch::channel(false).1,
            begun: Instant::now(),
        }
    }

    /// Starts the program; does not wait until it serves.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn begin(&mut self) -> io::Result<()> {
        let mut child = Command::new(&self.program)
            .arg("gateway")
            .arg("--config")
            .arg(self.folder.join("chiton.toml"))
            .arg("--data-dir")
            .arg(self.folder.join("data"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        self.begun = Instant::now();
        let stderr = child.stderr.take().ok_or_else(|| io::Error::other("no standard error"))?;
        let (sender, serving) = watch::channel(false);
        let heard = Arc::clone(&self.heard);
        let mut log = OpenOptions::new().append(true).create(true).open(self.folder.join("gateway.log"))?;
        tokio::spawn(async move {
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if line.starts_with("listening on ") {
                    sender.send_replace(true);
                }
                // For whoever looks into the folder of a run that failed; the run itself does not need it.
                drop(writeln!(log, "{line}"));
                heard.lock().unwrap_or_else(PoisonError::into_inner).line(line);
            }
        });
        self.serving = serving;
        self.child = Some(child);
        Ok(())
    }

    /// Waits until it serves; how long that took since it was started.
    ///
    /// # Errors
    /// It ended, or did not serve in time: what it said.
    pub async fn served(&mut self) -> Result<Duration, String> {
        let served = tokio::time::timeout(DEADLINE, self.serving.wait_for(|serving| *serving)).await;
        let served = served.is_ok_and(|served| served.is_ok());
        if served { Ok(self.begun.elapsed()) } else { Err(self.said()) }
    }

    /// When it was started last.
    pub fn begun(&self) -> Instant {
        self.begun
    }

    /// Whether it serves.
    pub fn serves(&self) -> bool {
        *self.serving.borrow()
    }

    /// Ends it as a crash would; returns when nothing of the process is left.
    ///
    /// # Errors
    /// The signal cannot be sent.
    pub async fn kill(&mut self) -> io::Result<()> {
        match self.child.take() {
            Some(mut child) => child.kill().await,
            None => Ok(()),
        }
    }

    /// Asks it to end, and waits until it did.
    ///
    /// # Errors
    /// It did not, or not with success.
    pub async fn terminate(&mut self) -> Result<(), String> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(pid) = pid {
            kill_process(pid, Signal::TERM).map_err(|error| format!("SIGTERM: {error}"))?;
        }
        match tokio::time::timeout(DEADLINE, child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(format!("the gateway ended with {status}:\n{}", self.said())),
            Ok(Err(error)) => Err(format!("the gateway's end: {error}")),
            Err(_) => Err(format!("the gateway did not end within {DEADLINE:?} of SIGTERM:\n{}", self.said())),
        }
    }

    /// Its process id while it runs.
    pub fn pid(&self) -> Option<i32> {
        i32::try_from(self.child.as_ref()?.id()?).ok()
    }

    /// What it said last on standard error, over all its lives.
    pub fn said(&self) -> String {
        self.heard(|heard| heard.tail.join("\n"))
    }

    /// Looks at what it said.
    pub fn heard<T>(&self, look: impl FnOnce(&Heard) -> T) -> T {
        look(&self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A connection to its API.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn client(&self) -> Result<Client, String> {
        let socket = format!("unix:{}", self.folder.join("data/gateway.sock").display());
        let address = chiton_client::discover(Some(&socket)).map_err(|error| error.to_string())?;
        chiton_client::connect(&address).await.map_err(|error| error.to_string())
    }
}

/// Every row of a gateway.
///
/// # Errors
/// It does not answer.
pub async fn rows(client: &mut Client) -> Result<Vec<wire::Sandbox>, tonic::Status> {
    let (mut rows, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = wire::ListSandboxesRequest { all: true, page_token, ..Default::default() };
        let page = client.list_sandboxes(request).await?.into_inner();
        rows.extend(page.sandboxes);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(rows);
        }
    }
}

/// Whether nothing is done for a sandbox but to wait until what was interrupted can no longer land on its engine. Until
/// then nothing of it is released, by right.
pub fn waits_for_late(row: &wire::Sandbox) -> bool {
    ["CreateMayLand", "StartMayLand"].iter().any(|reason| waits(row, reason)) || may_run(row)
}

/// Whether what waits is a start that may have landed already.
pub fn may_run(row: &wire::Sandbox) -> bool {
    waits(row, "AgentMayCall")
}

/// Whether its driver was away when it was to stop: what a stop releases is owed by its row until the next start or delete.
pub fn stop_is_owed(row: &wire::Sandbox) -> bool {
    row.conditions.iter().any(|condition| condition.r#type == "StopUnconfirmed" && condition.status == "True")
}

fn waits(row: &wire::Sandbox, reason: &str) -> bool {
    !row.operation.is_empty() && row.conditions.iter().any(|condition| condition.reason == reason)
}

/// Waits until no operation runs but those that wait for what may land late; the rows as they are then.
///
/// # Errors
/// It does not answer, or an operation did not end in time.
pub async fn settled(client: &mut Client) -> Result<Vec<wire::Sandbox>, String> {
    let begun = Instant::now();
    loop {
        let rows = rows(client).await.map_err(|status| format!("a list: {status}"))?;
        let busy = rows.iter().find(|row| !row.operation.is_empty() && !waits_for_late(row));
        let Some(busy) = busy else { return Ok(rows) };
        if begun.elapsed() > DEADLINE {
            return Err(format!("the operation {} of sandbox {} does not end", busy.operation, busy.id));
        }
        let request = wire::WaitOperationRequest { operation: busy.operation.clone() };
        // One that ended meanwhile is not known any more.
        if let Ok(events) = client.wait_operation(request).await {
            let mut events = events.into_inner();
            let ended = async { while let Ok(Some(_)) = events.message().await {} };
            // Not for long: it may come to what it waits for itself.
            drop(tokio::time::timeout(LOOKS, ended).await);
        }
    }
}
