//! Doors at which hooks wait until a test lets them through: overlaps that a model can predict.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chiton_lifecycle::journal::Subject;
use chiton_lifecycle::runtime::CancelToken;
use chiton_model::Phase;
use futures::future::{Either, select};
use parking_lot::Mutex;

use crate::signal::Signal;

#[derive(Default)]
struct Doors {
    closed: BTreeSet<Phase>,
    failing: BTreeSet<Phase>,
    waiting: BTreeMap<u64, (Subject, Phase)>,
}

/// One door a phase, told apart by subject. Clones share them. Hooks come to a door with [`super::Act::Gate`].
#[derive(Clone, Default)]
pub struct Gate {
    doors: Arc<Mutex<Doors>>,
    moved: Signal,
}

/// How a hook came away from a door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passage {
    /// It goes on.
    Through,
    /// It goes on to its failure.
    ToFail,
    /// It was cancelled while it waited.
    Cancelled,
}

impl Gate {
    /// Hooks of these phases that come from now on wait at the door.
    pub fn close(&self, phases: &[Phase]) {
        self.doors.lock().closed.extend(phases);
    }

    /// Hooks of these phases that come from now on do not wait. Whoever waits already goes on waiting.
    pub fn open(&self, phases: &[Phase]) {
        self.doors.lock().closed.retain(|phase| !phases.contains(phase));
    }

    /// Hooks of this phase fail behind the door, or no longer.
    pub fn fail(&self, phase: Phase, fails: bool) {
        let mut doors = self.doors.lock();
        if fails {
            doors.failing.insert(phase)
        } else {
            doors.failing.remove(&phase)
        };
    }

    /// Lets whoever waits for the subject through. False when nobody does.
    pub fn step(&self, subject: &Subject) -> bool {
        let mut doors = self.doors.lock();
        let before = doors.waiting.len();
        doors.waiting.retain(|_, (other, _)| other != subject);
        let stepped = doors.waiting.len() < before;
        drop(doors);
        self.moved.notify();
        stepped
    }

    /// Who waits, and at which door.
    pub fn waiting(&self) -> Vec<(Subject, Phase)> {
        self.doors.lock().waiting.values().cloned().collect()
    }

    /// Waits at the door if it is closed.
    pub(super) async fn pass(&self, call: u64, subject: &Subject, phase: Phase, cancel: &CancelToken) -> Passage {
        let closed = {
            let mut doors = self.doors.lock();
            let closed = doors.closed.contains(&phase);
            if closed {
                doors.waiting.insert(call, (subject.clone(), phase));
            }
            closed
        };
        if closed {
            // Whoever is dropped while it waits, with its process, waits no more.
            let _place = Place { gate: self, call };
            loop {
                let seen = self.moved.version();
                if !self.doors.lock().waiting.contains_key(&call) {
                    break;
                }
                let moved = std::pin::pin!(self.moved.changed(seen));
                let cancelled = std::pin::pin!(cancel.cancelled());
                if let Either::Right(_) = select(moved, cancelled).await {
                    return Passage::Cancelled;
                }
            }
        }
        if self.doors.lock().failing.contains(&phase) { Passage::ToFail } else { Passage::Through }
    }
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").field("waiting", &self.waiting()).finish_non_exhaustive()
    }
}

impl PartialEq for Gate {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.doors, &other.doors)
    }
}

impl Eq for Gate {}

struct Place<'a> {
    gate: &'a Gate,
    call: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.gate.doors.lock().waiting.remove(&self.call);
    }
}
