//! What a running operation is told meanwhile: how the main process of its sandbox ended.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Poll, Waker};

use chiton_driver::{Observed, ObservedStatus};
use chiton_model::DriverId;
use parking_lot::Mutex;

/// How many exits are kept of each driver. There is one of each start; whoever tells more repeats itself or lies.
const MOST: usize = 16;

/// One for each operation; clones share it. What is not read stays, so it holds no more than its operation can use: only
/// exits, the last of each start, and of each driver so few that none can push out another's.
#[derive(Clone, Default)]
pub(super) struct Mailbox(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    exits: VecDeque<(DriverId, Observed)>,
    reader: Option<Waker>,
}

impl Mailbox {
    pub(super) fn put(&self, driver: &DriverId, observed: Observed) {
        if !matches!(observed.status, ObservedStatus::Exited(_)) {
            return;
        }
        let mut kept = self.0.lock();
        kept.exits.retain(|(from, other)| from != driver || other.attempt != observed.attempt);
        let of_driver = |(from, _): &(DriverId, Observed)| from == driver;
        if kept.exits.iter().filter(|exit| of_driver(exit)).count() >= MOST
            && let Some(oldest) = kept.exits.iter().position(of_driver)
        {
            kept.exits.remove(oldest);
        }
        kept.exits.push_back((driver.clone(), observed));
        if let Some(reader) = kept.reader.take() {
            reader.wake();
        }
    }

    pub(super) fn take(&self) -> Option<(DriverId, Observed)> {
        self.0.lock().exits.pop_front()
    }

    /// The next one, as soon as there is one. For one reader.
    pub(super) async fn next(&self) -> (DriverId, Observed) {
        std::future::poll_fn(|cx| {
            let mut kept = self.0.lock();
            if let Some(exit) = kept.exits.pop_front() {
                return Poll::Ready(exit);
            }
            kept.reader = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests;
