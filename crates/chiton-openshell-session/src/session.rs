//! The supervisors that are there.
//!
//! A session begins with the supervisor's hello and lasts as long as both sides hear of each other. Each is presented to
//! the gateway's hub as a connection on which our agent's protocol is served; the two end together, whichever ends first.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chiton_gateway::sessions::Sessions;
use chiton_model::SandboxId;
use chiton_proto::agent::requests::RequestIds;
use parking_lot::Mutex;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Status, Streaming};
use uuid::Uuid;

use crate::agent;
use crate::auth::{Caller, Digest};
use crate::relay::Relays;
use crate::serve::Limits;
use crate::wire::gateway_message::Payload as ToSupervisor;
use crate::wire::supervisor_message::Payload as FromSupervisor;
use crate::wire::{
    GatewayHeartbeat, GatewayMessage, SessionAccepted, SessionRejected, SupervisorHello, SupervisorMessage,
};

/// Messages that wait for a supervisor that does not read.
const MESSAGES: usize = 64;
/// How long the programs of a session that the gateway ended may take to end.
const LAST: Duration = Duration::from_secs(6);
/// How long it is kept in mind what ran under a token whose supervisor is away.
const LEFT: Duration = Duration::from_hours(1);
/// After how many intervals without a word a supervisor is gone.
const MISSED: u32 = 3;

type Live = HashMap<SandboxId, Arc<Session>>;
type Messages = ReceiverStream<Result<GatewayMessage, Status>>;

/// All live sessions.
pub(crate) struct Supervisors {
    hub: Sessions,
    limits: Limits,
    pub(crate) relays: Relays,
    live: watch::Sender<Live>,
    /// What ended sessions leave to their successors, by token, and since when.
    left: Mutex<HashMap<Digest, (Instant, Ran)>>,
    /// No more calls of the gateway.
    close: CancellationToken,
    /// No more sessions.
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// One supervisor that is there.
pub(crate) struct Session {
    pub(crate) sandbox: SandboxId,
    id: String,
    /// Which run of the supervisor.
    pub(crate) instance: String,
    pub(crate) digest: Digest,
    to: mpsc::Sender<Result<GatewayMessage, Status>>,
    pub(crate) ended: CancellationToken,
    pub(crate) places: Semaphore,
    pub(crate) most: usize,
    /// Programs under way.
    pub(crate) programs: TaskTracker,
    /// The requests that were run in this start of the sandbox.
    pub(crate) ran: Ran,
}

/// Ids of requests, handed from a session to its successor.
pub(crate) type Ran = Arc<Mutex<RequestIds>>;

impl Session {
    /// Puts a message into the session. Never waits: a supervisor that leaves so many unread is as good as gone.
    pub(crate) fn tell(&self, payload: ToSupervisor) -> Result<(), Status> {
        self.to.try_send(Ok(GatewayMessage { payload: Some(payload) })).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Status::unavailable(format!(
                "the supervisor of sandbox {} does not read what it is sent; try again in a moment",
                self.sandbox
            )),
            mpsc::error::TrySendError::Closed(_) => self.gone(),
        })
    }

    pub(crate) fn gone(&self) -> Status {
        Status::unavailable(format!(
            "the supervisor of sandbox {} has disconnected; it dials by itself, try again in a moment",
            self.sandbox
        ))
    }

    pub(crate) fn running(&self) -> u32 {
        u32::try_from(self.programs.len()).unwrap_or(u32::MAX)
    }
}

