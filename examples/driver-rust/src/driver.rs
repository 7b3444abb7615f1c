//! All sandboxes, and what is done to them.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use chiton_compute_wire::v1::watch_sandboxes_event::Payload;
use chiton_compute_wire::v1::{
    DriverSandbox, DriverSandboxSpec, WatchSandboxesDeletedEvent, WatchSandboxesEvent, WatchSandboxesSandboxEvent,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, Signal, kill_process_group, pidfd_open};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::sync::{broadcast, watch};
use tonic::Status;

use crate::asked::{Asked, check_id};
use crate::files::{load, remove, save};
use crate::keeper::{Identity, KEEP, Run, pid};
use crate::sandbox::Sandbox;

/// How many news a watcher may leave unread; then its watch ends, and who watches anew is told all.
const UNREAD: usize = 1024;
/// How long killed processes may take to be gone.
const KILLED: Duration = Duration::from_secs(10);

/// The driver; clones are the same one.
#[derive(Clone)]
pub(crate) struct Driver(Arc<Inner>);

struct Inner {
    state: PathBuf,
    backend: String,
    book: Mutex<Book>,
    /// Who acts on a sandbox, one at a time.
    turns: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

/// Sandboxes and news of them under one lock: nothing is told twice or missed between a snapshot and its changes.
pub(crate) struct Book {
    pub(crate) sandboxes: BTreeMap<String, Sandbox>,
    /// None when the driver is ending.
    pub(crate) news: Option<broadcast::Sender<WatchSandboxesEvent>>,
}

impl Book {
    fn tell(&self, payload: Payload) {
        if let Some(news) = &self.news {
            // Nobody may be listening.
            drop(news.send(WatchSandboxesEvent { payload: Some(payload) }));
        }
    }

    fn changed(&self, id: &str) {
        if let Some(sandbox) = self.sandboxes.get(id) {
            self.tell(Payload::Sandbox(WatchSandboxesSandboxEvent { sandbox: Some(sandbox.seen()) }));
        }
    }
}

/// The system's errors as the contract's.
#[expect(clippy::needless_pass_by_value, reason = "it is what an error is mapped by")]
fn system(error: io::Error) -> Status {
    use io::ErrorKind::{OutOfMemory, QuotaExceeded, StorageFull, WouldBlock};
    match error.kind() {
        StorageFull | QuotaExceeded | OutOfMemory | WouldBlock => Status::resource_exhausted(error.to_string()),
        _ => Status::internal(error.to_string()),
    }
}

impl Driver {
    /// A driver with all that an earlier one left.
    pub(crate) async fn find_again(state: &Path) -> io::Result<Self> {
        for folder in ["sandboxes", "deleted"] {
            fs::create_dir_all(state.join(folder))?;
        }
        let backend = load(&state.join("backend.json"))?.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        save(&state.join("backend.json"), &backend)?;
        let book = Book { sandboxes: BTreeMap::new(), news: Some(broadcast::Sender::new(UNREAD)) };
        let (book, turns) = (Mutex::new(book), Mutex::default());
        let driver = Self(Arc::new(Inner { state: state.to_owned(), backend, book, turns }));
        for folder in fs::read_dir(state.join("sandboxes"))? {
            let folder = folder?.path();
            let Some(sandbox) = Sandbox::load(folder.clone())? else {
                // A create that came to nothing, or what is left of a delete.
                remove(&folder)?;
                continue;
            };
            let (id, run) = (sandbox.asked.id.clone(), sandbox.run.clone());
            driver.book().sandboxes.insert(id.clone(), sandbox);
            if let Some(run) = run.filter(|run| run.reason.is_none()) {
                driver.adopt(&id, run)?;
            }
            if driver.is_deleted(&id) {
                driver.delete(&id).await.map_err(io::Error::other)?;
            }
        }
        Ok(driver)
    }

    /// Follows the keeper of an earlier driver's sandbox, if that is still the process of its number.
    fn adopt(&self, id: &str, run: Run) -> io::Result<()> {
        let handle = pid(run.keeper.pid).and_then(|pid| Ok(pidfd_open(pid, PidfdFlags::empty())?));
        match handle {
            Ok(handle) if Identity::of(run.keeper.pid).is_ok_and(|found| found == run.keeper) => {
                self.follow(id, run, handle, None)
            }
            _ => self.book().sandboxes.get_mut(id).map_or(Ok(()), Sandbox::over),
        }
    }

    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.0.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn backend(&self) -> &str {
        &self.0.backend
    }

