//! What compares the outside with the records: reconcile and sweeps.

use std::collections::BTreeSet;
use std::time::Duration;

use chiton_lifecycle::extension::ReconcileSupport;
use chiton_model::{Phase, SandboxId};

use super::Rule;
use super::kit::{Found, Kit};
use super::stage::{Ask, Setting, Stage};

/// Longer than a sweep's grace.
const GRACE: Duration = Duration::from_mins(11);
/// An extension that lists more pages than this lists without end.
const MOST_PAGES: usize = 1000;

/// A sandbox whose row is lost with its store, one that lives, and sweeps until the first is freed. Answers both.
pub(super) fn play(stage: &mut Stage) -> Option<(SandboxId, SandboxId)> {
    if !stage.start() {
        return None;
    }
    let lost = stage.create_well("lost")?;
    stage.forget_store(&lost);
    if !stage.start() {
        return None;
    }
    let alive = stage.create_well("alive")?;
    for _ in 0..3 {
        stage.sweep()?;
        stage.lab.advance(GRACE);
    }
    Some((lost, alive))
}

/// What the extension itself says that it holds something for.
fn listed(stage: &Stage, kit: &Kit) -> Option<BTreeSet<SandboxId>> {
    let instance = kit.kind().build(&stage.bench.config).ok()?;
    let (mut ids, mut page) = (BTreeSet::new(), None);
    for _ in 0..MOST_PAGES {
        let (asked, at) = (instance.clone(), page.take());
        match stage.lab.run(stage.beyond(async move { asked.held(at).await }))? {
            Ok(answer) => {
                ids.extend(answer.ids);
                page = answer.next;
            }
            Err(error) => {
                stage.rig.find(Rule::Sweep, format!("held failed: {error}"));
                return None;
            }
        }
        if page.is_none() {
            return Some(ids);
        }
    }
    stage.rig.find(Rule::Sweep, format!("held has more than {MOST_PAGES} pages"));
    None
}

fn released(stage: &Stage, kit: &Kit, id: &SandboxId) -> Option<()> {
    let instance = kit.kind().build(&stage.bench.config).ok()?;
    let ids = vec![id.clone()];
    if let Err(error) = stage.lab.run(stage.beyond(async move { instance.release(&ids).await }))? {
        stage.rig.find(Rule::Sweep, format!("release failed: {error}"));
    }
    Some(())
}

pub(super) fn sweep(kit: &Kit) -> Found {
    let mut found = Found::default();
    if !kit.kind().descriptor().takes_part(Phase::Sweep) {
        return found;
    }
    found.add(directly(kit));
    found.add(by_the_engine(kit));
    found
}

/// Held and release, asked as the engine asks them, of an instance of its own.
fn directly(kit: &Kit) -> (Vec<super::Finding>, Option<String>) {
    let mut stage = kit.stage(&Setting::default(), "held and release were asked while two sandboxes lived");
    if stage.start()
        && let (Some(one), Some(other)) = (stage.create_well("one"), stage.create_well("other"))
        && let Some(before) = listed(&stage, kit)
    {
        let of = |id: &SandboxId| stage.rig.of(&Stage::subject(id));
        for id in [&one, &other] {
            if !of(id).is_empty() && !before.contains(id) {
                stage.rig.find(Rule::Sweep, format!("it holds {:?} for {id}, and held does not list it", of(id)));
            }
        }
        let (mine, theirs) = (of(&one), of(&other));
        // Twice: a crash may come between a release and its record.
        for _ in 0..2 {
            released(&stage, kit, &one);
        }
        let now = stage.rig.held();
        let left: Vec<&String> = mine.intersection(&now).collect();
        if !left.is_empty() && before.contains(&one) {
            stage.rig.find(Rule::Sweep, format!("{left:?} is still held for {one} after its release"));
        }
        let gone: Vec<&String> = theirs.difference(&now).collect();
        if !gone.is_empty() {
            stage.rig.find(Rule::Sweep, format!("release of {one} freed {gone:?}, which is {other}'s, which lives"));
        }
        for handle in mine.union(&theirs).filter(|handle| !now.contains(*handle)) {
            stage.rig.forget(handle);
        }
        stage.ask(&one, Ask::Delete);
        stage.ask(&other, Ask::Delete);
        if let Some(after) = listed(&stage, kit)
            && let Some(id) = after.intersection(&before).next()
        {
            stage.rig.find(Rule::Sweep, format!("held lists {id}, which is deleted"));
        }
    }
    stage.end()
}

/// The engine sweeps: what nobody owns is freed, what lives is not.
fn by_the_engine(kit: &Kit) -> (Vec<super::Finding>, Option<String>) {
    let authoritative = kit.kind().descriptor().reconcile == ReconcileSupport::Authoritative;
    let mut stage =
        kit.stage(&Setting { authoritative, ..Setting::default() }, "the store of a sandbox was lost, and sweeps ran");
    if let Some((lost, alive)) = play(&mut stage) {
        let (mine, theirs) = (stage.rig.of(&Stage::subject(&lost)), stage.rig.of(&Stage::subject(&alive)));
        if authoritative && !mine.is_empty() {
            stage.rig.find(Rule::Sweep, format!("{mine:?} is still held for {lost}, which nobody knows any more"));
        }
        let now = stage.rig.held();
        let gone: Vec<&String> = theirs.difference(&now).collect();
        if !gone.is_empty() {
            stage.rig.find(Rule::Sweep, format!("{gone:?} is gone, which is {alive}'s, which lives"));
        }
    }
    stage.end()
}

/// A look changes nothing and tells the truth; a repair is one only where the operator lets it.
pub(super) fn reconcile(kit: &Kit) -> Found {
    let mut found = Found::default();
    let descriptor = kit.kind().descriptor();
    if !descriptor.takes_part(Phase::Reconcile) {
        return found;
    }
    found.add(disturbed(kit, false));
    if descriptor.reconcile == ReconcileSupport::Authoritative {
        found.add(disturbed(kit, true));
    }
    found
}

fn disturbed(kit: &Kit, authoritative: bool) -> (Vec<super::Finding>, Option<String>) {
    let how = if authoritative { "may mend" } else { "may only look" };
    let mut stage = kit.stage(&Setting { authoritative, ..Setting::default() }, &format!("reconcile {how}"));
    if stage.start()
        && let Some(id) = stage.create_well("one")
        && stage.reconcile(&id).is_some()
    {
        if let Some(report) = stage.drift(&id) {
            stage.rig.find(Rule::Reconcile, format!("nothing was changed behind its back, and it reports: {report}"));
        }
        if let Some(disturb) = stage.bench.disturb.clone() {
            let before = stage.rig.of(&Stage::subject(&id));
            for handle in &before {
                if !stage.rig.held().contains(handle) {
                    // It went with another one: a file with its folder.
                    continue;
                }
                disturb(handle);
            }
            let broken: BTreeSet<String> = before.difference(&stage.rig.held()).cloned().collect();
            for handle in &broken {
                stage.rig.forget(handle);
            }
            stage.rig.place(format!("{broken:?} was removed behind its back; reconcile {how}"));
            stage.reconcile(&id);
            let back: BTreeSet<String> = broken.intersection(&stage.rig.held()).cloned().collect();
            if !broken.is_empty() && stage.drift(&id).is_none() && back.is_empty() {
                stage.rig.find(Rule::Reconcile, "it reports that all is in sync");
            }
        }
        stage.ask(&id, Ask::Delete);
    }
    stage.end()
}
