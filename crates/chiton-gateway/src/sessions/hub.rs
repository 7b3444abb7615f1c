//! The hub: which sandbox has which session.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chiton_model::SandboxId;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::net::UnixStream;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::health::{self, CallError, MISSING, Trouble};
use super::link::Link;
use super::{AgentClient, Tokens, accept, socket};

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Nobody listens for this sandbox.
    #[error("sandbox {0} has no agent socket on this gateway; it was not started here or is gone")]
    Unknown(SandboxId),
    /// The agent is not there.
    #[error("the agent of sandbox {0} is not connected; it dials by itself, try again in a moment")]
    Disconnected(SandboxId),
    /// The agent is there and does not answer.
    #[error("sandbox {0}: {1}")]
    Trouble(SandboxId, Trouble),
    /// The sandbox's agent comes by a socket of the sandbox's own.
    #[error("the agent of sandbox {0} dials the sandbox's own socket; nothing else speaks for it")]
    Dials(SandboxId),
    /// The token is not that of the sandbox's current start.
    #[error("the token is not that of the current start of sandbox {0}")]
    Token(SandboxId),
    /// An agent of another start is awaited by now.
    #[error("another start of sandbox {0} is awaited")]
    Attempt(SandboxId),
    /// The socket could not be made.
    #[error("the agent socket in {folder} could not be made: {source}; the folder must exist and be writable")]
    Bind {
        /// The sandbox's folder.
        folder: PathBuf,
        /// What the system reports.
        source: io::Error,
    },
}

/// All sessions of a gateway. Cheap to clone; when the last clone is dropped, sockets and connections close.
#[derive(Clone)]
pub struct Sessions(Arc<Inner>);

struct Inner {
    tokens: Arc<dyn Tokens>,
    doors: Mutex<HashMap<SandboxId, Listening>>,
    /// Whose agent's trouble began or ended.
    news: broadcast::Sender<SandboxId>,
}

/// A listener that is this far behind looks at everything anew.
const BACKLOG: usize = 1024;

struct Listening {
    door: Arc<Door>,
    /// None where agents do not dial us: somebody else brings their connections, by [`Sessions::attach`].
    bound: Option<Bound>,
}

struct Bound {
    // In this order: no new agent, then no socket.
    _accepting: DropGuard,
    _socket: socket::Socket,
}

impl Drop for Inner {
    fn drop(&mut self) {
        for listening in self.doors.get_mut().values() {
            listening.door.close();
        }
    }
}

impl Sessions {
    /// A hub that asks `tokens` whether an agent belongs to its sandbox.
    pub fn new(tokens: Arc<dyn Tokens>) -> Self {
        Self(Arc::new(Inner { tokens, doors: Mutex::default(), news: broadcast::channel(BACKLOG).0 }))
    }

    /// Binds `<folder>/agent.sock` for the agents of a sandbox. Done again, it binds anew (the folder may have been made
    /// anew) and keeps the session. To be called on a tokio runtime.
    ///
    /// # Errors
    /// [`SessionError::Bind`].
    pub fn listen(&self, sandbox: &SandboxId, folder: &Path) -> Result<(), SessionError> {
        let bound = socket::bind_in(folder);
        let (listener, socket) = bound.map_err(|source| SessionError::Bind { folder: folder.to_owned(), source })?;
        let mut doors = self.0.doors.lock();
        let door = self.door_in(&doors, sandbox);
        let stop = CancellationToken::new();
        tokio::spawn(accept::serve(listener, Arc::clone(&door), Arc::clone(&self.0.tokens), stop.clone()));
        let bound = Some(Bound { _accepting: stop.drop_guard(), _socket: socket });
        doors.insert(sandbox.clone(), Listening { door, bound });
        Ok(())
    }

    /// Awaits a sandbox whose agent does not dial us: its connection is brought by [`Sessions::attach`]. Done again, it keeps
    /// the session. To be called on a tokio runtime.
    pub fn admit(&self, sandbox: &SandboxId) {
        let mut doors = self.0.doors.lock();
        let door = self.door_in(&doors, sandbox);
        doors.insert(sandbox.clone(), Listening { door, bound: None });
    }

