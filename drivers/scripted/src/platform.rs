//! The platform: sandboxes in memory, their processes, and optionally a file in which they outlive this program.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use chiton_compute_wire::v1::{DriverSandbox, DriverSandboxSpec};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::check::ready_after;
use crate::fault::{Fault, Faults};
use crate::run::{Run, begin, prepared};
use crate::saved;

/// How long a main process may take to end by itself when it is stopped.
const GRACE: Duration = Duration::from_secs(2);

/// Where a sandbox is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// Its main process will run in a moment.
    Starting,
    Running,
    Stopping,
    Stopped,
    /// Its main process ended by itself.
    Exited {
        /// By a signal.
        signaled: bool,
    },
    Deleting,
}

/// A sandbox.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    /// As it was asked for, without what is secret.
    pub(crate) sandbox: DriverSandbox,
    pub(crate) phase: Phase,
    /// What the last run ended with.
    pub(crate) code: Option<i32>,
    /// Grows with every change of it.
    pub(crate) revision: u64,
    /// What is secret about it; kept in memory alone, for starts.
    pub(crate) secret: DriverSandboxSpec,
    pub(crate) generation: u64,
    pub(crate) pid: Option<Pid>,
    /// Its going ends the wait for a start.
    pub(crate) delay: Option<Sender<()>>,
}

/// Everything that there is.
#[derive(Default)]
pub(crate) struct Inner {
    /// Which installation this is.
    pub(crate) backend: String,
    pub(crate) objects: BTreeMap<String, Object>,
    pub(crate) deleted: BTreeSet<String>,
    pub(crate) revision: u64,
    /// What deletes left behind.
    pub(crate) left: Vec<String>,
    /// What is from before a restart.
    pub(crate) old: BTreeSet<String>,
}

/// The platform on which the driver works. It outlives servers, as a platform does.
pub struct Platform {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
    faults: Faults,
    start_delay: Duration,
    file: Option<PathBuf>,
    /// How often it was served.
    servings: AtomicU32,
    doubled: AtomicBool,
}

impl Platform {
    /// An empty one, or what `file` has kept; what ran there runs again. `start_delay` is how long a sandbox takes from
    /// its create to its main process.
    ///
    /// # Errors
    /// The file cannot be read, or holds something else.
    pub fn new(faults: Faults, start_delay: Duration, file: Option<PathBuf>) -> io::Result<Arc<Self>> {
        let kept = file.as_deref().is_some_and(Path::exists);
        let mut inner = file.as_deref().map(saved::load).transpose()?.unwrap_or_default();
        if inner.backend.is_empty() {
            inner.backend = format!("scripted-{}", uuid::Uuid::new_v4().simple());
        }
        let running: Vec<String> = inner
            .objects
            .iter()
            .filter(|(_, object)| matches!(object.phase, Phase::Starting | Phase::Running))
            .map(|(id, _)| id.clone())
            .collect();
        let changed = watch::Sender::new(0);
        let platform = Arc::new(Self {
            inner: Mutex::new(inner),
            changed,
            faults,
            start_delay,
            file,
            // What a file has kept was served before.
            servings: AtomicU32::new(u32::from(kept)),
            doubled: AtomicBool::new(false),
        });
        for id in running {
            platform.start(&id);
        }
        Ok(platform)
    }

    /// A server begins. All but the first are restarts, at which some faults do their part.
    pub(crate) fn served(&self, faults: &Faults) {
        if self.servings.fetch_add(1, Ordering::Relaxed) == 0 {
            return;
        }
        if faults.has(Fault::ForgetsOnRestart) {
            self.forget();
        }
        self.change(|inner| {
            inner.old = inner.objects.keys().cloned().collect();
            if faults.has(Fault::ForgetsNewestOnRestart) && inner.objects.len() > 4 {
                let newest = inner.objects.iter().max_by_key(|(_, object)| object.revision).map(|(id, _)| id.clone());
                let lost = newest.and_then(|id| inner.objects.remove(&id));
                lost.inspect(|object| object.signal(Signal::KILL));
            }
        });
        if faults.has(Fault::ForgetsDeletedOnRestart) {
            self.change(|inner| inner.deleted.clear());
        }
        self.doubled.store(faults.has(Fault::DoublesOnRestart), Ordering::Relaxed);
    }

