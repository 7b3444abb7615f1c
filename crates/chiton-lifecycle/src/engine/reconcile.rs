//! Reconcile: outside state against saved state, at start-up and from time to time (rule 13).

use std::sync::Arc;

use chiton_model::condition::kinds;
use chiton_model::{ConditionStatus, Error, ExtensionName, OperationKind, Phase, Ran, SandboxId, SandboxPhase};

use super::Engine;
use super::admit::Admission;
use super::inner::{Inner, engine_principal, store_error};
use super::run::{Answer, Call, Run, operation};
use crate::crash::CommitKind;
use crate::extension::{ReconcileOutcome, ReconcileSupport};
use crate::journal::{Debt, OperationOutcome, Subject, Write};

impl Engine {
    /// One round over every sandbox and extension with state. Skips what is busy. Returns how many were looked at.
    pub async fn reconcile(&self) -> Result<usize, Error> {
        self.inner.reconcile_all().await
    }
}

impl Inner {
    pub(super) async fn reconcile_all(self: &Arc<Self>) -> Result<usize, Error> {
        let mut looked = 0;
        for (subject, extension) in self.journal.state_keys().await.map_err(store_error)? {
            let takes_part =
                self.registry.get(&extension).is_some_and(|kind| kind.descriptor().takes_part(Phase::Reconcile));
            let (Subject::Sandbox(id), true) = (&subject, takes_part) else { continue };
            if self.stop.is_cancelled() {
                break;
            }
            match self.reconcile_one(id, &extension).await {
                Ok(true) => looked += 1,
                Ok(false) => {}
                Err(error) => tracing::debug!(sandbox = %id, %extension, %error, "not reconciled now"),
            }
        }
        Ok(looked)
    }

    async fn reconcile_one(self: &Arc<Self>, id: &SandboxId, extension: &ExtensionName) -> Result<bool, Error> {
        let subject = Subject::Sandbox(id.clone());
        let Admission::Go(ticket) =
            self.table.admit(&subject, OperationKind::Reconcile, self.world.operation_id()).await?
        else {
            return Ok(false);
        };
        let sandbox = self.record(id).await?;
        self.check_held(&sandbox)?;
        if !matches!(sandbox.phase, SandboxPhase::Ready | SandboxPhase::Stopped | SandboxPhase::Completed) {
            return Ok(false);
        }
        let op = operation(self, &ticket, OperationKind::Reconcile, &engine_principal());
        let mut run = self.run(ticket, op, sandbox, String::new()).await?;
        run.reconcile(extension).await
    }
}

impl Run {
    async fn reconcile(&mut self, extension: &ExtensionName) -> Result<bool, Error> {
        let Some(link) = self.chain.iter().find(|link| link.name() == extension).cloned() else { return Ok(false) };
        let may_mend = self.inner.policy(extension).authoritative
            && link.descriptor.reconcile == ReconcileSupport::Authoritative
            && !link.entry.observe;
        let mut owes = false;
        if may_mend {
            // Effects need an intent; what they leave is paid by after_delete.
            let debt = Debt { extension: extension.clone(), phase: Phase::AfterDelete, ran: Ran::Maybe };
            if link.descriptor.takes_part(Phase::AfterDelete)
                && !self.sandbox.debts.iter().any(|old| old.extension == debt.extension && old.phase == debt.phase)
            {
                self.sandbox.debts.push(debt);
                owes = true;
            }
            self.inner.intend(&self.op, &self.sandbox, Vec::new()).await?;
        }
        self.steps.may_repair = may_mend;
        let before = self.sandbox.conditions.clone();
        let outcome = match self.call(&link, Call::Reconcile).await {
            Ok(Answer::Reconcile(outcome)) => outcome,
            Ok(_) => ReconcileOutcome::InSync,
            Err(failure) => ReconcileOutcome::Failed(failure.message()),
        };
        let ran = self.ran(extension, &[Phase::Reconcile]);
        if let (true, Some(ran)) = (owes, ran) {
            let own = |debt: &&mut Debt| debt.extension == *extension && debt.phase == Phase::AfterDelete;
            self.sandbox.debts.iter_mut().filter(own).for_each(|debt| debt.ran = ran);
        }
        if self.steps.cancel.cause().is_some() {
            // It gave way: that says nothing about the outside, it runs again later.
            self.end_reconcile(may_mend, false).await?;
            return Ok(false);
        }
        let (status, reason, message) = match outcome {
            ReconcileOutcome::InSync => (ConditionStatus::False, "InSync", String::new()),
            ReconcileOutcome::Drift(report) => (ConditionStatus::True, "Drift", report),
            ReconcileOutcome::Repaired(report) if may_mend => (ConditionStatus::False, "Repaired", report),
            ReconcileOutcome::Repaired(report) => (
                ConditionStatus::True,
                "RepairedWithoutLeave",
                format!("it changed something and may only report: {report}"),
            ),
            ReconcileOutcome::Failed(error) => (ConditionStatus::Unknown, "Failed", error),
        };
        let known = before.iter().any(|condition| condition.kind == kinds::EXTENSION_DRIFT);
        if known || status != ConditionStatus::False {
            self.condition(kinds::EXTENSION_DRIFT, status, reason, format!("extension {extension:?}: {message}"));
        }
        self.end_reconcile(may_mend, self.sandbox.conditions != before).await?;
        Ok(true)
    }

    async fn end_reconcile(&mut self, intended: bool, changed: bool) -> Result<(), Error> {
        self.steps.cancel.seal();
        let mut writes = self.steps.states.writes();
        if intended {
            self.op.ended_at = Some(self.inner.world.clock.now());
            self.op.outcome = Some(OperationOutcome::Succeeded);
            self.op.steps = std::mem::take(&mut self.steps.timings);
            writes.push(Write::PutOperation(Box::new(self.op.clone())));
        }
        if changed || intended {
            // A change without an intent is a condition: that it is lost when the store fails is no harm.
            writes.push(Write::PutSandbox(Box::new(self.sandbox.clone())));
        }
        if intended {
            self.inner.commit_outcome(&self.op, writes).await;
            self.over();
            return Ok(());
        }
        if writes.is_empty() {
            return Ok(());
        }
        let operation = Some(OperationKind::Reconcile);
        self.inner.journal.write(CommitKind::Outcome, operation, writes).await.map_err(store_error)?;
        if changed {
            self.over();
        }
        Ok(())
    }

    /// Told only when it is over: whoever looks then must not find it still running.
    fn over(&mut self) {
        self.ticket.release();
        self.inner.changed(&self.sandbox);
    }
}
