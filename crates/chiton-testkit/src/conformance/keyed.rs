//! By id, not by name: two sandboxes of one name, at once in two workspaces and one after the other in one.

use std::collections::BTreeSet;
use std::time::Duration;

use chiton_lifecycle::journal::OperationOutcome;
use chiton_model::{Phase, SandboxId, WorkspaceName};

use super::Rule;
use super::kit::{Found, Kit};
use super::rig::{Fault, Ill, Moment};
use super::stage::{Ask, Setting, Stage};

pub(super) fn by_id(kit: &Kit) -> Found {
    let mut found = Found::default();
    found.add(at_once(kit));
    found.add(one_after_the_other(kit));
    found
}

fn missing(stage: &Stage, whose: &BTreeSet<String>) -> Vec<String> {
    let now = stage.rig.held();
    whose.difference(&now).cloned().collect()
}

/// Both must hold as much, and the end of one must not touch the other.
fn pair(stage: &Stage, first: &SandboxId, second: &SandboxId) {
    let of = |id: &SandboxId| stage.rig.of(&Stage::subject(id));
    let (one, other) = (of(first), of(second));
    if one.len() != other.len() {
        let what = format!("the first of two sandboxes of one name holds {one:?}, the second {other:?}");
        stage.rig.find(Rule::Keyed, what);
    }
    stage.ask(first, Ask::Delete);
    stage.lab.advance(Duration::from_mins(1));
    let gone = missing(stage, &other);
    if !gone.is_empty() {
        stage.rig.find(Rule::Keyed, format!("{gone:?} of {second} went with another sandbox of the same name"));
    }
    stage.ask(second, Ask::Delete);
}

fn at_once(kit: &Kit) -> (Vec<super::Finding>, Option<String>) {
    let mut stage = kit.stage(&Setting::default(), "two sandboxes of one name, in two workspaces");
    if stage.start() {
        let workspace = |name: &str| WorkspaceName::new(name).expect("a valid name");
        let first = stage.create_in(&workspace("kit"), "twin");
        let second = stage.create_in(&workspace("kit-other"), "twin");
        match (first, second) {
            (Some((first, OperationOutcome::Succeeded)), Some((second, OperationOutcome::Succeeded))) => {
                pair(&stage, &first, &second);
            }
            (_, Some((_, OperationOutcome::Failed(error)))) | (Some((_, OperationOutcome::Failed(error))), _) => {
                stage.rig.find(Rule::Keyed, format!("one of them cannot be created: {error}"));
            }
            _ => {}
        }
    }
    stage.end()
}

/// The cleanup of the first comes late, when the second lives.
fn one_after_the_other(kit: &Kit) -> (Vec<super::Finding>, Option<String>) {
    let mut stage = kit.stage(&Setting::default(), "");
    stage.rig.arm(Fault { phase: Phase::AfterDelete, nth: 1, moment: Moment::Before, ill: Ill::Fail });
    stage.rig.place("a sandbox got the name of a deleted one whose after_delete was still owed");
    if stage.start()
        && let Some(first) = stage.create_well("twin")
    {
        stage.ask(&first, Ask::Delete);
        if let Some(second) = stage.create_well("twin") {
            let held = stage.rig.of(&Stage::subject(&second));
            stage.lab.advance(Duration::from_mins(10));
            let gone = missing(&stage, &held);
            if !gone.is_empty() {
                let what = format!("{gone:?} of {second} went with the late cleanup of {first}");
                stage.rig.find(Rule::Keyed, what);
            }
        }
    }
    stage.end()
}
