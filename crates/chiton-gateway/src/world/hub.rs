//! What the engine tells: handed on to watchers, counted, and logged.

use std::sync::Arc;

use chiton_lifecycle::runtime::{Audience, LifecycleEvent};
use tokio::sync::broadcast;

use crate::metrics::Metrics;

/// A watcher that is this far behind begins anew.
const BACKLOG: usize = 4096;

/// Everybody who listens.
#[derive(Clone)]
pub struct Hub {
    events: broadcast::Sender<LifecycleEvent>,
    metrics: Arc<Metrics>,
}

impl Hub {
    /// A hub that counts into these metrics.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { events: broadcast::channel(BACKLOG).0, metrics }
    }

    /// Everything from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<LifecycleEvent> {
        self.events.subscribe()
    }
}

impl Audience for Hub {
    fn tell(&self, event: LifecycleEvent) {
        match &event {
            LifecycleEvent::StepEnded { operation, sandbox, step, took, error } => {
                self.metrics.step(step, *took, error.is_some());
                match error {
                    Some(error) => {
                        tracing::warn!(%operation, sandbox = sandbox.as_ref().map(tracing::field::display), %step, ?took, %error, "step failed");
                    }
                    None => {
                        tracing::debug!(%operation, sandbox = sandbox.as_ref().map(tracing::field::display), %step, ?took, "step");
                    }
                }
            }
            LifecycleEvent::Obligation { id, extension, open: true, message } => {
                self.metrics.obligation_attempt(extension.as_str());
                tracing::warn!(obligation = %id, %message, "a cleanup is owed");
            }
            LifecycleEvent::Obligation { id, open: false, message, .. } => {
                tracing::info!(obligation = %id, %message, "a cleanup is not owed any more");
            }
            LifecycleEvent::Audit { action, subject, by, message } => {
                tracing::warn!(action, %subject, %by, %message, "audit");
            }
            LifecycleEvent::Unowned(observed) => {
                tracing::warn!(id = %observed.id, epoch = %observed.epoch, "an object that no sandbox owns");
            }
            LifecycleEvent::Changed(record) => {
                tracing::debug!(sandbox = %record.id, phase = %record.phase, "sandbox changed");
            }
            LifecycleEvent::Removed(id) => tracing::debug!(sandbox = %id, "sandbox removed"),
            LifecycleEvent::StepStarted { .. } | LifecycleEvent::Progress { .. } => {}
        }
        // Nobody listening is not an error.
        drop(self.events.send(event));
    }
}
