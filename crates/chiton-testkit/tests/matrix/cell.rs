//! What one cell of the matrix is, and the list of all.

use chiton_model::Phase;
use chiton_testkit::{Call, Rng};
use serde::{Deserialize, Serialize};

/// What runs when the crash comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Act {
    /// The first create of a workspace: it is made ready, too.
    Create,
    Start,
    Stop,
    Delete,
    /// A delete that meets a create.
    Cancel,
    Exit,
    /// An authoritative reconcile that repairs.
    Reconcile,
    /// Orphans and leaked holdings.
    Sweep,
    /// The delete of a failed create that still owes.
    Bury,
    /// The last sandbox of a workspace goes, and the workspace.
    Workspace,
    /// The retries of obligations.
    Cleanup,
    /// The gateway ends by itself, its sandboxes with it, and comes back.
    Shutdown,
}

impl Act {
    pub(crate) const ALL: [Self; 12] = [
        Self::Create,
        Self::Start,
        Self::Stop,
        Self::Delete,
        Self::Cancel,
        Self::Exit,
        Self::Reconcile,
        Self::Sweep,
        Self::Bury,
        Self::Workspace,
        Self::Cleanup,
        Self::Shutdown,
    ];

    /// The hooks whose failure changes its course.
    fn hooks(self) -> &'static [Phase] {
        use Phase as P;
        match self {
            Self::Create => &[
                P::EnsureWorkspace,
                P::BeforeCreate,
                P::AfterCreate,
                P::BeforeStart,
                P::AfterReady,
                P::AfterStop,
                P::OnCreateFailed,
                P::ReleaseWorkspace,
            ],
            Self::Start => &[P::BeforeStart, P::AfterReady, P::AfterStop],
            Self::Stop => &[P::ApproveStop, P::BeforeStop, P::AfterStop],
            Self::Delete => &[P::BeforeStop, P::AfterStop, P::BeforeDelete, P::AfterDelete],
            Self::Cancel => &[P::BeforeCreate, P::AfterStop, P::OnCreateFailed],
            Self::Exit => &[P::AfterStop],
            Self::Reconcile => &[P::Reconcile, P::AfterDelete],
            Self::Sweep => &[P::Sweep],
            Self::Workspace => &[P::AfterDelete, P::ReleaseWorkspace],
            Self::Bury => &[P::AfterStop, P::OnCreateFailed],
            Self::Cleanup => &[P::AfterStop, P::OnCreateFailed, P::AfterDelete, P::ReleaseWorkspace],
            Self::Shutdown => &[P::BeforeStop, P::AfterStop, P::BeforeStart],
        }
    }

    /// The driver calls whose failure changes its course.
    fn calls(self) -> &'static [Call] {
        match self {
            Self::Create => &[
                Call::EnsureWorkspace,
                Call::Prepare,
                Call::Create,
                Call::Start,
                Call::Stop,
                Call::Delete,
                Call::ReleaseWorkspace,
            ],
            Self::Start | Self::Shutdown => &[Call::Start, Call::Stop],
            Self::Stop | Self::Exit => &[Call::Stop],
            Self::Delete | Self::Cleanup => &[Call::Stop, Call::Delete],
            Self::Cancel => &[Call::Create, Call::Delete],
            Self::Workspace => &[Call::Delete, Call::ReleaseWorkspace],
            Self::Reconcile | Self::Bury => &[],
            Self::Sweep => &[Call::Delete, Call::List],
        }
    }
}

/// How a hook goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ill {
    Fails,
    /// It waits until it is cancelled.
    TimesOut,
    /// It blocks its thread far beyond its deadline.
    Hangs,
    Panics,
}

/// How a driver call goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Lapse {
    NotRun,
    Fails,
    /// It does it and fails nevertheless.
    FailsDone,
    /// No answer; it takes hold after the deadline.
    LandsLate,
    /// No answer, and nothing happens.
    Lost,
}

/// What goes wrong besides the crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Fault {
    None,
    Hook { phase: Phase, position: usize, ill: Ill },
    Driver { call: Word, lapse: Lapse },
}

