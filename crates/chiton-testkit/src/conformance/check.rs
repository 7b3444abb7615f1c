//! What there is to check: every family, and the phases that each is about.

use std::fmt;

use chiton_model::Phase;

/// Phases with a context, whose hooks may have effects.
const EFFECTS: &[Phase] = &[
    Phase::BeforeCreate,
    Phase::AfterCreate,
    Phase::BeforeStart,
    Phase::AfterReady,
    Phase::ApproveStop,
    Phase::BeforeStop,
    Phase::AfterStop,
    Phase::OnCreateFailed,
    Phase::BeforeDelete,
    Phase::AfterDelete,
    Phase::Reconcile,
    Phase::EnsureWorkspace,
    Phase::ReleaseWorkspace,
];
const PURE: &[Phase] = &[Phase::ValidateRequest, Phase::PreparePlan, Phase::ValidatePlan, Phase::ApproveStop];
const CLEANUP: &[Phase] = &[Phase::AfterStop, Phase::OnCreateFailed, Phase::AfterDelete, Phase::ReleaseWorkspace];

macro_rules! families {
    ($($(#[$meta:meta])* $name:ident = $text:literal, $phases:expr;)+) => {
        /// A family of checks.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Family { $($(#[$meta])* $name,)+ }

        impl Family {
            /// Every family.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The word that tests bear.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// The phases that it has a test for; none for one test about all.
            pub fn phases(self) -> &'static [Phase] {
                match self { $(Self::$name => $phases,)+ }
            }
        }
    };
}

families! {
    /// A hook fails, before and after it did its work.
    FailEach = "fail_each", Phase::ALL;
    /// A hook is called again, at once and by a retry.
    RepeatEach = "repeat_each", EFFECTS;
    /// A cleanup is called again, and again after everything is gone.
    RepeatEachCleanup = "repeat_each_cleanup", CLEANUP;
    /// A hook is cancelled or dropped where it waits.
    CancelEach = "cancel_each", EFFECTS;
    /// A hook does not return in time.
    TimeOutEach = "time_out_each", Phase::ALL;
    /// A hook panics.
    PanicEach = "panic_each", Phase::ALL;
    /// The gateway or the machine dies in a hook.
    CrashEach = "crash_each", Phase::ALL;
    /// Same input, same output, no effect.
    Purity = "purity", PURE;
    /// Cleanup with its state withheld.
    CleanupWithoutState = "cleanup_without_state", CLEANUP;
    /// Cleanup with `Ran::Maybe` when nothing ran.
    CleanupOfNothing = "cleanup_of_nothing", CLEANUP;
    /// Nothing of a hook lives on after it returned.
    NoDetachedWork = "no_detached_work", Phase::ALL;
    /// A whole life, on every kind of driver.
    Calm = "calm", &[];
    /// Slots exactly as declared.
    Slots = "slots", &[];
    /// State that was saved is read back, older state too.
    StateRoundTrip = "state_round_trip", &[];
    /// State of an unknown version is refused before any hook sees it.
    UnknownState = "unknown_state", &[];
    /// Two sandboxes of one name, at once and one after the other.
    KeyedById = "keyed_by_id", &[];
    /// A crash after every entry of the ledger, with a second one in recovery.
    Leaks = "leaks", &[];
    /// Held, release.
    Sweep = "sweep", &[];
    /// Advisory reconcile looks, an authoritative one may mend.
    Reconcile = "reconcile", &[];
    /// Strict, and without effects.
    Config = "config", &[];
}

/// One test: a family, and a phase where it has one for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Check {
    /// The family.
    pub family: Family,
    /// The phase.
    pub phase: Option<Phase>,
}

impl Check {
    /// Every test that [`crate::conformance!`] makes.
    pub fn all() -> Vec<Self> {
        let of = |family: &Family| -> Vec<Self> {
            let family = *family;
            match family.phases() {
                [] => vec![Self { family, phase: None }],
                phases => phases.iter().map(|phase| Self { family, phase: Some(*phase) }).collect(),
            }
        };
        Family::ALL.iter().flat_map(of).collect()
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.family.as_str())?;
        self.phase.map_or(Ok(()), |phase| write!(f, "::{phase}"))
    }
}
