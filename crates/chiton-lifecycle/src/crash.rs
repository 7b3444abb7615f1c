//! Where a crash may come: every place before and after a journal write, a mark or an effect.
//!
//! "After any crash" is a promise about places, so the places have names. The engine writes to the journal, marks and
//! acts through a handful of functions, and each of these announces itself with [`crash_point!`]; whoever tests watches
//! through [`Points`] and kills the process where it likes. [`Point::all`] lists what there is: a history that reaches a
//! point which is not on the list, or a point that no history reaches, is a test's finding. A release build announces
//! nothing.

use std::fmt;
use std::sync::Arc;

use chiton_model::{OperationKind, Phase};

use crate::journal::{DriverCall, MarkEvent, StepKey, StepStatus};

/// Before the thing or after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// Nothing of it happened.
    Before,
    /// It is done, and nobody was told.
    After,
}

/// Which commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CommitKind {
    /// C1: the intent of an operation.
    Intent,
    /// C2: its outcome.
    Outcome,
    /// State that an extension wants to survive a power loss.
    State,
    /// A request id that joined, or a delete that met a create.
    Request,
    /// An operator's word: discharge, adopt.
    Decision,
    /// An audit record of something done.
    Audit,
    /// A workspace that nobody has to make ready.
    Workspace,
    /// A new life of the store.
    Epoch,
}

/// Which mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MarkKind {
    /// A hook's progress.
    Hook(Phase, StepStatus),
    /// A driver call's progress.
    Driver(DriverCall, StepStatus),
    /// Values of slots.
    Slots,
    /// An extension's state.
    State,
}

impl MarkKind {
    /// What a mark's event is.
    pub fn of(event: &MarkEvent) -> Self {
        match event {
            MarkEvent::Step { step: StepKey::Hook { phase, .. }, status } => Self::Hook(*phase, *status),
            MarkEvent::Step { step: StepKey::Driver(call), status } => Self::Driver(*call, *status),
            MarkEvent::Slots { .. } => Self::Slots,
            MarkEvent::State { .. } => Self::State,
        }
    }
}

/// What happens there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Deed {
    /// A commit of the journal.
    Commit(CommitKind),
    /// A mark.
    Mark(MarkKind),
    /// A hook with effects.
    Hook(Phase),
    /// A driver call with effects.
    Driver(DriverCall),
    /// The place where an agent dials in is made.
    AgentOpened,
    /// It is removed.
    AgentClosed,
}

/// A place where a crash may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Point {
    /// Before the deed or after it.
    pub side: Side,
    /// In which operation; none where the engine acts outside of any.
    pub operation: Option<OperationKind>,
    /// What happens there.
    pub deed: Deed,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = match self.side {
            Side::Before => "before",
            Side::After => "after",
        };
        match self.operation {
            Some(operation) => write!(f, "{operation}: {side} ")?,
            None => write!(f, "engine: {side} ")?,
        }
        match self.deed {
            Deed::Commit(kind) => write!(f, "commit {}", format!("{kind:?}").to_lowercase()),
            Deed::Mark(MarkKind::Hook(phase, status)) => write!(f, "mark {phase} {}", word(status)),
            Deed::Mark(MarkKind::Driver(call, status)) => write!(f, "mark driver {} {}", call.as_str(), word(status)),
            Deed::Mark(MarkKind::Slots) => f.write_str("mark slots"),
            Deed::Mark(MarkKind::State) => f.write_str("mark state"),
            Deed::Hook(phase) => write!(f, "hook {phase}"),
            Deed::Driver(call) => write!(f, "driver {}", call.as_str()),
            Deed::AgentOpened => f.write_str("opening the agent's socket"),
            Deed::AgentClosed => f.write_str("closing the agent's socket"),
        }
    }
}

fn word(status: StepStatus) -> String {
    format!("{status:?}").to_lowercase()
}

/// What an operation's sequence is made of, as the text of the lifecycle gives it.
struct Sequence {
    operation: Option<OperationKind>,
    commits: &'static [CommitKind],
    hooks: &'static [Phase],
    calls: &'static [DriverCall],
    /// Hooks fill slots in it.
    slots: bool,
    opens: bool,
    closes: bool,
}

