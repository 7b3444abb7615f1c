//! A listener that remembers.

use std::sync::Arc;

use chiton_lifecycle::runtime::{Audience, LifecycleEvent};
use chiton_model::{SandboxId, SandboxPhase};
use parking_lot::Mutex;

/// Everything that the engine told, in order. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct RecordingAudience(Arc<Mutex<Vec<LifecycleEvent>>>);

impl RecordingAudience {
    /// All events.
    pub fn events(&self) -> Vec<LifecycleEvent> {
        self.0.lock().clone()
    }

    /// The phases that a sandbox was told to be in, without repetitions.
    pub fn phases(&self, sandbox: &SandboxId) -> Vec<SandboxPhase> {
        let mut phases = Vec::new();
        for event in self.0.lock().iter() {
            if let LifecycleEvent::Changed(row) = event
                && row.id == *sandbox
                && phases.last() != Some(&row.phase)
            {
                phases.push(row.phase);
            }
        }
        phases
    }
}

impl Audience for RecordingAudience {
    fn tell(&self, event: LifecycleEvent) {
        self.0.lock().push(event);
    }
}
