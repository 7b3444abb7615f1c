//! One list of everything that happened, in one global order.
//!
//! The journal, every driver and every extension write to it at the moment something takes effect. It is also where a
//! crash is placed: after any entry, the gateway can be killed before it does anything else that could be seen.

mod checks;
mod entry;
mod order;
mod removal;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use chiton_lifecycle::crash::{Point, Points};
use chiton_lifecycle::journal::Subject;
use chiton_model::{ExtensionName, SandboxId};
use parking_lot::Mutex;

pub use checks::Truth;
pub use entry::{Effect, End, Entry, Hook, Opened, What};

use crate::world::{Process, VirtualWorld};

#[derive(Default)]
struct Log {
    entries: Vec<Entry>,
    crash_after: Option<usize>,
    reached: Vec<Point>,
    moments: usize,
    crash_at: Option<usize>,
    calls: u64,
    held: BTreeMap<(ExtensionName, String), Subject>,
}

/// The list. Clones share it.
#[derive(Clone)]
pub struct Ledger {
    world: VirtualWorld,
    log: Arc<Mutex<Log>>,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.render())
    }
}

impl Ledger {
    /// An empty list for a world.
    pub fn new(world: VirtualWorld) -> Self {
        Self { world, log: Arc::default() }
    }

    /// The world whose time the entries carry.
    pub fn world(&self) -> &VirtualWorld {
        &self.world
    }

    /// Kills the gateway as soon as the list has this many entries: before the next thing that could be seen.
    pub fn crash_after(&self, entries: usize) {
        let mut log = self.log.lock();
        log.crash_after = Some(entries);
        if log.entries.len() >= entries {
            drop(log);
            self.world.kill();
        }
    }

    /// Kills the gateway at this moment: the nth, from 1, of the crash points that it reaches and of the effects that its
    /// extensions and platforms make. See [`Ledger::moments`].
    pub fn crash_at(&self, moment: usize) {
        self.log.lock().crash_at = Some(moment);
    }

    /// How many moments passed at which [`Ledger::crash_at`] could have killed the gateway.
    pub fn moments(&self) -> usize {
        self.log.lock().moments
    }

    /// The crash points that were reached, in order.
    pub fn reached(&self) -> Vec<Point> {
        self.log.lock().reached.clone()
    }

    /// The crash points of one process, as an engine announces them.
    pub(crate) fn points(&self, process: &Process) -> Points {
        let (ledger, process) = (self.clone(), process.clone());
        Points::watched_by(move |point| {
            if process.is_alive() {
                ledger.log.lock().reached.push(*point);
                ledger.moment();
            }
        })
    }

    fn moment(&self) {
        let mut log = self.log.lock();
        log.moments += 1;
        if log.crash_at == Some(log.moments) {
            log.crash_at = None;
            drop(log);
            self.world.kill();
        }
    }

    /// Takes a crash that was placed and not reached away.
    pub fn no_crash(&self) {
        let mut log = self.log.lock();
        log.crash_after = None;
        log.crash_at = None;
    }

    /// What the gateway did; a dead process has no say. Answers whether it was written.
    pub fn by(&self, process: &Process, what: What) -> bool {
        process.is_alive() && {
            self.push(what);
            true
        }
    }

    /// What happened outside of the gateway.
    pub fn outside(&self, what: What) {
        self.push(what);
    }

    fn push(&self, what: What) {
        let effect = matches!(what, What::Acquire { .. } | What::Release { .. } | What::Effect { .. });
        let (at, generation) = (self.world.elapsed(), self.world.process().generation());
        let mut log = self.log.lock();
        match &what {
            What::Acquire { extension, key, subject, .. } => {
                log.held.insert((extension.clone(), key.clone()), subject.clone());
            }
            What::Release { extension, key, .. } => {
                log.held.remove(&(extension.clone(), key.clone()));
            }
            _ => {}
        }
        let seq = log.entries.len();
        log.entries.push(Entry { seq, at, generation, what });
        if log.crash_after.is_some_and(|limit| log.entries.len() >= limit) {
            log.crash_after = None;
            self.world.kill();
        }
        drop(log);
        if effect {
            self.moment();
        }
    }

    /// A breach of a contract that the tool itself saw. [`Ledger::violations`] lists them.
    pub fn violation(&self, text: impl Into<String>) {
        self.push(What::Violation(text.into()));
    }

    /// A number for a call that begins.
    pub(crate) fn next_call(&self) -> u64 {
        let mut log = self.log.lock();
        log.calls += 1;
        log.calls
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.log.lock().entries.len()
    }

    /// Whether nothing happened.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All entries.
    pub fn entries(&self) -> Vec<Entry> {
        self.log.lock().entries.clone()
    }

    /// Entries from this number on.
    pub fn since(&self, seq: usize) -> Vec<Entry> {
        self.log.lock().entries.get(seq..).map(<[Entry]>::to_vec).unwrap_or_default()
    }

    /// What extensions hold outside now: extension and key, and for whom.
    pub fn held(&self) -> BTreeMap<(ExtensionName, String), Subject> {
        self.log.lock().held.clone()
    }

    /// Whether an extension holds something under the key.
    pub fn holds(&self, extension: &ExtensionName, key: &str) -> bool {
        self.log.lock().held.contains_key(&(extension.clone(), key.to_owned()))
    }

    /// The sandboxes for which an extension holds something, in order.
    pub fn held_by(&self, extension: &ExtensionName) -> Vec<SandboxId> {
        let log = self.log.lock();
        let mut ids: Vec<SandboxId> = log
            .held
            .iter()
            .filter(|((holder, _), _)| holder == extension)
            .filter_map(|(_, subject)| subject.sandbox().cloned())
            .collect();
        ids.sort();
        ids.dedup();
        ids
    }

    /// The hooks that began, in order.
    pub fn hooks(&self) -> Vec<Hook> {
        let log = self.log.lock();
        log.entries
            .iter()
            .filter_map(|entry| match &entry.what {
                What::HookBegin(hook) => Some(hook.clone()),
                _ => None,
            })
            .collect()
    }

    /// The hooks that began, as `extension phase`, in order.
    pub fn calls(&self) -> Vec<String> {
        self.hooks().iter().map(|hook| format!("{} {}", hook.extension, hook.phase)).collect()
    }

    /// Breaches that the tools saw.
    pub fn violations(&self) -> Vec<String> {
        let log = self.log.lock();
        log.entries
            .iter()
            .filter_map(|entry| match &entry.what {
                What::Violation(text) => Some(text.clone()),
                _ => None,
            })
            .collect()
    }

    /// The list as text, one line an entry.
    pub fn render(&self) -> String {
        let mut text = format!("seed {}\n", self.world.seed());
        for entry in &self.log.lock().entries {
            writeln!(text, "{entry}").expect("a string takes all text");
        }
        text
    }
}