/// A driver call as it is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Word {
    Prepare,
    Create,
    Start,
    Stop,
    Delete,
    List,
    EnsureWorkspace,
    ReleaseWorkspace,
}

impl Word {
    fn of(call: Call) -> Self {
        match call {
            Call::Prepare => Self::Prepare,
            Call::Create => Self::Create,
            Call::Start => Self::Start,
            Call::Stop => Self::Stop,
            Call::Delete => Self::Delete,
            Call::List => Self::List,
            Call::EnsureWorkspace => Self::EnsureWorkspace,
            Call::ReleaseWorkspace => Self::ReleaseWorkspace,
            other => panic!("{other:?} takes no part in the matrix"),
        }
    }

    pub(crate) fn call(self) -> Call {
        match self {
            Self::Prepare => Call::Prepare,
            Self::Create => Call::Create,
            Self::Start => Call::Start,
            Self::Stop => Call::Stop,
            Self::Delete => Call::Delete,
            Self::List => Call::List,
            Self::EnsureWorkspace => Call::EnsureWorkspace,
            Self::ReleaseWorkspace => Call::ReleaseWorkspace,
        }
    }
}

/// What becomes of the disk and the machine when the gateway dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum After {
    /// The kernel lives on, all marks with it.
    AllMarks,
    /// So many marks are left; the next is torn.
    SomeMarks(usize),
    /// The mark log is gone.
    NoMarks,
    /// The machine goes down; what was not synced is lost.
    PowerLoss,
    /// A backup from before the operation is put back.
    Restored,
    /// The store is copied, and the copy goes on.
    Copied,
}

/// Which driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Driver {
    Local,
    Remote,
    /// Create starts, too; no agent, no workspaces.
    OnePhase,
}

/// A world up to the crash: what the number of moments depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Setting {
    pub(crate) act: Act,
    pub(crate) chain: usize,
    pub(crate) fault: Fault,
    pub(crate) driver: Driver,
}

/// One run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Cell {
    #[serde(flatten)]
    pub(crate) setting: Setting,
    /// The crash comes at this moment of the operation, from 1.
    pub(crate) moment: usize,
    pub(crate) after: After,
    /// A second crash at this moment of the recovery, from 1.
    pub(crate) second: Option<usize>,
}

fn faults(act: Act, chain: usize) -> Vec<Fault> {
    let mut faults = vec![Fault::None];
    for call in act.calls() {
        for lapse in [Lapse::NotRun, Lapse::Fails, Lapse::FailsDone, Lapse::LandsLate, Lapse::Lost] {
            faults.push(Fault::Driver { call: Word::of(*call), lapse });
        }
    }
    for phase in act.hooks() {
        for position in 0..chain {
            for ill in [Ill::Fails, Ill::TimesOut, Ill::Hangs, Ill::Panics] {
                faults.push(Fault::Hook { phase: *phase, position, ill });
            }
        }
    }
    faults
}

/// Every world in which a crash is placed.
pub(crate) fn settings() -> Vec<Setting> {
    let mut settings = Vec::new();
    for act in Act::ALL {
        for chain in 0..=5 {
            for fault in faults(act, chain) {
                for driver in [Driver::Local, Driver::Remote, Driver::OnePhase] {
                    settings.push(Setting { act, chain, fault, driver });
                }
            }
        }
    }
    settings
}

/// The cells of a setting whose operation has so many moments: every moment, everything that can become of the disk, with
/// and without a second crash.
pub(crate) fn cells(setting: Setting, moments: usize, rng: &mut Rng) -> Vec<Cell> {
    let mut cells = Vec::new();
    for moment in 1..=moments {
        let some = After::SomeMarks(rng.below(moments));
        for after in [After::AllMarks, some, After::NoMarks, After::PowerLoss, After::Restored, After::Copied] {
            for second in [None, Some(1 + rng.below(60))] {
                cells.push(Cell { setting, moment, after, second });
            }
        }
    }
    cells
}