    /// Makes a connection the session of an admitted sandbox, in the place of any before it. On the other end of `stream`
    /// somebody serves `chiton.agent.v1.Agent` on behalf of an agent whose token has the digest `sha256`: it counts for the
    /// start that this token was made for. To be called on a tokio runtime.
    ///
    /// # Errors
    /// [`SessionError::Unknown`], [`SessionError::Dials`], [`SessionError::Token`], [`SessionError::Attempt`].
    pub async fn attach(&self, sandbox: &SandboxId, sha256: &[u8; 32], stream: UnixStream) -> Result<(), SessionError> {
        let door = {
            let doors = self.0.doors.lock();
            let listening = doors.get(sandbox).ok_or_else(|| SessionError::Unknown(sandbox.clone()))?;
            if listening.bound.is_some() {
                return Err(SessionError::Dials(sandbox.clone()));
            }
            Arc::clone(&listening.door)
        };
        let attempt = self.0.tokens.start_of(sandbox, sha256).await;
        let attempt = attempt.ok_or_else(|| SessionError::Token(sandbox.clone()))?;
        if door.enter(&attempt, stream) { Ok(()) } else { Err(SessionError::Attempt(sandbox.clone())) }
    }

    /// Resolves when the agent of this start of the sandbox is connected, or was since this call (a main program may end in
    /// the moment it starts). From this call on agents of other starts are refused. Has no deadline of its own.
    ///
    /// # Errors
    /// [`SessionError::Unknown`], also when the sandbox is forgotten meanwhile.
    pub async fn wait_connected(&self, sandbox: &SandboxId, attempt: &str) -> Result<(), SessionError> {
        let unknown = || SessionError::Unknown(sandbox.clone());
        let mut changes = {
            let door = self.door(sandbox).ok_or_else(unknown)?;
            door.expect(attempt);
            door.connected.subscribe()
        };
        let before = changes.borrow().sessions;
        let met = changes.wait_for(|state| {
            let since = state.sessions > before && state.latest.as_deref() == Some(attempt);
            state.closed || since || state.attempt.as_deref() == Some(attempt)
        });
        let met = met.await;
        if met.is_ok_and(|state| !state.closed) { Ok(()) } else { Err(unknown()) }
    }

    /// Resolves when no agent of this start is connected (any more).
    ///
    /// # Errors
    /// [`SessionError::Unknown`], also when the sandbox is forgotten meanwhile.
    pub async fn wait_disconnected(&self, sandbox: &SandboxId, attempt: &str) -> Result<(), SessionError> {
        let unknown = || SessionError::Unknown(sandbox.clone());
        let mut changes = self.door(sandbox).ok_or_else(unknown)?.connected.subscribe();
        let met = changes.wait_for(|state| state.closed || state.attempt.as_deref() != Some(attempt)).await;
        if met.is_ok_and(|state| !state.closed) { Ok(()) } else { Err(unknown()) }
    }

    /// Which start of the sandbox is connected now.
    pub fn connected_attempt(&self, sandbox: &SandboxId) -> Option<String> {
        self.door(sandbox)?.connected.borrow().attempt.as_deref().map(str::to_owned)
    }

    /// A client for the sandbox's agent, for as long as its connection lasts: a call after its end fails with
    /// `UNAVAILABLE`, one that is under way then with that, `CANCELLED` or `UNKNOWN`, as the transport saw it. Then ask
    /// for a new one. To be called on a tokio runtime.
    ///
    /// # Errors
    /// [`SessionError::Unknown`], [`SessionError::Disconnected`].
    pub fn client(&self, sandbox: &SandboxId) -> Result<AgentClient, SessionError> {
        let door = self.door(sandbox).ok_or_else(|| SessionError::Unknown(sandbox.clone()))?;
        door.client().ok_or_else(|| SessionError::Disconnected(sandbox.clone()))
    }

