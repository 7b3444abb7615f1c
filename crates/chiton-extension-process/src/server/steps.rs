//! What runs, and what may not begin: the truth behind `Fence`.

#[cfg(test)]
use std::collections::HashSet;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;

use chiton_lifecycle::journal::Subject;
use chiton_lifecycle::runtime::CancelToken;
use futures::future::join_all;
use parking_lot::Mutex;
use tonic::Status;

use crate::proto::{OperationFence, StepId};

/// How many fences are remembered. What they refuse can only be a call that was on its way when the fence came: it arrives
/// within moments, or never.
const REMEMBERED: usize = 65_536;

/// A call of one life of a gateway.
type Call = (String, u64);

/// All steps of this process. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Steps(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    running: HashMap<Call, Running>,
    refused: Recent<Call, ()>,
    /// Operation and extension → the one life of the gateway whose steps are welcome.
    fenced: Recent<(String, String), String>,
    draining: CancelToken,
}

#[derive(Clone)]
struct Running {
    id: StepId,
    subject: Subject,
    cancel: CancelToken,
    over: CancelToken,
}

/// A step that has begun. Dropped when nothing of it runs any more.
pub(super) struct Begun {
    steps: Steps,
    call: Call,
    over: CancelToken,
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.steps.0.lock().running.remove(&self.call);
        self.over.cancel();
    }
}

/// The newest entries of a map.
struct Recent<K, V> {
    entries: HashMap<K, V>,
    order: VecDeque<K>,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self { entries: HashMap::new(), order: VecDeque::new() }
    }
}

impl<K: Hash + Eq + Clone, V> Recent<K, V> {
    fn put(&mut self, key: K, value: V) {
        if self.entries.insert(key.clone(), value).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.entries.remove(&oldest);
        }
    }

    fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key)
    }
}

impl State {
    fn refusal(&self, id: &StepId, call: &Call) -> Option<Status> {
        if self.draining.is_cancelled() {
            return Some(Status::unavailable("this process ends and takes no new step"));
        }
        let by_operation = self.fenced.get(&(id.operation.clone(), id.extension.clone()));
        if self.refused.get(call).is_some() || by_operation.is_some_and(|welcome| *welcome != id.gateway_run) {
            return Some(Status::failed_precondition("the step was fenced off before it arrived"));
        }
        self.running.contains_key(call).then(|| Status::invalid_argument("this very call runs already"))
    }

    /// Cancels what matches and says when it is over.
    fn end(&self, which: impl Fn(&Running) -> bool) -> Vec<CancelToken> {
        let ending = self.running.values().filter(|running| which(running));
        ending
            .map(|running| {
                running.cancel.cancel();
                running.over.clone()
            })
            .collect()
    }
}

async fn all(over: Vec<CancelToken>) {
    join_all(over.iter().map(CancelToken::cancelled)).await;
}

impl Steps {
    /// Takes a step in, or says why not. Waits for those of other lives of the gateway on the same subject.
    pub(super) async fn begin(&self, id: &StepId, subject: &Subject, cancel: &CancelToken) -> Result<Begun, Status> {
        let call = (id.gateway_run.clone(), id.call);
        loop {
            let before = {
                let mut state = self.0.lock();
                if let Some(refusal) = state.refusal(id, &call) {
                    return Err(refusal);
                }
                let before = state.end(|other| {
                    other.subject == *subject
                        && other.id.extension == id.extension
                        && other.id.gateway_run != id.gateway_run
                });
                if before.is_empty() {
                    let over = CancelToken::new();
                    let running = Running {
                        id: id.clone(),
                        subject: subject.clone(),
                        cancel: cancel.clone(),
                        over: over.clone(),
                    };
                    state.running.insert(call.clone(), running);
                    return Ok(Begun { steps: self.clone(), call, over });
                }
                before
            };
            all(before).await;
        }
    }

    /// Returns when nothing of the step runs any more; it cannot begin after this was called.
    pub(super) async fn fence_step(&self, id: &StepId) {
        let call = (id.gateway_run.clone(), id.call);
        let over = {
            let mut state = self.0.lock();
            state.refused.put(call.clone(), ());
            state.end(|running| running.id.gateway_run == call.0 && running.id.call == call.1)
        };
        all(over).await;
    }

    /// The same of every step of the operation and extension that another life of the gateway began.
    pub(super) async fn fence_operation(&self, fence: &OperationFence) {
        let over = {
            let mut state = self.0.lock();
            state.fenced.put((fence.operation.clone(), fence.extension.clone()), fence.gateway_run.clone());
            state.end(|running| {
                running.id.operation == fence.operation
                    && running.id.extension == fence.extension
                    && running.id.gateway_run != fence.gateway_run
            })
        };
        all(over).await;
    }

    /// Takes no new step from now on, and returns when the last one is over.
    pub(super) async fn drain(&self) {
        let over: Vec<CancelToken> = {
            let state = self.0.lock();
            state.draining.cancel();
            state.running.values().map(|running| running.over.clone()).collect()
        };
        all(over).await;
    }

    /// Set when no new step is taken.
    pub(super) fn draining(&self) -> CancelToken {
        self.0.lock().draining.clone()
    }

    #[cfg(test)]
    pub(super) fn running(&self) -> HashSet<u64> {
        self.0.lock().running.values().map(|running| running.id.call).collect()
    }
}

#[cfg(test)]
mod tests;
