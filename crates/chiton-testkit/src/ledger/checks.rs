//! The balance: effects = owned by a live row ∪ undone ∪ listed as an obligation.

use std::collections::{BTreeMap, BTreeSet};

use chiton_lifecycle::journal::{Obligation, SandboxRecord, Subject, WorkspaceRecord};
use chiton_model::condition::{holds, kinds};
use chiton_model::{SandboxId, SandboxPhase};

use super::{Effect, Ledger, What};
use crate::driver::ObjectView;

/// What the store and the platforms say at the end.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    /// All rows.
    pub rows: BTreeMap<SandboxId, SandboxRecord>,
    /// All workspace rows.
    pub workspaces: Vec<WorkspaceRecord>,
    /// All obligations.
    pub obligations: Vec<Obligation>,
    /// All objects of all platforms.
    pub objects: BTreeMap<SandboxId, ObjectView>,
    /// Marks could be trusted in every life, so that nobody known not to have started may be called.
    pub marks_kept: bool,
}

/// Phases in which a row owns its object and its extensions' effects.
fn lives(phase: SandboxPhase) -> bool {
    !matches!(phase, SandboxPhase::Deleted | SandboxPhase::Error)
}

fn runs(phase: SandboxPhase) -> bool {
    matches!(phase, SandboxPhase::Ready | SandboxPhase::Starting | SandboxPhase::Provisioning | SandboxPhase::Stopping)
}

/// The row says that its stop is not confirmed: what may still run keeps what it was given.
fn unconfirmed(row: &SandboxRecord) -> bool {
    holds(&row.conditions, kinds::STOP_UNCONFIRMED)
}

impl Ledger {
    /// Every effect is owned by a live row, was undone, or is listed as an obligation. To be asked once all is quiet.
    pub fn balance(&self, truth: &Truth) -> Result<(), String> {
        for ((extension, key), subject) in self.held() {
            let owed = truth
                .obligations
                .iter()
                .any(|obligation| obligation.subject == subject && obligation.debt.extension == extension);
            let slot = key.rsplit('/').next().unwrap_or_default();
            let has_owner = match &subject {
                Subject::Sandbox(id) => truth.rows.get(id).is_some_and(|row| match slot {
                    "start" | "ready" => runs(row.phase) || unconfirmed(row),
                    _ => lives(row.phase),
                }),
                Subject::Workspace(workspace) => truth.workspaces.iter().any(|row| row.key == *workspace && row.ready),
            };
            if !has_owner && !owed {
                return Err(format!("{extension} holds {key}: no live row owns it and no obligation lists it"));
            }
        }
        for (id, object) in &truth.objects {
            let Some(row) = truth.rows.get(id) else {
                return Err(format!("object {id} ({:?}) has no row", object.status));
            };
            if !lives(row.phase) {
                return Err(format!("object {id} exists although its row is {}", row.phase));
            }
            if object.running() && !runs(row.phase) && !unconfirmed(row) {
                return Err(format!("object {id} runs although its row is {}", row.phase));
            }
        }
        let lost = self.lost();
        for (id, row) in &truth.rows {
            let object = truth.objects.get(id);
            if row.phase == SandboxPhase::Ready && !object.is_some_and(ObjectView::running) {
                return Err(format!("row {id} is Ready and its object does not run"));
            }
            if matches!(row.phase, SandboxPhase::Stopped | SandboxPhase::Completed)
                && object.is_none()
                && !lost.contains(id)
            {
                return Err(format!("row {id} is {} and its object is gone", row.phase));
            }
        }
        Ok(())
    }

    /// Objects that somebody removed behind the gateway's back.
    fn lost(&self) -> BTreeSet<SandboxId> {
        let lost = |entry| match entry {
            What::Effect { sandbox, effect: Effect::Lost, .. } => Some(sandbox),
            _ => None,
        };
        self.entries().into_iter().filter_map(|entry| lost(entry.what)).collect()
    }

    /// Every check that holds in every history. The first that does not is told with the whole ledger.
    pub fn check(&self, truth: &Truth) -> Result<(), String> {
        let violations = self.violations();
        let contracts = if violations.is_empty() { Ok(()) } else { Err(violations.join("; ")) };
        let escaped = match self.world().escaped_panics() {
            0 => Ok(()),
            n => Err(format!("{n} panics of hooks reached the executor")),
        };
        let started = if truth.marks_kept { self.nothing_unstarted_is_cleaned() } else { Ok(()) };
        let checks = [
            ("contracts", contracts),
            ("panics are contained", escaped),
            ("intent before effect", self.intent_before_effect()),
            ("nothing after the outcome", self.nothing_after_outcome()),
            ("no release before absence", self.no_release_before_absence()),
            ("reverse cleanup order", self.reverse_cleanup_order()),
            ("no overlap", self.no_overlap()),
            ("what cleanups are told is true", self.ran_is_true()),
            ("nothing unstarted is cleaned", started),
            ("only the frozen chain", self.only_the_frozen_chain_is_called()),
            ("one operation at a time", self.one_operation_at_a_time()),
            ("never made again", self.never_recreated()),
            ("only the listed is retried", self.only_the_listed_is_retried()),
            ("only its owner removes", self.only_owners_remove()),
            ("balance", self.balance(truth)),
        ];
        for (name, outcome) in checks {
            outcome.map_err(|why| format!("{name}: {why}\n{}", self.render()))?;
        }
        Ok(())
    }
}
