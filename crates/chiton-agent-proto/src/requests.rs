//! The request ids of execs: what ran once is not run again because its answer was lost.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use tonic::Status;

/// The longest id, in bytes.
pub const LONGEST: usize = 128;
/// How many ids are remembered, the newest. A repeat comes soon after; memory for each exec of a long life would be the
/// sandbox's.
pub const KEPT: usize = 16_384;

/// Those of one sandbox.
#[derive(Debug, Default)]
pub struct RequestIds {
    known: HashSet<Arc<str>>,
    order: VecDeque<Arc<str>>,
}

impl RequestIds {
    /// Takes an id for a run; an empty one is no id.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for one that is too long, `ABORTED` (`already_ran`) for one of the last [`KEPT`].
    pub fn take(&mut self, id: &str) -> Result<(), Status> {
        if id.is_empty() {
            return Ok(());
        }
        if id.len() > LONGEST {
            let text = format!("the request id has {} bytes; use at most {LONGEST}", id.len());
            return Err(Status::invalid_argument(text));
        }
        if self.known.contains(id) {
            let text = format!("already_ran: the request {id:?} was run in this sandbox before and is not repeated");
            return Err(Status::aborted(text));
        }
        if self.order.len() >= KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        let id: Arc<str> = id.into();
        self.order.push_back(Arc::clone(&id));
        self.known.insert(id);
        Ok(())
    }

    /// Whether none was taken.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Nothing ran: the id may be used again.
    pub fn give_back(&mut self, id: &str) {
        if self.known.remove(id)
            && let Some(place) = self.order.iter().rposition(|other| **other == *id)
        {
            self.order.remove(place);
        }
    }
}

#[cfg(test)]
mod tests;
