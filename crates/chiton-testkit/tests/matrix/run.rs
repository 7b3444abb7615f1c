//! One cell, from the world's begin to the proof that nothing is lost and nothing is left.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::time::Duration;

use chiton_lifecycle::OrphanVerdict;
use chiton_lifecycle::crash::Point;
use chiton_model::{SandboxId, WorkspaceName};
use chiton_testkit::{Call, Entry, Lab, What};

use crate::cell::{Act, After, Cell, Setting};
use crate::scene::Scene;

/// Longer than every back-off and every wait for something that may land late.
const PATIENCE: Duration = Duration::from_hours(6);
/// Two graces of the sweeps and more.
const SWEPT: Duration = Duration::from_mins(40);

/// A whole operation without a crash.
pub(crate) struct Rehearsal {
    /// How many moments it has at which a crash can come.
    pub(crate) moments: usize,
    /// The crash points that it reaches, in order.
    pub(crate) reached: Vec<Point>,
    /// What happened in it.
    pub(crate) entries: Vec<Entry>,
}

/// Runs an operation without a crash.
pub(crate) fn rehearse(setting: Setting) -> Rehearsal {
    hush();
    RUNS.set(true);
    let mut scene = Scene::new(setting);
    let ledger = scene.lab.ledger().clone();
    let (moments, points, entries) = (ledger.moments(), ledger.reached().len(), ledger.len());
    scene.act();
    RUNS.set(false);
    let reached = ledger.reached().split_off(points);
    Rehearsal { moments: ledger.moments() - moments, reached, entries: ledger.since(entries) }
}

thread_local! {
    /// A cell runs: a panic is its result, and is told once, with the cell.
    static RUNS: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

fn hush() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !RUNS.get() {
                usual(panic);
            }
        }));
    });
}

/// Runs a cell and answers how many of its crashes came; an error tells the whole story.
pub(crate) fn run(cell: Cell) -> Result<usize, String> {
    hush();
    RUNS.set(true);
    let played = catch_unwind(AssertUnwindSafe(|| play(cell)));
    RUNS.set(false);
    played.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
    })
}

fn play(cell: Cell) -> usize {
    let mut scene = Scene::new(cell.setting);
    let backup = scene.lab.journal().backup();
    let first = scene.lab.ledger().moments() + cell.moment;
    scene.lab.ledger().crash_at(first);
    scene.act();
    let mut crashes = usize::from(scene.lab.world().is_killed());
    scene.lab.ledger().no_crash();
    die(&mut scene.lab, cell.after);
    let old = scene.lab.journal().info().epoch;
    let renewed = matches!(cell.after, After::Restored | After::Copied);
    if cell.after == After::Restored {
        scene.lab.journal().restore(&backup);
    }
    if renewed {
        scene.lab.journal().renew_epoch();
        leave_alone(&mut scene);
        scene.adopt(old);
    }
    if let Some(second) = cell.second {
        crashes += usize::from(crash_again(&mut scene.lab, second, cell.after));
    }
    scene.lab.start();
    quiet(&scene.lab, "after the crash");
    scene.behave();
    quiet(&scene.lab, "when all behave");
    if cell.setting.act == Act::Sweep {
        scene.lab.advance(SWEPT);
    }
    if cell.after == After::Restored || (renewed && cell.setting.act == Act::Sweep) {
        // What the ledger saw committed is not what the store says, and an orphan of the earlier life is left to its
        // operator: the checks that follow commits and rows do not hold.
        sound_without_history(&scene.lab);
    } else {
        scene.lab.assert_sound();
    }
    scene.adopt_none();
    empty(&scene.lab);
    crashes
}

fn die(lab: &mut Lab, after: After) {
    match after {
        After::PowerLoss => lab.power_loss(),
        After::AllMarks => lab.crash(),
        After::SomeMarks(records) => {
            lab.crash();
            lab.tear_marks(records);
        }
        After::Copied => {
            // The log is copied, too; only the epoch says that it is another store's.
            lab.crash();
            lab.distrust_marks();
        }
        After::NoMarks | After::Restored => {
            lab.crash();
            lab.lose_marks();
        }
    }
}

