//! What a case plays on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use chiton_compute_wire::v1::{DriverSandbox, GetCapabilitiesResponse};
use futures::future::join_all;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tonic::Code;

use crate::ask::Plain;
use crate::options::{Limits, Options};
use crate::verdict::{Answer, By, Verdict, broken, must, not_here, refused, said};
use crate::watch::{Watcher, is_ready, words};
use crate::wire::Wire;

/// Between two looks; the contract has no call that waits.
const LOOK: Duration = Duration::from_millis(20);

/// What all cases share.
pub(crate) struct Run {
    pub(crate) options: Options,
    pub(crate) capabilities: GetCapabilitiesResponse,
    /// The ids that were there before, sorted.
    pub(crate) before: Vec<String>,
    word: String,
    count: AtomicU32,
    /// Deletes do not end: cleaning up does not wait for them any more.
    stuck: AtomicBool,
}

impl Run {
    pub(crate) fn new(options: Options, capabilities: GetCapabilitiesResponse, before: Vec<String>) -> Self {
        let mut word = uuid::Uuid::new_v4().simple().to_string();
        word.truncate(8);
        let (count, stuck) = (AtomicU32::new(0), AtomicBool::new(false));
        Self { options, capabilities, before, word, count, stuck }
    }
}

/// One case's world: a connection of its own, and the sandboxes that it made.
pub(crate) struct Stage {
    pub(crate) run: Arc<Run>,
    pub(crate) wire: Wire,
    made: Mutex<Vec<(String, String)>>,
}

impl Stage {
    pub(crate) async fn new(run: &Arc<Run>) -> Verdict<Self> {
        let wire = Wire::connect(&run.options.dial(), run.options.limits).await?;
        Ok(Self { run: Arc::clone(run), wire, made: Mutex::default() })
    }

    pub(crate) fn limits(&self) -> Limits {
        self.run.options.limits
    }

    /// Another connection.
    pub(crate) async fn connect(&self) -> Verdict<Wire> {
        Wire::connect(&self.run.options.dial(), self.limits()).await
    }

    /// Words that nothing else has.
    pub(crate) fn word(&self, kind: &str) -> String {
        let Run { word, count, .. } = &*self.run;
        format!("{kind}-{word}-{}", count.fetch_add(1, Ordering::Relaxed))
    }

    /// A request for a sandbox that lives until it is stopped. It is deleted when the case is over.
    pub(crate) fn sandbox(&self) -> DriverSandbox {
        let options = &self.run.options;
        let plain = Plain {
            id: uuid::Uuid::new_v4().to_string(),
            name: self.word("conform"),
            workspace: &options.workspace,
            image: &options.image,
            command: &options.command,
            token: format!("secret-{}", uuid::Uuid::new_v4().simple()),
        };
        let sandbox = DriverSandbox::from(plain);
        self.note(&sandbox);
        sandbox
    }

    /// A request whose main process is this script, with these arguments.
    pub(crate) fn script(&self, script: &str, arguments: &[&str]) -> Verdict<DriverSandbox> {
        use crate::ask::Ask as _;
        let shell = &self.run.options.shell;
        if shell.is_empty() {
            return not_here(By::Options, "the image is said to have no shell");
        }
        let mut command = shell.clone();
        command.push(script.to_owned());
        if !arguments.is_empty() {
            // What a shell calls the script.
            command.push("conform".to_owned());
            command.extend(arguments.iter().map(ToString::to_string));
        }
        Ok(self.sandbox().command(command))
    }

    /// Remembers to delete it.
    pub(crate) fn note(&self, sandbox: &DriverSandbox) {
        self.made.lock().push((sandbox.id.clone(), sandbox.name.clone()));
    }

    pub(crate) async fn create(&self, sandbox: &DriverSandbox) -> Verdict<Answer> {
        self.wire.create(Some(sandbox.clone())).await
    }

    /// Made, and answered.
    pub(crate) async fn made(&self) -> Verdict<DriverSandbox> {
        let sandbox = self.sandbox();
        must("CreateSandbox", self.create(&sandbox).await?)?;
        Ok(sandbox)
    }

    /// Made, and ready.
    pub(crate) async fn ready(&self) -> Verdict<DriverSandbox> {
        let sandbox = self.made().await?;
        self.until_ready(&sandbox).await?;
        Ok(sandbox)
    }

    pub(crate) async fn got(&self, sandbox: &DriverSandbox) -> Verdict<DriverSandbox> {
        must("GetSandbox", self.wire.get(&sandbox.id, &sandbox.name).await?)
    }

    pub(crate) async fn list(&self) -> Verdict<Vec<DriverSandbox>> {
        must("ListSandboxes", self.wire.list().await?)
    }

    /// How often a list has an id.
    pub(crate) async fn listed(&self, id: &str) -> Verdict<usize> {
        Ok(self.list().await?.iter().filter(|sandbox| sandbox.id == id).count())
    }

    pub(crate) async fn delete(&self, sandbox: &DriverSandbox) -> Verdict<Answer<bool>> {
        self.wire.delete(&sandbox.id, &sandbox.name).await
    }

    /// Deleted, and gone.
    pub(crate) async fn removed(&self, sandbox: &DriverSandbox) -> Verdict<bool> {
        let deleted = must("DeleteSandbox", self.delete(sandbox).await?)?;
        self.until_gone(&sandbox.id).await?;
        Ok(deleted)
    }

