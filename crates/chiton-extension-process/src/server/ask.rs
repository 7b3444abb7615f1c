//! What a running hook asks of the gateway: to save its state, to list all of its states.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use async_trait::async_trait;
use chiton_lifecycle::extension::RemoteStates;
use chiton_lifecycle::journal::{ExtensionState, Subject};
use parking_lot::Mutex;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;
use tonic::Status;

use crate::proto::run_hook_output::Output;
use crate::proto::{ListStates, RunHookOutput, RunSaved, RunStates, SaveState};
use crate::wire;

/// Longer than a gateway takes for one write to its mark log, whatever else it does.
const SAVE: Duration = Duration::from_secs(30);

type Saved = Result<(), String>;
type Listed = Result<Vec<(Subject, ExtensionState)>, String>;

enum Waiting {
    Save(mpsc::SyncSender<Saved>),
    SaveDurable(oneshot::Sender<Saved>),
    List(oneshot::Sender<Listed>),
}

/// The questions of one step and who waits for their answers. Dropping the waiting ends the wait.
pub(super) struct Asks {
    output: UnboundedSender<Result<RunHookOutput, Status>>,
    open: Mutex<Option<HashMap<u64, Waiting>>>,
    next: AtomicU64,
    state: Mutex<Option<ExtensionState>>,
}

const LOST: &str = "the gateway cannot be reached";

impl Asks {
    pub(super) fn new(
        output: UnboundedSender<Result<RunHookOutput, Status>>,
        state: Option<ExtensionState>,
    ) -> Arc<Self> {
        Arc::new(Self {
            output,
            open: Mutex::new(Some(HashMap::new())),
            next: AtomicU64::new(1),
            state: Mutex::new(state),
        })
    }

    fn ask(&self, waiting: Waiting, question: impl FnOnce(u64) -> Output) -> Result<(), String> {
        let ask = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.lock().as_mut().ok_or(LOST)?.insert(ask, waiting);
        let question = RunHookOutput { output: Some(question(ask)) };
        self.output.send(Ok(question)).map_err(|_| LOST.to_owned())
    }

    fn take(&self, ask: u64) -> Option<Waiting> {
        self.open.lock().as_mut().and_then(|open| open.remove(&ask))
    }

    /// An answer came. One that nobody asked for is no harm.
    pub(super) fn saved(&self, answer: &RunSaved) {
        let saved = if answer.error.is_empty() { Ok(()) } else { Err(wire::said(&answer.error)) };
        match self.take(answer.ask) {
            // Who waited may have given up.
            Some(Waiting::Save(waiting)) => drop(waiting.try_send(saved)),
            Some(Waiting::SaveDurable(waiting)) => drop(waiting.send(saved)),
            Some(Waiting::List(_)) | None => {}
        }
    }

    pub(super) fn listed(&self, answer: RunStates) {
        let Some(Waiting::List(waiting)) = self.take(answer.ask) else { return };
        let listed = if answer.error.is_empty() {
            let read = |one: crate::proto::SubjectState| {
                let state = one.state.ok_or("a state is missing")?;
                Ok((wire::read_subject(one.subject)?, wire::read_state(&state)?))
            };
            answer.states.into_iter().map(read).collect()
        } else {
            Err(wire::said(&answer.error))
        };
        drop(waiting.send(listed));
    }

    /// No answer will come any more.
    pub(super) fn close(&self) {
        drop(self.open.lock().take());
    }

    fn keep(&self, state: ExtensionState) {
        *self.state.lock() = Some(state);
    }
}

#[async_trait]
impl RemoteStates for Asks {
    fn load(&self) -> Option<ExtensionState> {
        self.state.lock().clone()
    }

    fn save(&self, state: ExtensionState) -> Result<(), String> {
        let (waiting, answer) = mpsc::sync_channel(1);
        let payload_json = wire::saved_state(&state).payload_json;
        self.ask(Waiting::Save(waiting), |ask| Output::Save(SaveState { ask, payload_json, durable: false }))?;
        // Another thread takes the answer in.
        let answer = tokio::task::block_in_place(|| answer.recv_timeout(SAVE));
        answer.map_err(|_| LOST.to_owned())??;
        self.keep(state);
        Ok(())
    }

    async fn save_durable(&self, state: ExtensionState) -> Result<(), String> {
        let (waiting, answer) = oneshot::channel();
        let payload_json = wire::saved_state(&state).payload_json;
        self.ask(Waiting::SaveDurable(waiting), |ask| Output::Save(SaveState { ask, payload_json, durable: true }))?;
        answer.await.map_err(|_| LOST.to_owned())??;
        self.keep(state);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<(Subject, ExtensionState)>, String> {
        let (waiting, answer) = oneshot::channel();
        self.ask(Waiting::List(waiting), |ask| Output::ListStates(ListStates { ask }))?;
        answer.await.map_err(|_| LOST.to_owned())?
    }
}
