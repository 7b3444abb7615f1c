//! Byte streams into sandboxes.
//!
//! A supervisor is asked over its session to open one, and answers with a call of its own whose first frame says which
//! request it answers. What is asked for and not answered is bounded, in number and in time. A stream is joined to its
//! request only by a call with the token that the session has: another sandbox cannot answer in its place.

use std::collections::HashMap;
use std::time::Duration;

use bytes::BytesMut;
use chiton_gateway::sessions::same_digest;
use chiton_model::SandboxId;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Status, Streaming};
use uuid::Uuid;

use crate::auth::Digest;
use crate::session::Session;
use crate::wire::{RelayClose, RelayFrame, RelayOpen, SshRelayTarget, gateway_message, relay_frame, relay_open};

/// Bytes on their way in either direction before the other side waits.
const BUFFER: usize = 64 * 1024;
/// The longest piece of one frame, as the peer cuts them: one HTTP/2 frame of the usual size.
const PIECE: usize = 16 * 1024;
/// Frames that wait for a slow supervisor.
const FRAMES: usize = 16;

/// Requests that no supervisor has answered yet.
pub(crate) struct Relays {
    places: Semaphore,
    most: usize,
    wait: Duration,
    pending: Mutex<HashMap<String, Pending>>,
}

struct Pending {
    sandbox: SandboxId,
    /// The token of the session that was asked.
    digest: Digest,
    ended: CancellationToken,
    answer: oneshot::Sender<Result<Relay, String>>,
}

/// A stream into a sandbox.
pub(crate) struct Relay {
    pub(crate) stream: DuplexStream,
    /// Dropping it ends the stream, whoever holds it.
    pub(crate) cut: DropGuard,
}

/// Takes a request back that is not waited for any more.
struct Forget<'a>(&'a Relays, &'a str);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.pending.lock().remove(self.1);
    }
}

impl Relays {
    /// At most `most` pending ones, each for at most `wait`.
    pub(crate) fn new(most: usize, wait: Duration) -> Self {
        Self { places: Semaphore::new(most), most, wait, pending: Mutex::default() }
    }

    /// Opens a stream to the SSH server of a session's sandbox.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` when too many are pending, else `UNAVAILABLE`.
    pub(crate) async fn open(&self, session: &Session) -> Result<Relay, Status> {
        let full = |whose: &str, most: usize| {
            Status::resource_exhausted(format!(
                "{whose} has {most} streams that its supervisor was asked for and did not open yet; try again in a moment"
            ))
        };
        let _place = self.places.try_acquire().map_err(|_| full("the gateway", self.most))?;
        let _own = session.places.try_acquire().map_err(|_| full("the sandbox", session.most))?;
        let channel = Uuid::new_v4().to_string();
        let (answer, answered) = oneshot::channel();
        let (sandbox, ended) = (session.sandbox.clone(), session.ended.clone());
        let pending = Pending { sandbox, digest: session.digest, ended, answer };
        self.pending.lock().insert(channel.clone(), pending);
        let _forget = Forget(self, &channel);
        let open = RelayOpen {
            channel_id: channel.clone(),
            target: Some(relay_open::Target::Ssh(SshRelayTarget {})),
            service_id: String::new(),
        };
        session.tell(gateway_message::Payload::RelayOpen(open))?;
        let answered = tokio::select! {
            answered = tokio::time::timeout(self.wait, answered) => answered,
            () = session.ended.cancelled() => return Err(session.gone()),
        };
        match answered {
            Ok(Ok(Ok(relay))) => Ok(relay),
            Ok(Ok(Err(error))) => {
                Err(Status::unavailable(format!("the supervisor could not open a stream to its SSH server: {error}")))
            }
            Ok(Err(_)) => Err(session.gone()),
            Err(_) => {
                let reason = "not opened in time".to_owned();
                // A supervisor that takes no message will not open it either.
                let _ = session
                    .tell(gateway_message::Payload::RelayClose(RelayClose { channel_id: channel.clone(), reason }));
                Err(Status::unavailable(format!(
                    "the supervisor did not open a stream to its SSH server within {:?}; try again, or stop and start the \
                     sandbox",
                    self.wait
                )))
            }
        }
    }

