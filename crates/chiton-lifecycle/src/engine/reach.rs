//! Drivers that cannot be asked: since when, and why.
//!
//! A driver's news end when its platform goes. What was known of the platform may not hold when it is there again: another
//! installation may answer in its place. So the installation is asked for anew, and while nobody answers that is said of
//! the driver and of each of its sandboxes.

use std::collections::BTreeMap;
use std::sync::Arc;

use chiton_model::{DriverId, Error, SandboxPhase};
use jiff::Timestamp;

use super::Engine;
use super::inner::Inner;
use crate::journal::SandboxQuery;

/// A driver that cannot be asked. What its sandboxes do meanwhile nobody knows; nothing of them is released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreachable {
    /// Since when.
    pub since: Timestamp,
    /// What it said when it was asked last.
    pub error: Error,
}

impl Engine {
    /// The drivers that cannot be asked now.
    pub fn unreachable(&self) -> BTreeMap<DriverId, Unreachable> {
        self.inner.unreachable.lock().clone()
    }

    /// Since when this process has been able to ask a driver without a break; none while it is not known, or cannot.
    pub fn reachable_since(&self, id: &DriverId) -> Option<Timestamp> {
        self.inner.reachable.lock().get(id).copied()
    }

    /// Since when a driver cannot be asked, and why; none when it can.
    pub fn unreachable_driver(&self, id: &DriverId) -> Option<Unreachable> {
        self.inner.unreachable.lock().get(id).cloned()
    }
}

impl Inner {
    /// The driver's news ended: finds out whether it can be asked at all.
    pub(super) async fn news_ended(self: &Arc<Self>, id: &DriverId) {
        self.backends.lock().remove(id);
        let Err(error) = self.backend(id).await else { return self.news_began(id).await };
        let since = self.world.clock.now();
        self.reachable.lock().remove(id);
        let news = {
            let mut unreachable = self.unreachable.lock();
            let before = unreachable.get(id).map_or(since, |before| before.since);
            unreachable.insert(id.clone(), Unreachable { since: before, error: error.clone() }).is_none()
        };
        if news {
            tracing::warn!(driver = %id, %error, "the driver cannot be reached; asking again until it can");
            self.tell_of(id).await;
        } else {
            tracing::debug!(driver = %id, %error, "the driver still cannot be reached");
        }
    }

    pub(super) fn unreachable_for_now(&self, id: &DriverId) -> bool {
        self.unreachable.lock().contains_key(id)
    }

    /// The driver can be asked.
    pub(super) async fn news_began(self: &Arc<Self>, id: &DriverId) {
        let now = self.world.clock.now();
        self.reachable.lock().entry(id.clone()).or_insert(now);
        let before = self.unreachable.lock().remove(id);
        if let Some(before) = before {
            tracing::info!(driver = %id, since = %before.since, "the driver can be reached again");
            self.tell_of(id).await;
        }
    }

    /// Whoever watches a sandbox of this driver hears of it.
    async fn tell_of(&self, id: &DriverId) {
        let Ok(rows) = self.journal.sandboxes(&SandboxQuery::default()).await else { return };
        for row in rows.iter().filter(|row| row.driver == *id && row.phase != SandboxPhase::Error) {
            self.changed(row);
        }
    }
}
