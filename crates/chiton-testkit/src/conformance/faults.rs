//! The families that make one call go wrong: every call of the phase in a whole life, before, inside and after its work.

use chiton_model::Phase;

use super::Family;
use super::kit::{Found, Kit};
use super::outside;
use super::rig::{Fault, Ill, Moment};
use super::stage::{Death, Setting};

/// A hook that waits more often is looked at up to here.
const MOST_WAITS: u32 = 12;

/// Whose hooks an operation's cancellation reaches.
fn can_be_cancelled(phase: Phase) -> bool {
    matches!(
        phase,
        Phase::BeforeCreate | Phase::AfterCreate | Phase::BeforeStart | Phase::AfterReady | Phase::Reconcile
    )
}

/// The actions that a cleanup undoes.
pub(super) fn actions(cleanup: Phase) -> &'static [Phase] {
    match cleanup {
        Phase::AfterStop => &[Phase::BeforeStart, Phase::AfterReady],
        Phase::OnCreateFailed => &[Phase::BeforeCreate, Phase::AfterCreate],
        Phase::ReleaseWorkspace => &[Phase::EnsureWorkspace],
        _ => &[],
    }
}

/// Where a fault is placed; inside stands for every place where the hook waits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Before,
    Inside,
    After,
}

/// The faults of a family in a phase.
fn plan(family: Family, phase: Phase) -> Vec<(Place, Ill)> {
    use Place::{After, Before, Inside};
    match family {
        Family::FailEach => vec![(Before, Ill::Fail), (After, Ill::Fail)],
        Family::RepeatEach => vec![(After, Ill::Repeat), (After, Ill::Retry), (Before, Ill::Retry)],
        Family::RepeatEachCleanup => vec![(After, Ill::Repeat), (After, Ill::Retry), (After, Ill::Fail)],
        Family::CancelEach if can_be_cancelled(phase) => {
            vec![(Before, Ill::Cancel), (Inside, Ill::Cancel), (After, Ill::Cancel)]
        }
        Family::CancelEach => vec![(Inside, Ill::Drop)],
        Family::TimeOutEach => {
            vec![(Before, Ill::TimeOut), (Inside, Ill::TimeOut), (After, Ill::TimeOut), (After, Ill::SlowWork)]
        }
        Family::PanicEach => vec![(Before, Ill::Panic), (After, Ill::Panic)],
        Family::CrashEach => {
            vec![(Before, Ill::Crash), (Inside, Ill::Crash), (Inside, Ill::CrashLate), (After, Ill::Crash)]
        }
        Family::CleanupOfNothing => vec![(After, Ill::Repeat)],
        _ => Vec::new(),
    }
}

/// Runs one of these families for a phase.
pub(super) fn family(kit: &Kit, family: Family, phase: Phase) -> Found {
    let mut found = Found::default();
    let maybe = family == Family::CleanupOfNothing;
    let deaths: &[Death] = match family {
        Family::CrashEach => &Death::ALL,
        _ => &[Death::Process],
    };
    for (place, ill) in plan(family, phase) {
        for death in deaths {
            let setting = Setting { death: Some(*death), authoritative: phase == Phase::Sweep, ..Setting::default() };
            each(kit, &setting, phase, place, ill, maybe, &mut found);
        }
    }
    if maybe {
        // The action fails before it did anything, or nobody knows whether it ran: nothing is there to clean up.
        for action in actions(phase).iter().filter(|action| kit.kind().descriptor().takes_part(**action)) {
            each(kit, &Setting::default(), *action, Place::Before, Ill::Fail, maybe, &mut found);
            let lost = Setting { death: Some(Death::Marks), ..Setting::default() };
            each(kit, &lost, *action, Place::Before, Ill::Crash, maybe, &mut found);
        }
    }
    found
}

/// Every call of the phase in turn.
fn each(kit: &Kit, setting: &Setting, phase: Phase, place: Place, ill: Ill, maybe: bool, found: &mut Found) {
    for nth in 1.. {
        let mut called = false;
        for wait in 0..MOST_WAITS {
            let moment = match place {
                Place::Before => Moment::Before,
                Place::Inside => Moment::Inside(wait),
                Place::After => Moment::After,
            };
            let (hit, calls) = one(kit, setting, Fault { phase, nth, moment, ill }, maybe, found);
            called = calls >= nth;
            if found.is_plenty() {
                return;
            }
            if !hit || place != Place::Inside {
                break;
            }
        }
        if !called {
            return;
        }
    }
}

/// One life with one fault: whether it came to pass, and how often the phase was called.
fn one(kit: &Kit, setting: &Setting, fault: Fault, maybe: bool, found: &mut Found) -> (bool, u32) {
    let mut stage = kit.stage(setting, "");
    stage.rig.arm(fault);
    if let Some(death) = setting.death
        && matches!(fault.ill, Ill::Crash | Ill::CrashLate)
    {
        stage.rig.place(format!("{fault}; {}", death.as_str()));
    }
    if maybe {
        stage.rig.tell_maybe();
    }
    if fault.phase == Phase::Sweep {
        outside::play(&mut stage);
    } else if stage.start() {
        stage.play();
    }
    let (hit, calls) = (stage.rig.was_hit(), stage.rig.calls(fault.phase));
    found.add(stage.end());
    (hit, calls)
}