impl Supervisors {
    pub(crate) fn new(hub: Sessions, limits: Limits) -> Self {
        Self {
            hub,
            relays: Relays::new(limits.pending, limits.relay),
            limits,
            live: watch::Sender::default(),
            left: Mutex::default(),
            close: CancellationToken::new(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// Begins a session. The answer is the stream of our messages: the first says whether it was accepted.
    pub(crate) async fn connect(
        self: &Arc<Self>,
        caller: Caller,
        hello: SupervisorHello,
        from: Streaming<SupervisorMessage>,
    ) -> Result<Messages, Status> {
        let (to, messages) = mpsc::channel(MESSAGES);
        let session = Arc::new(Session {
            sandbox: caller.sandbox,
            id: Uuid::new_v4().to_string(),
            instance: hello.instance_id,
            digest: caller.digest,
            to,
            ended: self.stop.child_token(),
            places: Semaphore::new(self.limits.pending_of_one),
            most: self.limits.pending_of_one,
            programs: TaskTracker::new(),
            ran: self.ran(&caller.digest),
        });
        if self.close.is_cancelled() {
            return Err(Status::unavailable("the gateway is shutting down; dial again"));
        }
        // A pair of sockets without a name: nobody but the two ends can reach it, and the hub takes it as it is.
        let pair = UnixStream::pair().map_err(|error| Status::unavailable(format!("no socket pair: {error}")))?;
        let (ours, theirs) = pair;
        if let Err(error) = self.hub.attach(&session.sandbox, &session.digest, theirs).await {
            tracing::warn!(sandbox = %session.sandbox, %error, "a supervisor was refused");
            session.tell(ToSupervisor::SessionRejected(SessionRejected { reason: error.to_string() }))?;
            return Ok(ReceiverStream::new(messages));
        }
        let seconds = u32::try_from(self.limits.heartbeat.as_secs()).unwrap_or(u32::MAX).max(1);
        let accepted = SessionAccepted { session_id: session.id.clone(), heartbeat_interval_secs: seconds };
        // Before anybody can ask for a relay: it is the first message of the stream.
        session.tell(ToSupervisor::SessionAccepted(accepted))?;
        let mut older = None;
        self.live.send_modify(|live| older = live.insert(session.sandbox.clone(), Arc::clone(&session)));
        if let Some(older) = older {
            // The hub has cut its connection already.
            older.ended.cancel();
        }
        tracing::info!(sandbox = %session.sandbox, session = session.id, "a supervisor is connected");
        self.tasks.spawn(Arc::clone(self).attend(session, from, ours));
        Ok(ReceiverStream::new(messages))
    }

    /// Stays with a session to its end.
    async fn attend(self: Arc<Self>, session: Arc<Session>, from: Streaming<SupervisorMessage>, ours: UnixStream) {
        let serve = async {
            tokio::select! {
                () = self.close.cancelled() => {}
                () = agent::serve(Arc::clone(&self), Arc::clone(&session), ours) => {}
            }
            // Programs whose callers are gone are ended through this session: it stays for that.
            session.programs.close();
            let _ = timeout(LAST, session.programs.wait()).await;
        };
        let why = tokio::select! {
            () = session.ended.cancelled() => "it was replaced, or the gateway ends",
            () = serve => "the gateway ended it",
            why = self.listen(&session, from) => why,
        };
        session.ended.cancel();
        self.leave(&session);
        self.live.send_if_modified(|live| {
            let current = live.get(&session.sandbox).is_some_and(|other| Arc::ptr_eq(other, &session));
            current && live.remove(&session.sandbox).is_some()
        });
        tracing::info!(sandbox = %session.sandbox, session = session.id, why, "a supervisor's session ended");
    }

    /// The requests that ran under this token: those of the session that is there, or of the one that was.
    fn ran(&self, digest: &Digest) -> Ran {
        let live = self.live.borrow().values().find(|session| session.digest == *digest).map(|s| Arc::clone(&s.ran));
        live.or_else(|| self.left.lock().get(digest).map(|(_, ran)| Arc::clone(ran))).unwrap_or_default()
    }

    fn leave(&self, session: &Session) {
        let mut left = self.left.lock();
        left.retain(|_, (since, _)| since.elapsed() < LEFT);
        if !session.ran.lock().is_empty() {
            left.insert(session.digest, (Instant::now(), Arc::clone(&session.ran)));
        }
    }

    /// Takes what the supervisor sends, and says now and then that we are there.
    async fn listen(&self, session: &Session, mut from: Streaming<SupervisorMessage>) -> &'static str {
        let patience = self.limits.heartbeat * MISSED;
        let mut beat = interval(self.limits.heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        beat.reset();
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                message = from.message() => match message {
                    Ok(Some(message)) => {
                        heard = Instant::now();
                        self.heard(session, message);
                    }
                    Ok(None) => return "it hung up",
                    Err(_) => return "its connection broke",
                },
                () = sleep_until(heard + patience) => return "its heartbeats stopped",
                _ = beat.tick() => {
                    // One that does not read is found by its own silence.
                    let _ = session.tell(ToSupervisor::Heartbeat(GatewayHeartbeat {}));
                }
            }
        }
    }

    fn heard(&self, session: &Session, message: SupervisorMessage) {
        match message.payload {
            Some(FromSupervisor::RelayOpenResult(result)) if !result.success => {
                self.relays.failed(&result.channel_id, &session.digest, &result.error);
            }
            Some(FromSupervisor::RelayClose(close)) => {
                self.relays.failed(&close.channel_id, &session.digest, &close.reason);
            }
            Some(FromSupervisor::Hello(_)) => {
                tracing::warn!(sandbox = %session.sandbox, "a supervisor said hello twice; ignored");
            }
            // A stream that could be opened comes as a call. What newer supervisors say besides is not for us.
            _ => {}
        }
    }

    /// The session of a sandbox, if it is there.
    pub(crate) fn session(&self, sandbox: &SandboxId) -> Option<Arc<Session>> {
        self.live.borrow().get(sandbox).cloned()
    }

    /// The session of a sandbox, with a moment for a supervisor that is on its way.
    pub(crate) async fn session_within(&self, sandbox: &SandboxId, limit: Duration) -> Option<Arc<Session>> {
        let mut live = self.live.subscribe();
        let come = timeout(limit, live.wait_for(|live| live.contains_key(sandbox))).await;
        come.ok()?.ok()?.get(sandbox).cloned()
    }

    /// Ends all programs of callers, then all sessions, and waits for that.
    pub(crate) async fn drain(&self) {
        self.close.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.stop.cancel();
    }
}
