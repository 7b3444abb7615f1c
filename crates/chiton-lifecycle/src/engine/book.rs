//! The obligations in memory: the store's table, kept in step with every commit, and when each is to be tried.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use chiton_model::ExtensionName;
use parking_lot::Mutex;

use super::cleanup::Why;
use super::obligations::{ABANDON, LONGEST, POLICY, given_up_because};
use crate::journal::{Obligation, ObligationReason, ObligationStatus, Subject};
use crate::runtime::{CancelToken, LifecycleEvent, World};

/// No hook has longer, as far as anyone would wait for one.
const LONGEST_CONFIRMING: Duration = Duration::from_hours(1);
/// How many retries of one extension run at once. Each extension has its own, so that a slow cleanup delays nobody else's.
const LANE: usize = 16;

/// The obligations.
pub(super) struct Book {
    open: Mutex<BTreeMap<String, Open>>,
    wake: Mutex<CancelToken>,
    /// Retries that run, and whose they are.
    running: Mutex<BTreeMap<String, ExtensionName>>,
}

struct Open {
    obligation: Obligation,
    /// When it is due, by the clock since boot: what the record says is for people, and the wall clock may jump.
    due: Duration,
}

impl Open {
    fn new(obligation: Obligation, longest: Duration, world: &World) -> Self {
        let pause = obligation.next_attempt_at.duration_since(world.clock.now());
        let pause = Duration::try_from(pause).unwrap_or_default().min(longest);
        Self { obligation, due: world.clock.since_boot().saturating_add(pause) }
    }

    fn is_live(&self) -> bool {
        self.obligation.status == ObligationStatus::Open
    }
}

impl Default for Book {
    fn default() -> Self {
        Self { open: Mutex::default(), wake: Mutex::new(CancelToken::new()), running: Mutex::default() }
    }
}

impl Book {
    /// Takes in what the store has. A date that is further off than any pause was set by another wall clock.
    pub(super) fn load(&self, obligations: Vec<Obligation>, world: &World) {
        let longest = |reason| if reason == ObligationReason::Confirming { LONGEST_CONFIRMING } else { LONGEST };
        let opened = obligations.into_iter().map(|obligation| {
            let longest = longest(obligation.reason);
            (obligation.id.clone(), Open::new(obligation, longest, world))
        });
        *self.open.lock() = opened.collect();
    }

    pub(super) fn has(&self, id: &str) -> bool {
        self.open.lock().contains_key(id)
    }

    pub(super) fn get(&self, id: &str) -> Option<Obligation> {
        self.open.lock().get(id).map(|open| open.obligation.clone())
    }

    /// Has those tried at once of which that is wanted.
    pub(super) fn hurry(&self, world: &World, wanted: impl Fn(&Obligation) -> bool) {
        let now = world.clock.since_boot();
        for open in self.open.lock().values_mut().filter(|open| wanted(&open.obligation)) {
            open.due = open.due.min(now);
        }
        self.wake();
    }

    /// What the hook of an obligation is to be told.
    pub(super) fn why(&self, id: &str) -> Option<Why> {
        self.open.lock().get(id).map(|open| Why::recall(&open.obligation))
    }

    pub(super) fn list(&self) -> Vec<Obligation> {
        self.open.lock().values().map(|open| open.obligation.clone()).collect()
    }

    pub(super) fn of(&self, subject: &Subject) -> Vec<Obligation> {
        let open = self.open.lock();
        open.values().map(|open| &open.obligation).filter(|owed| owed.subject == *subject).cloned().collect()
    }

    /// Takes in what a commit stored.
    pub(super) fn settle(&self, paid: &[String], owed: &[Obligation], world: &World) {
        self.settle_by(POLICY, paid, owed, world);
    }

    /// The same; `by` is who gave up what was given up.
    pub(super) fn settle_by(&self, by: &str, paid: &[String], owed: &[Obligation], world: &World) {
        let mut news = Vec::new();
        let mut open = self.open.lock();
        for id in paid {
            if let Some(gone) = open.remove(id) {
                let (id, extension, message) =
                    (id.clone(), gone.obligation.debt.extension, "no longer listed".to_owned());
                news.push(LifecycleEvent::Obligation { id, extension, open: false, message });
            }
        }
        for obligation in owed {
            let id = obligation.id.clone();
            news.push(if obligation.status == ObligationStatus::Abandoned {
                let message = given_up_because(obligation);
                LifecycleEvent::Audit { action: ABANDON, subject: id, by: by.to_owned(), message }
            } else {
                let (extension, message) = (obligation.debt.extension.clone(), obligation.last_error.clone());
                LifecycleEvent::Obligation { id, extension, open: true, message }
            });
            open.insert(obligation.id.clone(), Open::new(obligation.clone(), Duration::MAX, world));
        }
        drop(open);
        // Told with no lock held: nobody knows what a listener asks.
        for event in news {
            world.audience.tell(event);
        }
        if !owed.is_empty() {
            self.wake();
        }
    }

    /// Makes the worker look again.
    pub(super) fn wake(&self) {
        self.wake.lock().cancel();
    }

    pub(super) fn armed(&self) -> CancelToken {
        let mut wake = self.wake.lock();
        if wake.is_cancelled() {
            *wake = CancelToken::new();
        }
        wake.clone()
    }

    /// An obligation that is to be tried now.
    pub(super) fn due_now(&self, id: &str, world: &World) -> Option<Obligation> {
        let (open, now) = (self.open.lock(), world.clock.since_boot());
        open.get(id).filter(|open| open.is_live() && open.due <= now).map(|open| open.obligation.clone())
    }

    /// How long a cleanup that succeeded once still has to wait for the call that confirms it, if it has one to come.
    pub(super) fn confirming(&self, id: &str, world: &World) -> Option<Duration> {
        let open = self.open.lock();
        open.get(id)
            .filter(|open| open.obligation.reason == ObligationReason::Confirming)
            .map(|open| open.due.saturating_sub(world.clock.since_boot()))
    }

    /// What is to be tried now and is not being tried already, the longest due first and so many an extension as its lane
    /// takes; and how long the next one has. What is held is not tried.
    pub(super) fn due(&self, world: &World, held: &HashSet<Subject>) -> (Vec<Obligation>, Option<Duration>) {
        let (open, running, now) = (self.open.lock(), self.running.lock(), world.clock.since_boot());
        let mut lanes: BTreeMap<&ExtensionName, usize> = BTreeMap::new();
        running.values().for_each(|extension| *lanes.entry(extension).or_default() += 1);
        let mut idle: Vec<&Open> = open
            .values()
            .filter(|open| open.is_live() && !running.contains_key(&open.obligation.id))
            .filter(|open| !held.contains(&open.obligation.subject))
            .collect();
        idle.sort_by_key(|open| open.due);
        let next = idle.iter().find(|open| open.due > now).map(|open| open.due.saturating_sub(now));
        idle.retain(|open| {
            let taken = lanes.entry(&open.obligation.debt.extension).or_default();
            *taken += usize::from(open.due <= now);
            open.due <= now && *taken <= LANE
        });
        (idle.into_iter().map(|open| open.obligation.clone()).collect(), next)
    }

    /// Takes a place in the lane of its extension.
    pub(super) fn enter(&self, obligation: &Obligation) {
        self.running.lock().insert(obligation.id.clone(), obligation.debt.extension.clone());
    }

    /// Gives the place back; whoever waits for it is looked at.
    pub(super) fn leave(&self, id: &str) {
        self.running.lock().remove(id);
        self.wake();
    }
}