    /// The supervisor says that it cannot open a stream.
    pub(crate) fn failed(&self, channel: &str, digest: &Digest, error: &str) {
        if let Some(pending) = self.claim(channel, digest) {
            let error = error.chars().take(200).collect::<String>();
            // Whoever asked may have gone.
            let _ = pending.answer.send(Err(error));
        }
    }

    /// Joins a stream that a supervisor opened to the request it answers.
    ///
    /// # Errors
    /// `NOT_FOUND` when nobody asked for it, or asked somebody else.
    pub(crate) fn join(
        &self,
        channel: &str,
        digest: &Digest,
        frames: Streaming<RelayFrame>,
    ) -> Result<ReceiverStream<Result<RelayFrame, Status>>, Status> {
        let unknown =
            || Status::not_found("no stream of this id is awaited from this sandbox; it may have come too late");
        let Pending { ended, answer, .. } = self.claim(channel, digest).ok_or_else(unknown)?;
        let (ours, theirs) = tokio::io::duplex(BUFFER);
        let cut = ended.child_token();
        let relay = Relay { stream: theirs, cut: cut.clone().drop_guard() };
        answer.send(Ok(relay)).map_err(|_| unknown())?;
        let (sink, output) = mpsc::channel(FRAMES);
        let (from_here, to_here) = tokio::io::split(ours);
        tokio::spawn(until(cut.clone(), outwards(from_here, sink)));
        tokio::spawn(until(cut, inwards(frames, to_here)));
        Ok(ReceiverStream::new(output))
    }

    /// The sandbox that a stream was asked of, if by this token.
    pub(crate) fn asked_of(&self, channel: &str, digest: &Digest) -> Option<SandboxId> {
        let pending = self.pending.lock();
        pending.get(channel).filter(|pending| same_digest(&pending.digest, digest)).map(|found| found.sandbox.clone())
    }

    fn claim(&self, channel: &str, digest: &Digest) -> Option<Pending> {
        let mut pending = self.pending.lock();
        if !pending.get(channel).is_some_and(|pending| same_digest(&pending.digest, digest)) {
            return None;
        }
        pending.remove(channel)
    }
}

async fn until(cut: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = cut.cancelled() => {}
        () = work => {}
    }
}

/// From the gateway to the sandbox.
async fn outwards(mut from: tokio::io::ReadHalf<DuplexStream>, to: mpsc::Sender<Result<RelayFrame, Status>>) {
    loop {
        let mut piece = BytesMut::with_capacity(PIECE);
        // The other half in memory: an error is its end.
        if from.read_buf(&mut piece).await.unwrap_or(0) == 0 {
            return;
        }
        let frame = RelayFrame { payload: Some(relay_frame::Payload::Data(piece.freeze())) };
        if to.send(Ok(frame)).await.is_err() {
            return;
        }
    }
}

/// From the sandbox to the gateway.
async fn inwards(mut from: Streaming<RelayFrame>, mut to: tokio::io::WriteHalf<DuplexStream>) {
    // However it ends, whoever reads sees an end: SSH tells a whole stream from a broken one by itself.
    while let Ok(Some(RelayFrame { payload: Some(relay_frame::Payload::Data(data)) })) = from.message().await {
        if to.write_all(&data).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// The channel that a stream's first frame names.
pub(crate) fn channel(first: Option<RelayFrame>) -> Result<String, Status> {
    match first.and_then(|frame| frame.payload) {
        Some(relay_frame::Payload::Init(init)) => Ok(init.channel_id),
        _ => Err(Status::invalid_argument("the first frame of a relay stream is its init")),
    }
}
