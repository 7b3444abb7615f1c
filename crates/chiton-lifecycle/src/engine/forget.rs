//! A forced delete of a sandbox whose driver is not configured any more (rule 12).
//!
//! Nobody can ask its platform for anything, so absence cannot be confirmed, and what is released only after absence is
//! confirmed is not released: no hook is called. The row goes at once. What its extensions owe is given up and stays
//! listed for a while; what may be left on the platform is said to the caller and audited. When the driver is back, an
//! object that was left is one without an owner, and the sweep deletes it.

use std::sync::Arc;

use chiton_model::condition::kinds;
use chiton_model::{Condition, ConditionStatus, Error, OperationKind, Phase, Ran, SandboxPhase, StopReason, condition};

use super::admit::Ticket;
use super::cleanup::obligation_id;
use super::inner::{Inner, store_error};
use super::obligations::{abandonment, give_up};
use super::requests::Claim;
use super::run::operation;
use super::{Accepted, Request};
use crate::crash::{CommitKind, Deed, crash_point};
use crate::journal::{
    AuditRecord, Commit, Debt, Obligation, ObligationReason, ObligationStatus, OperationOutcome, SandboxRecord, Write,
};
use crate::runtime::LifecycleEvent;

const ACTION: &str = "sandbox.forget";

impl Inner {
    /// Whether a delete can only forget the row: its driver is not there.
    pub(super) fn can_only_forget(&self, sandbox: &SandboxRecord, force: bool) -> bool {
        !self.drivers.contains_key(&sandbox.driver) && (force || is_spent(sandbox))
    }

    /// Removes the row and says what may be left.
    pub(super) async fn forget(
        self: &Arc<Self>,
        ticket: Ticket,
        request: &Request,
        mut sandbox: SandboxRecord,
        claim: &Claim,
    ) -> Result<Accepted, Error> {
        let (now, subject) = (self.world.clock.now(), sandbox.subject());
        let mut op = operation(self, &ticket, OperationKind::Delete, &request.principal);
        op.stop_reason = Some(StopReason::Deleting);
        op.ended_at = Some(now);
        op.outcome = Some(OperationOutcome::Succeeded);
        let mut writes = claim.writes(self, Some(&op.id), &sandbox);
        let interrupted = self.journal.operations(&subject).await.map_err(store_error)?;
        for old in interrupted.into_iter().filter(|old| old.outcome.is_none()) {
            if old.kind == OperationKind::Create {
                self.owe_a_create(&mut sandbox);
            }
            writes.push(self.take_over(old, &mut sandbox));
        }
        let spent = is_spent(&sandbox);
        let message = left(&sandbox);
        let given_up: Vec<Obligation> = sandbox
            .debts
            .iter()
            .map(|debt| {
                let id = obligation_id(&subject.to_string(), debt);
                let listed = self.book.get(&id);
                give_up(
                    Obligation {
                        id,
                        subject: subject.clone(),
                        name: sandbox.name.to_string(),
                        debt: debt.clone(),
                        reason: ObligationReason::CleanupFailed,
                        status: ObligationStatus::Open,
                        stop_reason: None,
                        failure: None,
                        operation: op.id.clone(),
                        opened_at: listed.as_ref().map_or(now, |listed| listed.opened_at),
                        attempts: listed.map_or(0, |listed| listed.attempts),
                        last_error: format!("driver {:?} is not configured", sandbox.driver.as_str()),
                        next_attempt_at: now,
                        expires_at: None,
                    },
                    now,
                )
            })
            .collect();
        writes.extend(
            given_up.iter().filter_map(|obligation| abandonment(obligation, &request.principal.subject, &self.world)),
        );
        writes.extend(given_up.iter().map(|obligation| Write::PutObligation(Box::new(obligation.clone()))));
        if !spent {
            writes.push(Write::Audit(Box::new(AuditRecord {
                at: now,
                action: ACTION.to_owned(),
                subject: sandbox.id.to_string(),
                by: request.principal.subject.clone(),
                message: message.clone(),
            })));
        }
        writes.push(Write::RemoveSandbox(sandbox.id.clone()));
        writes.push(Write::PutOperation(Box::new(op.clone())));
        let commit = Commit { number: op.commit, checks: Vec::new(), writes };
        self.journal.commit(CommitKind::Decision, None, commit).await.map_err(store_error)?;
        self.held.lock().remove(&subject);
        crash_point!(self.world.points, Before, None, Deed::AgentClosed);
        self.world.agents.close(&sandbox.id).await;
        crash_point!(self.world.points, After, None, Deed::AgentClosed);
        self.book.settle_by(&request.principal.subject, &[], &given_up, &self.world);
        self.world.audience.tell(LifecycleEvent::Removed(sandbox.id.clone()));
        sandbox.phase = SandboxPhase::Deleted;
        sandbox.name_held = false;
        if !spent {
            let (subject, by) = (sandbox.id.to_string(), request.principal.subject.clone());
            self.world.audience.tell(LifecycleEvent::Audit { action: ACTION, subject, by, message: message.clone() });
            let (kind, reason) = (kinds::OBJECT_LEFT.to_owned(), "DriverMissing".to_owned());
            let left = Condition { kind, status: ConditionStatus::True, reason, message, last_transition: now };
            condition::set(&mut sandbox.conditions, left);
        }
        Ok(Accepted { sandbox, operation: Some(op.id) })
    }

    /// What a create that never ended may owe: whoever takes part in it may have acted.
    fn owe_a_create(&self, sandbox: &mut SandboxRecord) {
        let present = |entry: &&crate::journal::ChainEntry, phase| {
            self.registry.get(&entry.name).is_none_or(|kind| kind.descriptor().takes_part(phase))
        };
        for phase in [Phase::OnCreateFailed, Phase::AfterStop] {
            let acted: Vec<Debt> = sandbox
                .chain
                .iter()
                .filter(|entry| !entry.observe && present(entry, phase))
                .map(|entry| Debt { extension: entry.name.clone(), phase, ran: Ran::Maybe })
                .collect();
            sandbox.debts.extend(acted);
        }
    }
}

/// A row that stands for nothing any more.
fn is_spent(sandbox: &SandboxRecord) -> bool {
    matches!(sandbox.phase, SandboxPhase::Error | SandboxPhase::Deleted) && sandbox.debts.is_empty()
}

/// What may be left, for people.
fn left(sandbox: &SandboxRecord) -> String {
    let (driver, backend) = (sandbox.driver.as_str(), &sandbox.backend);
    let absent = matches!(sandbox.phase, SandboxPhase::Error | SandboxPhase::Deleted);
    let object = if absent {
        "its object was gone before".to_owned()
    } else {
        format!(
            "its object {} may still be there and run on {backend}: end it there by hand, or configure the driver again and the sweep deletes it",
            sandbox.id
        )
    };
    let mut names: Vec<&str> = sandbox.debts.iter().map(|debt| debt.extension.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let owed = if names.is_empty() {
        String::new()
    } else {
        format!("; what these extensions hold for it was not released and is listed as given up: {}", names.join(", "))
    };
    format!(
        "sandbox {:?} was removed from the store only, because driver {driver:?} is not configured: {object}{owed}",
        sandbox.name.as_str()
    )
}
