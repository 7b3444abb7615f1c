//! Which requests meet which fault, and the test's hand on it.

use std::time::Duration;

use http::{Method, StatusCode};
use tokio::sync::watch;

/// What happens to a request that a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It reaches the engine when it is released, whether the client is still there or not; the answer goes to a client
    /// that is.
    Late,
    /// As [`Fault::Late`], released by itself after this time.
    LateBy(Duration),
    /// It never reaches the engine; the connection is cut.
    DropRequest,
    /// It is carried out, and the connection is cut instead of an answer.
    DropAnswer,
    /// It is carried out, and the answer comes when it is released.
    LateAnswer,
    /// It never reaches the engine; the client gets this answer, a JSON document.
    Answer(StatusCode, serde_json::Value),
    /// It is carried out; the answer's body, or the connection that changed its protocol, is cut after so many bytes to
    /// the client.
    CutAfter(u64),
    /// The same, cut when it is released.
    Cut,
    /// Nothing happens: it does not reach the engine and is not answered. When it is released the connection is cut.
    Hang,
}

/// A fault and the requests that meet it.
#[derive(Clone, Debug)]
pub struct Rule {
    method: Method,
    path: String,
    skip: usize,
    times: usize,
    fault: Fault,
}

impl Rule {
    /// The first request of this method whose path and query fit the pattern, in which `*` stands for any text.
    pub fn new(method: Method, path: impl Into<String>, fault: Fault) -> Self {
        Self { method, path: path.into(), skip: 0, times: 1, fault }
    }

    /// Lets so many requests that fit pass before.
    #[must_use]
    pub fn after(mut self, skip: usize) -> Self {
        self.skip = skip;
        self
    }

    /// So many requests meet it, not one only.
    #[must_use]
    pub fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }

    /// Every request that fits meets it, until the rules are taken back.
    #[must_use]
    pub fn always(self) -> Self {
        self.times(usize::MAX)
    }

    pub(super) fn stand(self) -> (Standing, Injected) {
        let (states, state) = watch::channel(State::default());
        let states = std::sync::Arc::new(states);
        (Standing { rule: self, met: 0, states: std::sync::Arc::clone(&states) }, Injected { states, state })
    }
}

/// How far the requests of a rule are.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    met: usize,
    carried_out: usize,
    released: bool,
}

/// A rule in force.
pub(super) struct Standing {
    rule: Rule,
    met: usize,
    states: std::sync::Arc<watch::Sender<State>>,
}

impl Standing {
    /// Whether a request meets the fault, whose turn it takes.
    pub(super) fn meets(&mut self, method: &Method, path: &str) -> Option<(Fault, Meeting)> {
        let Rule { skip, times, .. } = self.rule;
        if self.rule.method != *method || !fits(&self.rule.path, path) {
            return None;
        }
        self.met = self.met.saturating_add(1);
        if self.met <= skip || self.met - skip > times {
            return None;
        }
        Some((self.rule.fault.clone(), Meeting(std::sync::Arc::clone(&self.states))))
    }
}

/// One request that met a fault.
#[derive(Clone)]
pub(super) struct Meeting(std::sync::Arc<watch::Sender<State>>);

impl Meeting {
    /// Says that the request is the proxy's from now on, whatever its client does.
    pub(super) fn met(&self) {
        self.0.send_modify(|state| state.met += 1);
    }

    pub(super) async fn released(&self) {
        let mut state = self.0.subscribe();
        // The sender is this value's own.
        drop(state.wait_for(|state| state.released).await);
    }

    pub(super) fn carried_out(&self) {
        self.0.send_modify(|state| state.carried_out += 1);
    }
}

/// The test's hand on an injected fault.
#[derive(Clone)]
pub struct Injected {
    states: std::sync::Arc<watch::Sender<State>>,
    state: watch::Receiver<State>,
}

impl Injected {
    /// Resolves when a request has met the fault.
    pub async fn met(&self) {
        self.wait(|state| state.met > 0).await;
    }

    /// How many requests have met it.
    pub fn count(&self) -> usize {
        self.state.borrow().met
    }

    /// Lets everything go that this fault holds up, now and from now on.
    pub fn release(&self) {
        self.states.send_modify(|state| state.released = true);
    }

    /// Resolves when the engine has answered as many requests as met the fault.
    pub async fn carried_out(&self) {
        self.wait(|state| state.met > 0 && state.carried_out >= state.met).await;
    }

    async fn wait(&self, until: impl FnMut(&State) -> bool) {
        let mut state = self.state.clone();
        // The sender is this value's own.
        drop(state.wait_for(until).await);
    }
}

/// Whether a text fits a pattern in which `*` stands for any text.
pub(super) fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut open = false;
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        open = true;
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    open || rest.is_empty()
}
