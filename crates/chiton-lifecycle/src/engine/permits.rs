//! Permits for hooks, given in the order in which they were asked for.
//!
//! A semaphore that lets a newcomer take what was just given back can starve whoever waits, and here waiting has a
//! deadline after which a hook counts as not started. So a permit that comes back goes to the first in line.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::channel::oneshot;
use parking_lot::Mutex;

/// So many at once. Clones share the count.
#[derive(Clone)]
pub(super) struct Permits(Arc<Mutex<Line>>);

struct Line {
    free: usize,
    waiting: VecDeque<oneshot::Sender<Permit>>,
}

/// The right to run one hook. Goes to the next in line on drop.
pub(super) struct Permit(Option<Permits>);

impl Permits {
    pub(super) fn new(count: usize) -> Self {
        Self(Arc::new(Mutex::new(Line { free: count, waiting: VecDeque::new() })))
    }

    /// Waits for a permit. Whoever stops waiting leaves the line.
    pub(super) async fn acquire(&self) -> Permit {
        let turn = {
            let mut line = self.0.lock();
            if line.free > 0 {
                line.free -= 1;
                return Permit(Some(self.clone()));
            }
            let (give, turn) = oneshot::channel();
            line.waiting.push_back(give);
            turn
        };
        match turn.await {
            Ok(permit) => permit,
            // The line lives as long as this does, so nobody drops the other end without giving.
            Err(_) => std::future::pending().await,
        }
    }

    /// A permit came back.
    fn next(&self) {
        let mut line = self.0.lock();
        while let Some(give) = line.waiting.pop_front() {
            match give.send(Permit(Some(self.clone()))) {
                Ok(()) => return,
                // It waits no more; its permit was never out.
                Err(mut unwanted) => drop(unwanted.0.take()),
            }
        }
        line.free += 1;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(permits) = self.0.take() {
            permits.next();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::Permits;

    #[test]
    fn a_permit_goes_to_whoever_asked_first_and_a_newcomer_does_not_overtake() {
        let permits = Permits::new(1);
        let held = permits.acquire().now_or_never().expect("it is free");
        let (mut first, mut second) = (Box::pin(permits.acquire()), Box::pin(permits.acquire()));
        assert!(first.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none());
        drop(held);
        assert!(permits.acquire().now_or_never().is_none(), "a newcomer overtook");
        assert!(second.as_mut().now_or_never().is_none(), "the second overtook the first");
        let held = first.now_or_never().expect("the first has it");
        drop(held);
        assert!(second.now_or_never().is_some());
    }

    #[test]
    fn whoever_stops_waiting_takes_no_permit_along() {
        let permits = Permits::new(1);
        let held = permits.acquire().now_or_never().expect("it is free");
        let mut gone = Box::pin(permits.acquire());
        assert!(gone.as_mut().now_or_never().is_none());
        let mut stays = Box::pin(permits.acquire());
        assert!(stays.as_mut().now_or_never().is_none());
        drop(gone);
        drop(held);
        // Given to it already when it leaves: it goes on to the next.
        let mut late = Box::pin(permits.acquire());
        assert!(late.as_mut().now_or_never().is_none());
        drop(stays);
        assert!(late.now_or_never().is_some());
    }
}
