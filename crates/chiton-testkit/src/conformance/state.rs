//! Saved state: read back by who wrote it, by later versions that say so, and never needed.

use std::time::Duration;

use chiton_lifecycle::journal::ExtensionState;
use chiton_model::{Phase, SandboxId};
use serde_json::Value;

use super::Rule;
use super::faults::actions;
use super::kit::{Found, Kit};
use super::rig::{Fault, Ill, Moment};
use super::stage::{Ask, Setting, Stage};

/// A life in which every hook finds what an earlier process saved.
fn life(stage: &mut Stage, id: &SandboxId) -> Option<()> {
    stage.reconcile(id)?;
    stage.ask(id, Ask::Stop)?;
    stage.rise().then_some(())?;
    stage.ask(id, Ask::Start)?;
    stage.rise().then_some(())?;
    stage.lab.advance(Duration::from_mins(1));
    stage.ask(id, Ask::Delete)
}

/// What was saved is read back by the same version; older versions' states, too, where it says so.
pub(super) fn round_trip(kit: &Kit) -> Found {
    let mut found = Found::default();
    let mut stage = kit.stage(&Setting::default(), "it read what it saved, in another process");
    if stage.start()
        && let Some(id) = stage.create_well("one")
        && stage.rise()
    {
        life(&mut stage, &id);
    }
    found.add(stage.end());
    for version in &kit.kind().descriptor().reads_schemas {
        found.add(older(kit, *version));
    }
    found
}

/// State as an older version saved it.
fn older(kit: &Kit, version: u32) -> (Vec<super::Finding>, Option<String>) {
    let mut stage = kit.stage(&Setting::default(), &format!("it read state of schema version {version}"));
    let sample = stage.bench.old_states.iter().find(|(of, _)| *of == version).map(|(_, payload)| payload.clone());
    let Some(payload) = sample else {
        let what = "reads_schemas names it, and the bench has no sample: Bench::old_state(version, payload)";
        stage.rig.find(Rule::State, what);
        return stage.rig.take();
    };
    if stage.start()
        && let Some(id) = stage.create_well("one")
    {
        stage.lab.crash();
        replace(&stage, &id, version, payload);
        if stage.start() {
            life(&mut stage, &id);
        }
    }
    stage.end()
}

fn replace(stage: &Stage, id: &SandboxId, version: u32, payload: Value) {
    let saved = ExtensionState { schema_version: version, payload };
    stage.lab.journal().put_state(&Stage::subject(id), stage.rig.extension(), saved);
}

/// State of a version that nobody knows stops the start, and no hook sees it.
pub(super) fn unknown(kit: &Kit) -> Found {
    let mut found = Found::default();
    let mut stage = kit.stage(&Setting::default(), "its state was of a schema version that it does not name");
    if stage.start()
        && let Some(id) = stage.create_well("one")
    {
        let own = (Stage::subject(&id), stage.rig.extension().clone());
        stage.lab.crash();
        if let Some(saved) = stage.lab.journal().states().get(&own).cloned() {
            replace(&stage, &id, u32::MAX, saved.payload.clone());
            if stage.lab.try_start().is_ok() {
                stage.rig.find(Rule::State, "the gateway starts as if it could be read");
            } else {
                replace(&stage, &id, saved.schema_version, saved.payload);
                stage.start();
            }
        } else {
            stage.start();
        }
    }
    found.add(stage.end());
    found
}

/// Cleanup without state, in a life in which nothing else goes wrong and in those in which the action fails.
pub(super) fn cleanup_without_state(kit: &Kit, phase: Phase) -> Found {
    let mut found = Found::default();
    let failing = actions(phase).iter().filter(|action| kit.kind().descriptor().takes_part(**action));
    for action in std::iter::once(None).chain(failing.map(Some)) {
        let mut stage = kit.stage(&Setting::default(), "");
        if let Some(action) = action {
            stage.rig.arm(Fault { phase: *action, nth: 2, moment: Moment::After, ill: Ill::Fail });
        }
        stage.rig.place(match action {
            Some(action) => format!("{phase} was called with its state withheld, after {action} had failed"),
            None => format!("{phase} was called with its state withheld"),
        });
        stage.rig.withhold([phase]);
        if stage.start() {
            stage.play();
        }
        found.add(stage.end());
    }
    found
}