    /// As [`Sessions::client`], with a moment for an agent that is on its way: a gateway that has just started serves
    /// before the agents have dialled again.
    ///
    /// # Errors
    /// [`SessionError::Unknown`], [`SessionError::Disconnected`].
    pub async fn client_within(&self, sandbox: &SandboxId, limit: Duration) -> Result<AgentClient, SessionError> {
        let door = self.door(sandbox).ok_or_else(|| SessionError::Unknown(sandbox.clone()))?;
        let mut changes = door.connected.subscribe();
        let come = changes.wait_for(|state| state.closed || state.attempt.is_some());
        drop(tokio::time::timeout(limit, come).await);
        door.client().ok_or_else(|| SessionError::Disconnected(sandbox.clone()))
    }

    /// Makes a call to the sandbox's agent that is answered when it is done, with a moment for an agent that is on its way.
    /// It has no deadline as long as the agent gives signs of life.
    ///
    /// # Errors
    /// [`SessionError`] before the call, then [`CallError`].
    pub async fn call<T, F>(
        &self,
        sandbox: &SandboxId,
        limit: Duration,
        call: impl FnOnce(AgentClient) -> F,
    ) -> Result<Result<T, CallError>, SessionError>
    where
        F: Future<Output = Result<T, tonic::Status>>,
    {
        let door = self.door(sandbox).ok_or_else(|| SessionError::Unknown(sandbox.clone()))?;
        if let Some(trouble @ Trouble::Silent(_)) = door.trouble() {
            return Err(SessionError::Trouble(sandbox.clone(), trouble));
        }
        let client = self.client_within(sandbox, limit).await?;
        Ok(health::watched(&door, client.clone(), call(client)).await)
    }

    /// What is wrong with the sandbox's agent, if anything is.
    pub fn trouble(&self, sandbox: &SandboxId) -> Option<Trouble> {
        self.door(sandbox)?.trouble()
    }

    /// Whose agent's trouble begins or ends from now on.
    pub fn troubles(&self) -> broadcast::Receiver<SandboxId> {
        self.0.news.subscribe()
    }

    /// Ends the sandbox's session, calls under way too, and removes its socket.
    pub fn forget(&self, sandbox: &SandboxId) {
        if let Some(listening) = self.0.doors.lock().remove(sandbox) {
            listening.door.close();
        }
    }

    /// The sandbox's entrance, a new one when it has none yet.
    fn door_in(&self, doors: &HashMap<SandboxId, Listening>, sandbox: &SandboxId) -> Arc<Door> {
        if let Some(known) = doors.get(sandbox) {
            return Arc::clone(&known.door);
        }
        let door = Arc::new(Door::new(sandbox.clone(), self.0.news.clone()));
        door.await_return();
        door
    }

    fn door(&self, sandbox: &SandboxId) -> Option<Arc<Door>> {
        self.0.doors.lock().get(sandbox).map(|listening| Arc::clone(&listening.door))
    }
}

/// What outsiders may watch.
#[derive(Default)]
struct Connected {
    /// Whose agent is connected now.
    attempt: Option<Arc<str>>,
    /// Whose agent was connected last, and how many there were: a watcher may look too late for a short session.
    latest: Option<Arc<str>>,
    sessions: u64,
    closed: bool,
}

/// One sandbox's entrance: its session, if there is one, and whom it waits for.
pub(super) struct Door {
    pub(super) sandbox: SandboxId,
    connected: watch::Sender<Connected>,
    state: Mutex<State>,
    news: broadcast::Sender<SandboxId>,
}

struct State {
    /// What is wrong with the agent. One that is missing is told of only after a while.
    trouble: Option<Trouble>,
    /// Counts sessions, so that the end of an old one does not end its successor.
    number: u64,
    session: Option<Session>,
    expected: Option<Arc<str>>,
}

struct Session {
    link: Link,
    // Cuts the connection when the session is replaced or ended.
    _cut: DropGuard,
}

impl Door {
    fn new(sandbox: SandboxId, news: broadcast::Sender<SandboxId>) -> Self {
        let trouble = Some(Trouble::Missing(Timestamp::now()));
        let state = State { trouble, number: 0, session: None, expected: None };
        Self { sandbox, connected: watch::Sender::default(), state: Mutex::new(state), news }
    }

    /// Which session this is; grows with each.
    pub(super) fn number(&self) -> u64 {
        self.state.lock().number
    }

