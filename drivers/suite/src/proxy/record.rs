//! What passed, and what became of it.

use http::{Method, StatusCode};
use tokio::sync::watch;

use super::rule::fits;

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing yet.
    Open,
    /// The engine's answer went to the client.
    Answered(StatusCode),
    /// The engine answered so, and the client was not told.
    Lost(StatusCode),
    /// The client got an answer that is not the engine's.
    Forged(StatusCode),
    /// It never reached the engine.
    Dropped,
    /// The engine could not be reached, or broke off.
    Failed(String),
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// Its method.
    pub method: Method,
    /// Its path and query.
    pub path: String,
    /// What became of it.
    pub fate: Fate,
}

pub(super) struct Record(watch::Sender<Vec<Passed>>);

impl Default for Record {
    fn default() -> Self {
        Self(watch::channel(Vec::new()).0)
    }
}

impl Record {
    /// A request came; its number.
    pub(super) fn came(&self, method: &Method, path: &str) -> usize {
        let mut number = 0;
        self.0.send_modify(|all| {
            number = all.len();
            all.push(Passed { method: method.clone(), path: path.to_owned(), fate: Fate::Open });
        });
        number
    }

    pub(super) fn became(&self, number: usize, fate: Fate) {
        self.0.send_modify(|all| {
            if let Some(passed) = all.get_mut(number) {
                passed.fate = fate;
            }
        });
    }

    pub(super) fn all(&self) -> Vec<Passed> {
        self.0.borrow().clone()
    }

    pub(super) async fn until(&self, method: &Method, path: &str, after: usize) -> Passed {
        let mut all = self.0.subscribe();
        loop {
            let found = {
                let all = all.borrow_and_update();
                let fit = all.iter().filter(|passed| passed.method == *method && fits(path, &passed.path));
                fit.skip(after).find(|passed| passed.fate != Fate::Open).cloned()
            };
            if let Some(found) = found {
                return found;
            }
            // The sender is this value's own.
            drop(all.changed().await);
        }
    }
}