const SEQUENCES: [Sequence; 10] = {
    use CommitKind as C;
    use DriverCall as D;
    use OperationKind as O;
    use Phase as P;
    [
        Sequence {
            operation: Some(O::Create),
            commits: &[C::Intent, C::Outcome],
            hooks: &[P::BeforeCreate, P::AfterCreate, P::BeforeStart, P::AfterReady, P::AfterStop, P::OnCreateFailed],
            calls: &[D::Prepare, D::Create, D::Start, D::Ready, D::Stop, D::Delete],
            slots: true,
            opens: true,
            closes: true,
        },
        Sequence {
            operation: Some(O::Start),
            commits: &[C::Intent, C::Outcome],
            hooks: &[P::BeforeStart, P::AfterReady, P::AfterStop],
            calls: &[D::Start, D::Ready, D::Stop],
            slots: false,
            opens: true,
            closes: true,
        },
        Sequence {
            operation: Some(O::Stop),
            commits: &[C::Intent, C::Outcome],
            hooks: &[P::ApproveStop, P::BeforeStop, P::AfterStop],
            calls: &[D::Stop],
            slots: false,
            opens: false,
            closes: true,
        },
        Sequence {
            operation: Some(O::Exit),
            commits: &[C::Intent, C::Outcome],
            hooks: &[P::AfterStop],
            calls: &[D::Stop],
            slots: false,
            opens: false,
            closes: true,
        },
        Sequence {
            operation: Some(O::Delete),
            commits: &[C::Intent, C::Outcome],
            hooks: &[P::BeforeStop, P::AfterStop, P::BeforeDelete, P::OnCreateFailed, P::AfterDelete],
            calls: &[D::Stop, D::Delete],
            slots: false,
            opens: false,
            closes: true,
        },
        Sequence {
            operation: Some(O::Reconcile),
            commits: &[C::Intent, C::Outcome],
            hooks: &[P::Reconcile],
            calls: &[],
            slots: false,
            opens: false,
            closes: false,
        },
        Sequence {
            operation: Some(O::Cleanup),
            commits: &[C::Outcome],
            hooks: &[P::AfterStop, P::OnCreateFailed, P::AfterDelete, P::ReleaseWorkspace],
            calls: &[],
            slots: false,
            opens: false,
            closes: false,
        },
        Sequence {
            operation: Some(O::EnsureWorkspace),
            commits: &[C::Intent, C::Outcome, C::Workspace],
            hooks: &[P::EnsureWorkspace, P::ReleaseWorkspace],
            calls: &[D::EnsureWorkspace, D::ReleaseWorkspace],
            slots: false,
            opens: false,
            closes: false,
        },
        Sequence {
            operation: Some(O::ReleaseWorkspace),
            commits: &[C::Intent, C::Outcome],
            hooks: &[P::ReleaseWorkspace],
            calls: &[D::ReleaseWorkspace],
            slots: false,
            opens: false,
            closes: false,
        },
        // What the engine does outside of any operation: sweeps, operators' decisions, its own start.
        Sequence {
            operation: None,
            commits: &[C::Request, C::Decision, C::Audit, C::Epoch],
            hooks: &[P::Sweep],
            calls: &[D::Delete],
            slots: false,
            opens: true,
            closes: true,
        },
    ]
};

impl Sequence {
    fn deeds(&self) -> Vec<Deed> {
        let mut deeds: Vec<Deed> = self.commits.iter().map(|kind| Deed::Commit(*kind)).collect();
        deeds.extend(self.hooks.iter().map(|phase| Deed::Hook(*phase)));
        deeds.extend(self.calls.iter().map(|call| Deed::Driver(*call)));
        if self.operation.is_some() {
            use StepStatus::{Completed, Failed, Started};
            for status in [Started, Completed, Failed] {
                deeds.extend(self.hooks.iter().map(|phase| Deed::Mark(MarkKind::Hook(*phase, status))));
                // A wait for readiness is never known not to have begun, which is what a failed call means.
                let calls = self.calls.iter().filter(|call| !(**call == DriverCall::Ready && status == Failed));
                deeds.extend(calls.map(|call| Deed::Mark(MarkKind::Driver(*call, status))));
            }
            deeds.extend([Deed::Mark(MarkKind::State), Deed::Commit(CommitKind::State)]);
        }
        if self.slots {
            deeds.push(Deed::Mark(MarkKind::Slots));
        }
        if self.opens {
            deeds.push(Deed::AgentOpened);
        }
        if self.closes {
            deeds.push(Deed::AgentClosed);
        }
        deeds
    }
}

impl Point {
    /// Every place where a crash may come.
    pub fn all() -> Vec<Self> {
        let mut points: Vec<Self> = SEQUENCES
            .iter()
            .flat_map(|sequence| {
                let operation = sequence.operation;
                sequence
                    .deeds()
                    .into_iter()
                    .flat_map(move |deed| [Side::Before, Side::After].map(|side| Self { side, operation, deed }))
            })
            .collect();
        points.sort();
        points
    }
}

type Watcher = Arc<dyn Fn(&Point) + Send + Sync>;

/// Who watches the points; nobody by default.
#[derive(Clone, Default)]
pub struct Points(Option<Watcher>);

impl Points {
    /// Points that this one watches. It may kill the process, or make it count as dead.
    pub fn watched_by(watcher: impl Fn(&Point) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(watcher)))
    }

    /// Announces a place. Use [`crash_point!`], which leaves nothing in a release build.
    pub fn reach(&self, side: Side, operation: Option<OperationKind>, deed: Deed) {
        if let Some(watcher) = &self.0 {
            watcher(&Point { side, operation, deed });
        }
    }
}

impl fmt::Debug for Points {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Points").field(&self.0.is_some()).finish()
    }
}

/// Announces a place where a crash may come: `crash_point!(points, Before, operation, deed)`.
macro_rules! crash_point {
    ($points:expr, $side:ident, $operation:expr, $deed:expr) => {
        if cfg!(debug_assertions) {
            $points.reach($crate::crash::Side::$side, $operation, $deed);
        }
    };
}
pub(crate) use crash_point;