    /// Ends all watches, and begins no more.
    pub(crate) fn end_watches(&self) {
        self.book().news = None;
    }

    fn is_deleted(&self, id: &str) -> bool {
        self.0.state.join("deleted").join(id).exists()
    }

    pub(crate) fn found(&self, id: &str) -> Result<DriverSandbox, Status> {
        check_id(id)?;
        let found = self.book().sandboxes.get(id).map(Sandbox::seen);
        found.ok_or_else(|| Status::not_found(format!("there is no sandbox {id}")))
    }

    /// One act on a sandbox, after those before it. It goes on when its caller goes away.
    pub(crate) async fn act<T, F>(&self, id: &str, act: impl FnOnce(Self) -> F) -> Result<T, Status>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Status>> + Send + 'static,
    {
        check_id(id)?;
        let turn = {
            let mut turns = self.0.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| turn.strong_count() > 0);
            let turn = turns.get(id).and_then(Weak::upgrade).unwrap_or_default();
            turns.insert(id.to_owned(), Arc::downgrade(&turn));
            turn
        };
        let act = act(self.clone());
        let acting = tokio::spawn(async move {
            let _turn = turn.lock().await;
            act.await
        });
        acting.await.map_err(|error| Status::internal(error.to_string()))?
    }

    pub(crate) async fn create(&self, asked: Asked, spec: &DriverSandboxSpec) -> Result<(), Status> {
        let id = asked.id.clone();
        if self.is_deleted(&id) {
            return Err(Status::failed_precondition(format!("sandbox {id} was deleted; an id is never used again")));
        }
        if !self.book().sandboxes.contains_key(&id) {
            let folder = self.0.state.join("sandboxes").join(&id);
            fs::create_dir_all(folder.join("files")).map_err(system)?;
            save(&folder.join("sandbox.json"), &asked).map_err(system)?;
            if let Some(sandbox) = Sandbox::load(folder).map_err(system)? {
                self.book().sandboxes.insert(id.clone(), sandbox);
            }
        }
        let ran = self.book().sandboxes.get(&id).is_some_and(|sandbox| sandbox.run.is_some());
        if ran { Ok(()) } else { self.run(&id, spec).await.map_err(system) }
    }

    pub(crate) async fn start(&self, id: &str, asked: Option<Asked>, spec: &DriverSandboxSpec) -> Result<(), Status> {
        self.found(id)?;
        if let Some(sandbox) = self.book().sandboxes.get_mut(id) {
            if sandbox.deleting {
                return Err(Status::failed_precondition(format!("sandbox {id} is being deleted")));
            }
            if sandbox.alive.is_some() {
                return Ok(());
            }
            if let Some(asked) = asked {
                save(&sandbox.folder.join("sandbox.json"), &asked).map_err(system)?;
                sandbox.asked = asked;
            }
        }
        self.run(id, spec).await.map_err(system)
    }

    /// Runs the main process. Wherever the driver dies in here, `run.json` names the keeper or the keeper ends.
    async fn run(&self, id: &str, spec: &DriverSandboxSpec) -> io::Result<()> {
        let folder = self.0.state.join("sandboxes").join(id);
        if !spec.sandbox_token.is_empty() {
            fs::write(folder.join("token"), &spec.sandbox_token)?;
        }
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut ours = tokio::net::UnixStream::from_std(ours)?;
        let mut keeper = Command::new("/proc/self/exe");
        keeper.arg(KEEP).arg(&folder).env_clear().stdin(OwnedFd::from(theirs));
        keeper.stdout(Stdio::null()).stderr(Stdio::null());
        let child = keeper.spawn()?;
        drop(keeper);
        let number = child.id().ok_or(io::ErrorKind::NotFound)?;
        let run = Run { keeper: Identity::of(number)?, attempt: spec.agent_attempt.clone(), ..Run::default() };
        let handle = pidfd_open(pid(number)?, PidfdFlags::empty())?;
        save(&folder.join("run.json"), &run)?;
        self.follow(id, run, handle, Some(child))?;
        ours.write_all(b"g").await?;
        // Its word that the main process runs.
        ours.read_exact(&mut [0]).await?;
        self.book().changed(id);
        Ok(())
    }

