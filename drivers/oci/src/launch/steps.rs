//! Where the time of a launch goes, on the clock that all processes of the machine share.

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Now, in microseconds of the monotonic clock.
pub(crate) fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let whole = u64::try_from(now.tv_sec).unwrap_or_default().saturating_mul(1_000_000);
    whole.saturating_add(u64::try_from(now.tv_nsec / 1000).unwrap_or_default())
}

/// Steps that are done, in order, each with its microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Steps(Vec<(String, u64)>);

/// Takes the time between one step and the next.
pub(super) struct Watch {
    last: u64,
    pub(super) steps: Steps,
}

impl Watch {
    /// Begins at a time of [`now`].
    pub(super) fn from(begin: u64) -> Self {
        Self { last: begin, steps: Steps::default() }
    }

    /// A step that ended at a time of [`now`].
    pub(super) fn at(&mut self, step: &str, end: u64) {
        self.steps.0.push((step.to_owned(), end.saturating_sub(self.last)));
        self.last = end;
    }

    /// A step that ends now.
    pub(super) fn done(&mut self, step: &str) {
        self.at(step, now());
    }
}