/// A second crash while the first is recovered from. False when the recovery had fewer moments.
fn crash_again(lab: &mut Lab, moment: usize, after: After) -> bool {
    let at = lab.ledger().moments() + moment;
    lab.ledger().crash_at(at);
    if lab.try_start().expect("it starts") {
        lab.advance(Duration::from_mins(5));
    }
    let came = lab.world().is_killed();
    lab.ledger().no_crash();
    match after {
        After::Restored | After::Copied => lab.crash(),
        after => die(lab, after),
    }
    came
}

/// What belongs to another life of the store is not touched.
fn leave_alone(scene: &mut Scene) {
    let before = scene.lab.ledger().len();
    scene.lab.start();
    scene.lab.advance(SWEPT);
    let objects = scene.lab.platform().objects();
    for entry in scene.lab.ledger().since(before) {
        let touched = match &entry.what {
            What::HookBegin(_) => true,
            What::CallBegin { kind, .. } => Call::ACTS.contains(kind),
            What::Sweep { ids, .. } => ids.iter().any(|id| objects.contains_key(id)),
            _ => false,
        };
        assert!(!touched, "a renewed store touches what is not its own: {entry}\n{:?}", scene.lab.ledger());
    }
    scene.lab.crash();
}

fn quiet(lab: &Lab, when: &str) {
    assert!(lab.quiesce(PATIENCE), "not quiet {when}: {:?}\n{:?}", lab.journal().obligations(), lab.ledger());
}

fn sound_without_history(lab: &Lab) {
    let ledger = lab.ledger();
    let checks = [ledger.no_release_before_absence(), ledger.no_overlap(), ledger.ran_is_true()];
    for check in checks {
        if let Err(why) = check {
            panic!("{why}\n{ledger:?}");
        }
    }
    assert!(ledger.violations().is_empty(), "{ledger:?}");
}

/// Everything is deleted by hand, and nothing is left.
fn empty(lab: &Lab) {
    let ids: Vec<SandboxId> = lab.journal().rows().into_keys().collect();
    for id in ids {
        if let Err(error) = lab.delete_sandbox(&id) {
            panic!("a delete is refused: {error}\n{:?}", lab.ledger());
        }
    }
    quiet(lab, "after all was deleted");
    let (engine, principal) = (lab.engine(), lab.request().principal);
    // A workspace that a restored store does not know is made ready anew by the next create, under the same keys.
    let known = !lab.journal().workspaces().is_empty();
    if known {
        let (engine, principal) = (engine.clone(), principal.clone());
        let released = lab.block_on(async move { engine.delete_workspace(principal, WorkspaceName::default()).await });
        released.expect("a workspace without sandboxes can be deleted");
        quiet(lab, "after the workspace was deleted");
    }
    let stays = |key: &String| !known && key.ends_with("/workspace");
    let orphans = {
        let engine = engine.clone();
        lab.block_on(async move { engine.orphans().await?.complete() }).expect("the driver can be listed")
    };
    for orphan in orphans.into_iter().filter(|orphan| orphan.verdict != OrphanVerdict::Sweepable) {
        let (engine, principal, id) = (engine.clone(), principal.clone(), orphan.observed.id);
        lab.block_on(async move { engine.delete_orphan(principal, orphan.driver, id).await })
            .expect("an orphan can be deleted by hand");
    }
    let held = || lab.ledger().held().into_keys().map(|(_, key)| key).filter(|key| !stays(key));
    if held().next().is_some() || !lab.platform().objects().is_empty() {
        lab.advance(SWEPT);
    }
    let left: Vec<String> = [
        lab.journal().rows().into_keys().map(|id| format!("row {id}")).collect::<Vec<_>>(),
        lab.platform().objects().into_keys().map(|id| format!("object {id}")).collect(),
        lab.journal().states().into_keys().map(|(about, whose)| format!("state of {whose} for {about}")).collect(),
        lab.journal().obligations().into_iter().map(|owed| format!("obligation {}", owed.id)).collect(),
        held().collect(),
    ]
    .concat();
    assert!(left.is_empty(), "left behind: {left:?}\n{:?}", lab.ledger());
}