    /// What is wrong with the agent by now.
    fn trouble(&self) -> Option<Trouble> {
        let trouble = self.state.lock().trouble?;
        match trouble {
            // The wall clock may have been set back since; then it is told of later.
            Trouble::Missing(since) => (Timestamp::now().duration_since(since).unsigned_abs() >= MISSING
                && self.connected.borrow().attempt.is_none())
            .then_some(trouble),
            Trouble::Silent(_) => Some(trouble),
        }
    }

    /// Notes that the agent of a session does not answer; false when that is known or another came.
    pub(super) fn is_silent(&self, number: u64) -> bool {
        let mut state = self.state.lock();
        if state.number != number || state.trouble.is_some() {
            return false;
        }
        state.trouble = Some(Trouble::Silent(Timestamp::now()));
        drop(state);
        tracing::warn!(sandbox = %self.sandbox, "its agent does not answer");
        self.tell();
        true
    }

    /// Notes that it answers again.
    pub(super) fn answers(&self, number: u64) {
        let mut state = self.state.lock();
        if state.number == number {
            state.trouble = None;
            drop(state);
            tracing::info!(sandbox = %self.sandbox, "its agent answers again");
            self.tell();
        }
    }

    fn tell(&self) {
        // Nobody listening is not an error.
        let _ = self.news.send(self.sandbox.clone());
    }

    /// Tells of an agent that is missing when it has been so for a while.
    fn await_return(self: &Arc<Self>) {
        let door = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(MISSING).await;
            if let Some(door) = door.upgrade()
                && door.trouble().is_some()
            {
                door.tell();
            }
        });
    }

    /// One that waits for an agent of this start.
    #[cfg(feature = "fuzzing")]
    pub(super) fn awaiting(sandbox: SandboxId, attempt: &str) -> Self {
        let door = Self::new(sandbox, broadcast::channel(1).0);
        door.expect(attempt);
        door
    }

    fn expect(&self, attempt: &str) {
        self.state.lock().expected = Some(attempt.into());
    }

    /// Whether an agent of this start may come in.
    pub(super) fn awaits(&self, attempt: &str) -> bool {
        self.state.lock().expected.as_deref().is_none_or(|expected| expected == attempt)
    }

    fn client(&self) -> Option<AgentClient> {
        self.state.lock().session.as_ref().and_then(|session| session.link.client())
    }

    /// Makes the connection this sandbox's session, in the place of any before it; false when it came too late.
    pub(super) fn enter(self: &Arc<Self>, attempt: &str, stream: UnixStream) -> bool {
        let mut state = self.state.lock();
        let expected = state.expected.as_deref().is_none_or(|expected| expected == attempt);
        if !expected || self.connected.borrow().closed {
            return false;
        }
        let cut = CancellationToken::new();
        let (link, ended) = Link::new(stream, cut.clone());
        state.number += 1;
        let number = state.number;
        state.session = Some(Session { link, _cut: cut.drop_guard() });
        let troubled = state.trouble.take().is_some();
        // Still under the lock: watchers see changes in their order.
        self.connected.send_modify(|connected| {
            connected.attempt = Some(attempt.into());
            connected.latest.clone_from(&connected.attempt);
            connected.sessions = number;
        });
        drop(state);
        if troubled {
            self.tell();
        }
        tracing::debug!(sandbox = %self.sandbox, attempt, "agent connected");
        let door = Arc::downgrade(self);
        tokio::spawn(async move {
            ended.await;
            if let Some(door) = door.upgrade() {
                door.ended(number);
            }
        });
        true
    }

    fn ended(self: &Arc<Self>, number: u64) {
        let mut state = self.state.lock();
        if state.number == number {
            state.session = None;
            state.trouble = Some(Trouble::Missing(Timestamp::now()));
            self.await_return();
            self.connected.send_modify(|connected| connected.attempt = None);
            tracing::debug!(sandbox = %self.sandbox, "agent disconnected");
        }
    }

    fn close(&self) {
        let mut state = self.state.lock();
        state.session = None;
        self.connected.send_modify(|connected| {
            connected.attempt = None;
            connected.closed = true;
        });
    }
}
