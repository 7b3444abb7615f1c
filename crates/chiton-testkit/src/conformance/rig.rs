//! What stands between the tests and the wrapped extension: which call goes wrong and how, what is held and for whom, and
//! what was found. It outlives the gateway's processes, as the world does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chiton_lifecycle::journal::Subject;
use chiton_model::{ExtensionName, Phase, Ran};
use parking_lot::Mutex;

use super::bench::Held;
use super::{Finding, Rule};
use crate::ledger::{Ledger, What};
use crate::signal::Signal;

/// Where in a hook's call something goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// Before the author's hook is called.
    Before,
    /// When it waits for the nth time, from 0.
    Inside(u32),
    /// After it returned success.
    After,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ill {
    /// The call fails for good.
    Fail,
    /// The call fails and is called again.
    Retry,
    /// The author's hook is called a second time at once.
    Repeat,
    /// The call never returns.
    TimeOut,
    /// Its first blocking work takes longer than its deadline.
    SlowWork,
    /// The call panics.
    Panic,
    /// It waits until its operation is cancelled.
    Cancel,
    /// Its future is dropped where it waits, and it is called again.
    Drop,
    /// The gateway dies.
    Crash,
    /// The gateway dies a moment later, when blocking work that was on its way is done.
    CrashLate,
}

/// Longer than the default deadline of a hook.
pub(super) const TOO_LONG: Duration = Duration::from_secs(45);

/// One call that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) phase: Phase,
    /// Which call of the phase, from 1.
    pub(super) nth: u32,
    pub(super) moment: Moment,
    pub(super) ill: Ill,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let when = match self.moment {
            Moment::Before => "before it did anything".to_owned(),
            Moment::Inside(n) => format!("where it waited for the {}. time", n + 1),
            Moment::After => "after it had done its work".to_owned(),
        };
        let how = match self.ill {
            Ill::Fail => "was made to fail",
            Ill::Retry => "was made to fail once and was called again",
            Ill::Repeat => "was called once more",
            Ill::TimeOut => "hung until its deadline had passed",
            Ill::SlowWork => "had blocking work that took longer than its deadline",
            Ill::Panic => "was made to panic",
            Ill::Cancel => "was cancelled by a delete",
            Ill::Drop => "was dropped and called again",
            Ill::Crash | Ill::CrashLate => "the gateway was killed",
        };
        if self.ill == Ill::SlowWork {
            return write!(f, "call {} of {} {how}", self.nth, self.phase);
        }
        write!(f, "call {} of {} {how}, {when}", self.nth, self.phase)
    }
}

/// Whose something is.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    pub(super) subject: Option<Subject>,
    pub(super) phase: Phase,
}

#[derive(Default)]
struct State {
    fault: Option<Fault>,
    hit: bool,
    calls: BTreeMap<Phase, u32>,
    /// In these phases saved state is withheld.
    withheld: BTreeSet<Phase>,
    maybe: bool,
    threads: Option<Phase>,
    owners: BTreeMap<String, Owner>,
    slots: BTreeSet<String>,
    place: String,
    findings: Vec<Finding>,
    history: Option<String>,
}

/// Clones share it.
#[derive(Clone)]
pub(super) struct Rig {
    extension: ExtensionName,
    held: Option<Held>,
    ledger: Ledger,
    state: Arc<Mutex<State>>,
    waits: Signal,
}

impl Rig {
    pub(super) fn new(extension: ExtensionName, held: Option<Held>, ledger: Ledger, place: &str) -> Self {
        let state = State { place: place.to_owned(), ..State::default() };
        let rig = Self { extension, held, ledger, state: Arc::new(Mutex::new(state)), waits: Signal::default() };
        // What is there before anything was asked for is not the extension's.
        let there = rig.held();
        rig.state.lock().owners.extend(there.into_iter().map(|handle| {
            let owner = Owner { subject: None, phase: Phase::Sweep };
            (handle, owner)
        }));
        rig
    }

    pub(super) fn extension(&self) -> &ExtensionName {
        &self.extension
    }

    /// Arms a fault.
    pub(super) fn arm(&self, fault: Fault) {
        let mut state = self.state.lock();
        state.place = fault.to_string();
        state.fault = Some(fault);
    }

    /// No fault from now on.
    pub(super) fn disarm(&self) {
        self.state.lock().fault = None;
    }

    /// Says what is being done, for findings.
    pub(super) fn place(&self, place: impl Into<String>) {
        self.state.lock().place = place.into();
    }

    pub(super) fn withhold(&self, phases: impl IntoIterator<Item = Phase>) {
        self.state.lock().withheld.extend(phases);
    }

    pub(super) fn is_withheld(&self, phase: Phase) -> bool {
        self.state.lock().withheld.contains(&phase)
    }

    /// The rule that is broken when something is left in the end.
    pub(super) fn leak_rule(&self) -> Rule {
        let state = self.state.lock();
        match (state.withheld.is_empty(), state.maybe) {
            (false, _) => Rule::Stateless,
            (true, true) => Rule::Nothing,
            (true, false) => Rule::Undo,
        }
    }

