//! The kit as an author's tests use it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use chiton_lifecycle::extension::ExtensionKind;
use chiton_model::Error;

use super::finding::Report;
use super::stage::{Setting, Stage};
use super::{Bench, Check, Family, Finding, calm, faults, keyed, leaks, outside, pure, state};

/// An extension on the bench.
#[derive(Clone)]
pub struct Kit {
    kind: ExtensionKind,
    bench: Arc<dyn Fn() -> Bench + Send + Sync>,
}

impl std::fmt::Debug for Kit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Kit").field(&self.kind).finish()
    }
}

/// Numbers for the threads of checks.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// What the runs of one check came to.
#[derive(Default)]
pub(super) struct Found {
    pub(super) findings: Vec<Finding>,
    pub(super) history: Option<String>,
}

impl Found {
    pub(super) fn add(&mut self, (findings, history): (Vec<Finding>, Option<String>)) {
        if self.findings.is_empty() {
            self.history = history;
        }
        for finding in findings {
            if !self.findings.contains(&finding) {
                self.findings.push(finding);
            }
        }
    }

    /// So many that more would say nothing new.
    pub(super) fn is_plenty(&self) -> bool {
        self.findings.len() >= 12
    }
}

impl Kit {
    /// A kit for an extension as its crate gives it to a distribution, and what it needs for a run: a [`Bench`], or only a
    /// config.
    ///
    /// # Panics
    /// When the extension cannot be declared at all.
    pub fn new<B: Into<Bench>>(
        kind: Result<ExtensionKind, Error>,
        bench: impl Fn() -> B + Send + Sync + 'static,
    ) -> Self {
        let kind = kind.unwrap_or_else(|error| panic!("the extension cannot be declared: {error}"));
        Self { kind, bench: Arc::new(move || bench().into()) }
    }

    pub(super) fn kind(&self) -> &ExtensionKind {
        &self.kind
    }

    pub(super) fn bench(&self) -> Bench {
        (self.bench)()
    }

    pub(super) fn stage(&self, setting: &Setting, place: &str) -> Stage {
        Stage::new(&self.kind, self.bench(), setting, place)
    }

    /// What a check finds.
    pub fn check(&self, check: Check) -> Vec<Finding> {
        self.find(check).findings
    }

    /// Panics with what a check finds, if it finds something.
    ///
    /// # Panics
    /// With the findings.
    pub fn assert(&self, check: Check) {
        let found = self.find(check);
        let extension = self.kind.descriptor().name.as_str();
        let report = Report { extension, check, findings: &found.findings, history: found.history.as_deref() };
        assert!(found.findings.is_empty(), "{report}");
    }

    fn find(&self, check: Check) -> Found {
        if let Some(phase) = check.phase
            && !self.kind.descriptor().takes_part(phase)
        {
            // It takes no part in it: nothing to prove.
            return Found::default();
        }
        // On a thread with a name of its own, so that threads which hooks begin can be told apart.
        let name = format!("kit-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let kit = self.clone();
        let thread = std::thread::Builder::new().name(name).spawn(move || kit.dispatch(check));
        match thread.expect("the system gives a thread").join() {
            Ok(found) => found,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    fn dispatch(&self, check: Check) -> Found {
        match (check.family, check.phase) {
            (Family::Purity, Some(phase)) => pure::purity(self, phase),
            (Family::NoDetachedWork, Some(phase)) => calm::no_detached_work(self, phase),
            (Family::CleanupWithoutState, Some(phase)) => state::cleanup_without_state(self, phase),
            (family, Some(phase)) => faults::family(self, family, phase),
            (Family::Slots, None) => pure::slots(self),
            (Family::StateRoundTrip, None) => state::round_trip(self),
            (Family::UnknownState, None) => state::unknown(self),
            (Family::KeyedById, None) => keyed::by_id(self),
            (Family::Leaks, None) => leaks::everywhere(self),
            (Family::Sweep, None) => outside::sweep(self),
            (Family::Reconcile, None) => outside::reconcile(self),
            (Family::Config, None) => pure::config(self),
            (_, None) => calm::calm(self),
        }
    }
}