    /// Whether lists have everything twice.
    pub(crate) fn doubles(&self) -> bool {
        self.doubled.load(Ordering::Relaxed)
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// What a sandbox was given last to prove itself to the gateway with: a test's program that plays the one inside it is
    /// handed this by it, as the driver would by the sandbox's environment.
    pub fn token(&self, id: &str) -> Option<String> {
        self.look(|inner| inner.objects.get(id).map(|object| object.secret.sandbox_token.clone()))
    }

    /// Whether a sandbox's main process runs.
    pub fn runs(&self, id: &str) -> bool {
        self.look(|inner| inner.objects.get(id).is_some_and(|object| object.phase == Phase::Running))
    }

    /// Looks, and changes nothing.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Inner) -> T) -> T {
        look(&self.inner.lock())
    }

    /// Changes something and tells everybody.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.inner.lock();
        let changed = change(&mut inner);
        if let Some(file) = &self.file
            && let Err(error) = saved::save(file, &inner)
        {
            eprintln!("scripted-driver: {}: {error}", file.display());
        }
        self.changed.send_modify(|count| *count += 1);
        changed
    }

    /// Makes a sandbox and starts it. False when it is there already.
    pub(crate) fn create(self: &Arc<Self>, sandbox: DriverSandbox, secret: DriverSandboxSpec) -> bool {
        let id = sandbox.id.clone();
        let made = self.change(|inner| {
            if inner.objects.contains_key(&id) {
                return false;
            }
            let revision = inner.next();
            inner.objects.insert(id.clone(), Object::new(sandbox, secret, revision));
            true
        });
        if made {
            self.start(&id);
        }
        made
    }

    /// Starts what does not run.
    pub(crate) fn start(self: &Arc<Self>, id: &str) {
        let (sender, receiver) = std::sync::mpsc::channel();
        let run = self.change(|inner| {
            let revision = inner.next();
            let object = inner.objects.get_mut(id)?;
            if object.pid.is_some() || matches!(object.phase, Phase::Deleting | Phase::Stopping) {
                return None;
            }
            object.phase = Phase::Starting;
            object.generation += 1;
            object.revision = revision;
            object.delay = Some(sender);
            let (argv, environment) = prepared(&object.whole(), &self.faults);
            let delay = (ready_after(&object.sandbox).unwrap_or(self.start_delay), receiver);
            Some(Run { id: id.to_owned(), generation: object.generation, delay, argv, environment })
        });
        if let Some(run) = run {
            begin(self, run);
        }
    }

    /// The moment of a start; `spawn` makes the process, or none for a sandbox that only waits.
    pub(crate) fn started(
        &self,
        id: &str,
        generation: u64,
        spawn: impl FnOnce() -> io::Result<Option<Child>>,
    ) -> Option<Child> {
        self.change(|inner| {
            let revision = inner.next();
            let object = inner.objects.get_mut(id)?;
            if object.generation != generation || object.phase != Phase::Starting {
                return None;
            }
            object.revision = revision;
            object.delay = None;
            match spawn() {
                Ok(child) => {
                    object.phase = Phase::Running;
                    object.pid = child.as_ref().map(Pid::from_child);
                    child
                }
                Err(error) => {
                    // As shells say it.
                    let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
                    (object.phase, object.code) = (Phase::Exited { signaled: false }, Some(code));
                    None
                }
            }
        })
    }

    /// The end of a run.
    pub(crate) fn exited(&self, id: &str, generation: u64, (code, signaled): (i32, bool)) {
        self.change(|inner| {
            let revision = inner.next();
            let Some(object) = inner.objects.get_mut(id).filter(|object| object.generation == generation) else {
                return;
            };
            object.pid = None;
            object.revision = revision;
            object.code = Some(code);
            match object.phase {
                Phase::Deleting => inner.remove(id),
                Phase::Stopping => object.phase = Phase::Stopped,
                _ => object.phase = Phase::Exited { signaled },
            }
        });
    }

    /// Takes what the next start is to prove itself with.
    pub(crate) fn renew(&self, id: &str, secret: DriverSandboxSpec) {
        self.change(|inner| {
            let Some(object) = inner.objects.get_mut(id) else { return };
            if let Some(open) = &mut object.sandbox.spec {
                open.agent_attempt.clone_from(&secret.agent_attempt);
            }
            object.secret = secret;
        });
    }

    /// Stops a sandbox and waits for the end of its main process. False when there is none.
    pub(crate) async fn stop(&self, id: &str) -> bool {
        let there = self.change(|inner| {
            let revision = inner.next();
            let Some(object) = inner.objects.get_mut(id) else { return false };
            match object.phase {
                Phase::Stopped | Phase::Stopping | Phase::Deleting => return true,
                Phase::Starting | Phase::Running | Phase::Exited { .. } => {}
            }
            object.revision = revision;
            object.delay = None;
            object.phase = if object.pid.is_some() { Phase::Stopping } else { Phase::Stopped };
            object.signal(Signal::TERM);
            true
        });
        let stopped = |inner: &Inner| inner.objects.get(id).is_none_or(|object| object.phase != Phase::Stopping);
        if self.until(Instant::now() + GRACE, stopped).await.is_err() {
            self.look(|inner| inner.objects.get(id).map(|object| object.signal(Signal::KILL)));
            drop(self.until(Instant::now() + GRACE, stopped).await);
        }
        there
    }

    /// Removes a sandbox and waits for it to be gone. False when there is none.
    pub(crate) async fn delete(&self, id: &str) -> bool {
        let there = self.change(|inner| {
            let revision = inner.next();
            let Some(object) = inner.objects.get_mut(id) else { return false };
            object.revision = revision;
            object.phase = Phase::Deleting;
            object.delay = None;
            object.signal(Signal::KILL);
            if object.pid.is_none() {
                inner.remove(id);
            }
            true
        });
        drop(self.until(Instant::now() + GRACE, |inner| !inner.objects.contains_key(id)).await);
        there
    }

    /// Says that a deletion has begun, and does nothing about it yet.
    pub(crate) fn announce_delete(&self, id: &str) {
        self.change(|inner| {
            let revision = inner.next();
            if let Some(object) = inner.objects.get_mut(id) {
                (object.phase, object.revision) = (Phase::Deleting, revision);
            }
        });
    }

    async fn until(&self, end: Instant, holds: impl Fn(&Inner) -> bool) -> Result<(), tokio::time::error::Elapsed> {
        let mut changes = self.changes();
        timeout_at(end, async {
            while !self.look(&holds) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        })
        .await
    }

    /// Forgets all sandboxes, and ends what they ran.
    fn forget(&self) {
        self.change(|inner| {
            inner.objects.values().for_each(|object| object.signal(Signal::KILL));
            inner.objects.clear();
        });
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        self.inner.get_mut().objects.values().for_each(|object| object.signal(Signal::KILL));
    }
}

impl Inner {
    pub(crate) fn next(&mut self) -> u64 {
        self.revision += 1;
        self.revision
    }

    fn remove(&mut self, id: &str) {
        self.objects.remove(id);
        self.deleted.insert(id.to_owned());
    }
}

impl Object {
    pub(crate) fn new(sandbox: DriverSandbox, secret: DriverSandboxSpec, revision: u64) -> Self {
        let phase = Phase::Starting;
        Self { sandbox, phase, code: None, revision, secret, generation: 0, pid: None, delay: None }
    }

    /// The specification with what is secret.
    pub(crate) fn whole(&self) -> DriverSandboxSpec {
        let open = self.sandbox.spec.clone().unwrap_or_default();
        DriverSandboxSpec {
            sandbox_token: self.secret.sandbox_token.clone(),
            secret_environment: self.secret.secret_environment.clone(),
            ..open
        }
    }

    /// The process is unreaped as long as its number is known here.
    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid {
            let _ = kill_process_group(pid, signal);
        }
    }
}