    /// Cleanups are told that nobody knows whether the action ran.
    pub(super) fn tell_maybe(&self) {
        self.state.lock().maybe = true;
    }

    pub(super) fn told(&self, ran: Ran) -> Ran {
        if self.state.lock().maybe { Ran::Maybe } else { ran }
    }

    /// After each hook of this phase, threads are looked at.
    pub(super) fn watch_threads(&self, phase: Phase) {
        self.state.lock().threads = Some(phase);
    }

    pub(super) fn watches_threads(&self, phase: Phase) -> bool {
        self.state.lock().threads == Some(phase)
    }

    /// A call of this phase begins; answers what goes wrong in it.
    pub(super) fn next(&self, phase: Phase) -> Option<Fault> {
        let mut state = self.state.lock();
        let count = state.calls.entry(phase).or_default();
        *count += 1;
        let nth = *count;
        state.fault.filter(|fault| fault.phase == phase && fault.nth == nth)
    }

    /// The armed fault came to pass.
    pub(super) fn hit(&self) {
        self.state.lock().hit = true;
    }

    pub(super) fn was_hit(&self) -> bool {
        self.state.lock().hit
    }

    /// How often a phase was called.
    pub(super) fn calls(&self, phase: Phase) -> u32 {
        self.state.lock().calls.get(&phase).copied().unwrap_or_default()
    }

    /// A hook waits to be cancelled.
    pub(super) fn wait_for_cancel(&self) {
        self.waits.notify();
    }

    /// Resolves when a hook waits to be cancelled.
    pub(super) async fn somebody_waits(&self) {
        self.waits.changed(0).await;
    }

    pub(super) fn declare(&self, slots: BTreeSet<String>) {
        self.state.lock().slots = slots;
    }

    pub(super) fn declared(&self) -> BTreeSet<String> {
        self.state.lock().slots.clone()
    }

    pub(super) fn held(&self) -> BTreeSet<String> {
        self.held.as_ref().map(|held| held()).unwrap_or_default()
    }

    /// Looks at the world: what is new belongs to the subject of the call, what is gone must have belonged to it.
    pub(super) fn look(&self, subject: Option<&Subject>, phase: Phase, call: u64, pure: Option<Rule>) {
        let now = self.held();
        let before = self.state.lock().owners.clone();
        for handle in now.iter().filter(|handle| !before.contains_key(*handle)) {
            if let Some(rule) = pure {
                self.find(rule, format!("{phase} made {handle:?}"));
            }
            let owner = Owner { subject: subject.cloned(), phase };
            self.state.lock().owners.insert(handle.clone(), owner);
            if let Some(subject) = subject {
                let (extension, key) = (self.extension.clone(), format!("{handle:?}"));
                // The process may have been killed meanwhile: what it did before is there all the same.
                self.ledger.outside(What::Acquire { extension, subject: subject.clone(), key, call });
            }
        }
        for (handle, owner) in before.iter().filter(|(handle, _)| !now.contains(*handle)) {
            if let Some(rule) = pure {
                self.find(rule, format!("{phase} removed {handle:?}"));
            } else if let (Some(theirs), Some(subject)) = (&owner.subject, subject)
                && theirs != subject
            {
                self.find(Rule::Keyed, format!("{phase} of {subject} removed {handle:?}, which is {theirs}'s"));
            }
            self.gone(handle, Some(call));
        }
    }

    /// Something was removed by the kit itself.
    pub(super) fn forget(&self, handle: &str) {
        self.gone(handle, None);
    }

    fn gone(&self, handle: &str, call: Option<u64>) {
        let owner = self.state.lock().owners.remove(handle);
        if let Some(subject) = owner.and_then(|owner| owner.subject) {
            let (extension, key) = (self.extension.clone(), format!("{handle:?}"));
            self.ledger.outside(What::Release { extension, subject, key, call });
        }
    }

    /// What is held for this subject.
    pub(super) fn of(&self, subject: &Subject) -> BTreeSet<String> {
        let state = self.state.lock();
        let own = state.owners.iter().filter(|(_, owner)| owner.subject.as_ref() == Some(subject));
        own.map(|(handle, _)| handle.clone()).collect()
    }

    /// What is held for anybody.
    pub(super) fn owned(&self) -> BTreeMap<String, Owner> {
        let mut owned = self.state.lock().owners.clone();
        owned.retain(|_, owner| owner.subject.is_some());
        owned
    }

    pub(super) fn find(&self, rule: Rule, what: impl Into<String>) {
        let first = self.state.lock().findings.is_empty();
        let history = first.then(|| self.ledger.render());
        let mut state = self.state.lock();
        let finding = Finding { rule, place: state.place.clone(), what: what.into() };
        if first {
            state.history = history;
        }
        if !state.findings.contains(&finding) {
            state.findings.push(finding);
        }
    }

    pub(super) fn is_clean(&self) -> bool {
        self.state.lock().findings.is_empty()
    }

    pub(super) fn take(&self) -> (Vec<Finding>, Option<String>) {
        let mut state = self.state.lock();
        (std::mem::take(&mut state.findings), state.history.take())
    }
}