    /// Waits until a look satisfies; what was seen last is told if none does.
    pub(crate) async fn until<T, F>(&self, what: &str, limit: Duration, look: impl Fn() -> F) -> Verdict<T>
    where
        F: Future<Output = Verdict<Result<T, String>>>,
    {
        let end = Instant::now() + limit;
        let mut pause = LOOK;
        loop {
            match look().await? {
                Ok(found) => return Ok(found),
                Err(seen) if Instant::now() >= end => return Err(broken(what, format!("it within {limit:?}"), seen)),
                Err(_) => sleep(pause).await,
            }
            pause = (pause * 2).min(Duration::from_millis(500)).min(limit / 4);
        }
    }

    pub(crate) async fn until_gone(&self, id: &str) -> Verdict {
        self.until("the end of a deletion", self.limits().delete, || async {
            let listed = self.listed(id).await?;
            Ok(if listed == 0 { Ok(()) } else { Err("lists still have the sandbox".to_owned()) })
        })
        .await
    }

    pub(crate) async fn until_ready(&self, sandbox: &DriverSandbox) -> Verdict<DriverSandbox> {
        self.until("Ready=True by GetSandbox", self.limits().ready, || async {
            let found = self.got(sandbox).await?;
            Ok(if is_ready(found.status.as_ref()) { Ok(found) } else { Err(words(found.status.as_ref())) })
        })
        .await
    }

    /// Stopped. What is still being made may be refused until it is ready: not possible now, by the contract.
    pub(crate) async fn stop(&self, sandbox: &DriverSandbox) -> Verdict {
        self.until("StopSandbox", self.limits().ready, || async {
            // Looked at before: it may become ready between the refusal and a look.
            let ready = is_ready(self.got(sandbox).await?.status.as_ref());
            match self.wire.stop(&sandbox.id, &sandbox.name).await? {
                Err(status) if status.code() == Code::FailedPrecondition && !ready => Ok(Err(said(&status))),
                answer => must("StopSandbox", answer).map(Ok),
            }
        })
        .await
    }

    /// The exit code of a main process that ends by itself.
    pub(crate) async fn exit_code(&self, sandbox: &DriverSandbox) -> Verdict<i32> {
        must("CreateSandbox", self.create(sandbox).await?)?;
        self.end(sandbox).await
    }

    /// The exit code of a sandbox that is made.
    pub(crate) async fn end(&self, sandbox: &DriverSandbox) -> Verdict<i32> {
        if self.run.capabilities.contract_version == 0 {
            return not_here(By::Driver, "contract_version is 0: the driver tells no exit codes");
        }
        let code = self
            .until("state=exited by GetSandbox", self.limits().ready, || async {
                let status = self.got(sandbox).await?.status.unwrap_or_default();
                Ok(if status.state == "exited" { Ok(status.exit_code) } else { Err(words(Some(&status))) })
            })
            .await?;
        code.ok_or_else(|| broken("exit_code of an exited sandbox", "a number", "nothing"))
    }

    /// A create that must be refused with one of these codes and leave nothing.
    pub(crate) async fn refused(&self, what: &str, sandbox: &DriverSandbox, codes: &[Code]) -> Verdict<tonic::Status> {
        self.note(sandbox);
        let status = refused(&format!("CreateSandbox with {what}"), self.create(sandbox).await?, codes)?;
        match self.listed(&sandbox.id).await? {
            0 => Ok(status),
            _ => Err(broken(format!("the list after a create with {what} was refused"), "no such sandbox", "it")),
        }
    }

    /// A watch on this case's connection, read at once.
    pub(crate) fn watch(&self) -> Watcher {
        self.watch_on(&self.wire)
    }

    pub(crate) fn watch_on(&self, wire: &Wire) -> Watcher {
        Watcher::open(wire, self.limits(), watch::channel(true).1)
    }

    /// Makes another sandbox and waits until a watch tells of it: what the driver had to say before is said.
    pub(crate) async fn fence(&self, watch: &Watcher) -> Verdict<DriverSandbox> {
        let other = self.made().await?;
        watch.event("news of a new sandbox", |event| event.is_state_of(&other.id)).await?;
        Ok(other)
    }

    /// Deletes what the case made, as far as the driver goes along.
    pub(crate) async fn clean(&self) {
        let made = std::mem::take(&mut *self.made.lock());
        if made.is_empty() || self.run.stuck.load(Ordering::Relaxed) {
            return;
        }
        // The case may have cost its connection.
        let Ok(wire) = self.connect().await else { return };
        let deletes = join_all(made.iter().map(|(id, name)| wire.delete(id, name))).await;
        let gone = self.until("the cleaning up", self.limits().delete, || async {
            let Ok(Ok(list)) = wire.list().await else { return Ok(Err("no list".to_owned())) };
            let left = list.iter().any(|found| made.iter().any(|(id, _)| *id == found.id));
            Ok(if left { Err("something is left".to_owned()) } else { Ok(()) })
        });
        if deletes.iter().any(Result::is_err) || gone.await.is_err() {
            self.run.stuck.store(true, Ordering::Relaxed);
        }
    }
}