    /// Waits for a keeper's end: a pidfd can be read then, whoever started the process (`pidfd_open(2)`).
    fn follow(&self, id: &str, run: Run, handle: OwnedFd, child: Option<Child>) -> io::Result<()> {
        let (alive, ended) = watch::channel(());
        let group = pid(run.keeper.pid)?;
        if let Some(sandbox) = self.book().sandboxes.get_mut(id) {
            (sandbox.run, sandbox.alive, sandbox.killed) = (Some(run), Some(ended), false);
        }
        let (driver, name) = (self.clone(), id.to_owned());
        let wait = move || {
            while poll(&mut [PollFd::new(&handle, PollFlags::IN)], None) == Err(Errno::INTR) {}
            // A keeper that was killed left the others. It is reaped afterwards: until then the number is its own.
            let _ = kill_process_group(group, Signal::KILL);
            drop(child);
            let mut book = driver.book();
            if let Some(Err(error)) = book.sandboxes.get_mut(&name).map(Sandbox::over) {
                eprintln!("driver: {name}: how it ended cannot be read or written: {error}");
            }
            book.changed(&name);
            drop(alive);
        };
        let waiting = std::thread::Builder::new().stack_size(256 << 10).spawn(wait);
        if waiting.is_err() {
            // Its keeper was not told to begin, and ends.
            self.book().sandboxes.get_mut(id).map_or(Ok(()), Sandbox::over)?;
        }
        waiting.map(drop)
    }

    /// TERM, KILL when the grace is over, and its end.
    async fn end(&self, id: &str, grace: Duration) -> Result<(), Status> {
        for (signal, limit) in [(Signal::TERM, grace), (Signal::KILL, KILLED)] {
            let alive = self.book().sandboxes.get_mut(id).and_then(|sandbox| {
                sandbox.killed = signal == Signal::KILL;
                Some((sandbox.run.as_ref()?.keeper.pid, sandbox.alive.clone()?))
            });
            let Some((number, mut ended)) = alive else { return Ok(()) };
            if limit.is_zero() {
                continue;
            }
            // Its keeper lives, or was not waited for: the number is its own.
            let _ = kill_process_group(pid(number).map_err(system)?, signal);
            if tokio::time::timeout(limit, async { while ended.changed().await.is_ok() {} }).await.is_ok() {
                return Ok(());
            }
        }
        Err(Status::deadline_exceeded("its processes do not end, though killed"))
    }

    pub(crate) async fn stop(&self, id: &str) -> Result<(), Status> {
        self.found(id)?;
        let grace = self.book().sandboxes.get(id).map_or(0, |sandbox| sandbox.asked.grace);
        self.end(id, Duration::from_secs(grace)).await?;
        let mut book = self.book();
        if let Some(sandbox) = book.sandboxes.get_mut(id)
            && let Some(run) = sandbox.run.as_mut().filter(|run| !run.stopped)
        {
            run.stopped = true;
            save(&sandbox.folder.join("run.json"), run).map_err(system)?;
            book.changed(id);
        }
        Ok(())
    }

    /// Whether there was one.
    pub(crate) async fn delete(&self, id: &str) -> Result<bool, Status> {
        // First: whatever comes now, it is gone, and its id is never used again.
        save(&self.0.state.join("deleted").join(id), &()).map_err(system)?;
        let folder = {
            let mut book = self.book();
            let Some(sandbox) = book.sandboxes.get_mut(id) else { return Ok(false) };
            sandbox.deleting = true;
            let folder = sandbox.folder.clone();
            book.changed(id);
            folder
        };
        self.end(id, Duration::ZERO).await?;
        tokio::task::spawn_blocking(move || remove(&folder))
            .await
            .map_err(io::Error::other)
            .flatten()
            .map_err(system)?;
        let mut book = self.book();
        book.sandboxes.remove(id);
        book.tell(Payload::Deleted(WatchSandboxesDeletedEvent { sandbox_id: id.to_owned() }));
        Ok(true)
    }
}
