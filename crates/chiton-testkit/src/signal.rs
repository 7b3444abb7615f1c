//! Tells waiting tasks that something changed.

use std::sync::Arc;
use std::task::{Poll, Waker};

use parking_lot::Mutex;

/// A counter that tasks can wait on. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Signal(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    version: u64,
    wakers: Vec<Waker>,
}

impl Signal {
    /// The present count; pass it to [`Signal::changed`].
    pub fn version(&self) -> u64 {
        self.0.lock().version
    }

    /// Counts up and wakes everybody.
    pub fn notify(&self) {
        let wakers = {
            let mut state = self.0.lock();
            state.version += 1;
            std::mem::take(&mut state.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Resolves when the count is no longer `seen`.
    pub async fn changed(&self, seen: u64) {
        std::future::poll_fn(|cx| {
            let mut state = self.0.lock();
            if state.version != seen {
                return Poll::Ready(());
            }
            if !state.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
                state.wakers.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}
