//! Delete. Cannot be vetoed and does not fail: it goes on until absence is confirmed.

use std::sync::Arc;

use chiton_driver::ObservedStatus;
use chiton_model::condition::{holds, kinds};
use chiton_model::{Error, ExtensionName, OperationKind, Phase, Ran, SandboxId, SandboxPhase, StopReason};
use serde_json::json;

use super::admit::{Admission, Ticket};
use super::cleanup::Why;
use super::inner::{Inner, store_error};
use super::requests::{Claim, Claimed};
use super::run::{Call, Run, operation};
use super::{Accepted, Engine, Request};
use crate::crash::CommitKind;
use crate::journal::{ChainEntry, Debt, DriverCall, OperationOutcome, OperationRecord, SandboxRecord, Subject, Write};

impl Engine {
    /// Deletes a sandbox and everything that belongs to it. `force` also deletes one that is held.
    pub async fn delete(&self, request: Request, id: SandboxId, force: bool) -> Result<Accepted, Error> {
        let inner = Arc::clone(&self.inner);
        self.inner.owned(async move { inner.delete(request, id, force).await }).await
    }
}

impl Inner {
    async fn delete(self: &Arc<Self>, request: Request, id: SandboxId, force: bool) -> Result<Accepted, Error> {
        self.check_open()?;
        let claim = match self.claim(&request, "delete", &json!({ "sandbox": id, "force": force })).await? {
            Claimed::Fresh(claim) => claim,
            Claimed::Repeat(accepted) => return Ok(*accepted),
        };
        let subject = Subject::Sandbox(id.clone());
        // What a caller is told whose delete another operation carries out: the row may be gone by the time it is.
        let known = self.record(&id).await?;
        let ticket = match self.table.admit(&subject, OperationKind::Delete, self.world.operation_id()).await? {
            Admission::Go(ticket) => ticket,
            Admission::Joined(operation) => {
                return self.answer(&claim, known, Some(operation)).await;
            }
            Admission::Unwinding(create, cancel) => {
                // The create is being undone on our behalf; that must survive a crash too.
                let _recording = cancel.record.lock().await;
                let op = self.journal.operation(&create).await.map_err(store_error)?;
                let mut writes = claim.writes(self, Some(&create), &known);
                if let Some(mut op) = op.filter(|op| op.outcome.is_none()) {
                    op.deleted = true;
                    writes.push(Write::PutOperation(Box::new(op)));
                }
                if !writes.is_empty() {
                    self.journal.write(CommitKind::Request, None, writes).await.map_err(store_error)?;
                }
                return Ok(Accepted { sandbox: known, operation: Some(create) });
            }
        };
        let mut sandbox = self.record(&id).await?;
        let held = self.check_held(&sandbox);
        if !force || sandbox.epoch != self.journal.info().epoch {
            // Not even by force: an object of another life of the store may be another store's.
            held.clone()?;
        }
        if self.can_only_forget(&sandbox, force) {
            return self.forget(ticket, &request, sandbox, &claim).await;
        }
        let mut interrupted = None;
        if held.is_err() {
            let operations = self.journal.operations(&subject).await.map_err(store_error)?;
            let open = operations.into_iter().rfind(|old| old.outcome.is_none());
            match open {
                Some(create) if create.kind == OperationKind::Create => {
                    return self.unwind_held(ticket, create, sandbox, &claim).await;
                }
                Some(other) => interrupted = Some(self.take_over(other, &mut sandbox)),
                None => {}
            }
        }
        let mut op = operation(self, &ticket, OperationKind::Delete, &request.principal);
        op.stop_reason = Some(StopReason::Deleting);
        // A row without an object pays only what is still open.
        let absent = matches!(sandbox.phase, SandboxPhase::Error | SandboxPhase::Deleted);
        if !absent {
            sandbox.phase = SandboxPhase::Deleting;
        }
        sandbox.updated_at = self.world.clock.now();
        let mut run = self.run_with(ticket, op, sandbox.clone(), String::new(), held.is_err()).await?;
        let mut writes = claim.writes(self, Some(&run.op.id), &sandbox);
        writes.extend(interrupted);
        self.intend(&run.op, &sandbox, writes).await?;
        run.ticket.intended();
        self.held.lock().remove(&subject);
        run.sandbox = sandbox.clone();
        let accepted = Accepted { sandbox, operation: Some(run.op.id.clone()) };
        self.world.executor.spawn(Box::pin(run.delete(absent)));
        Ok(accepted)
    }
}

impl Inner {
    /// A forced delete of a held sandbox ends the operation that recovery could not go on with.
    pub(super) fn take_over(&self, mut old: OperationRecord, sandbox: &mut SandboxRecord) -> Write {
        if old.kind == OperationKind::Start {
            // Whoever takes part in a start may have acted, and so may whoever is not there to say.
            let cleans = |name: &ExtensionName| {
                self.registry.get(name).is_none_or(|kind| kind.descriptor().takes_part(Phase::AfterStop))
            };
            let owes = |name: &ExtensionName| {
                sandbox.debts.iter().any(|debt| debt.extension == *name && debt.phase == Phase::AfterStop)
            };
            let acted =
                sandbox.chain.iter().filter(|entry| !entry.observe && cleans(&entry.name) && !owes(&entry.name));
            let debt =
                |entry: &ChainEntry| Debt { extension: entry.name.clone(), phase: Phase::AfterStop, ran: Ran::Maybe };
            let debts: Vec<Debt> = acted.map(debt).collect();
            sandbox.debts.extend(debts);
        }
        old.ended_at = Some(self.world.clock.now());
        old.outcome = Some(OperationOutcome::Failed(Error::conflict("a forced delete took its place")));
        Write::PutOperation(Box::new(old))
    }

    /// A forced delete of a held create that never ended: it is undone, by whoever of its chain is there.
    async fn unwind_held(
        self: &Arc<Self>,
        ticket: Ticket,
        mut op: OperationRecord,
        sandbox: SandboxRecord,
        claim: &Claim,
    ) -> Result<Accepted, Error> {
        op.deleted = true;
        let mut writes = vec![Write::PutOperation(Box::new(op.clone()))];
        writes.extend(claim.writes(self, Some(&op.id), &sandbox));
        let accepted = Accepted { sandbox: sandbox.clone(), operation: Some(op.id.clone()) };
        let mut run = self.run_with(ticket, op, sandbox, String::new(), true).await?;
        run.steps.recovered = true;
        run.replay(None);
        self.journal.write(CommitKind::Request, None, writes).await.map_err(store_error)?;
        run.ticket.intended();
        self.held.lock().remove(&accepted.sandbox.subject());
        self.world.executor.spawn(Box::pin(run.resume()));
        Ok(accepted)
    }
}

impl Run {
    /// Everything after C1. `absent`: there was no object when it began.
    pub(super) async fn delete(mut self, absent: bool) {
        let why = Why::Stopped(StopReason::Deleting);
        if absent {
            return self.pay_remains().await;
        }
        let mut stopped = true;
        if !self.open_debts(Phase::AfterStop).is_empty() || self.reported_running().await {
            self.announce(|| Call::BeforeStop(StopReason::Deleting)).await;
            // A start that may still land is only over with the object.
            stopped = self.stop_confirmed().await.is_ok() && !holds(&self.sandbox.conditions, kinds::STOP_UNCONFIRMED);
            if stopped {
                let debts = self.open_debts(Phase::AfterStop);
                self.pay(debts, &why).await;
            }
        }
        self.announce(|| Call::BeforeDelete).await;
        self.delete_until_absent().await;
        // Absence is confirmed: the name is free, even while debts are open.
        self.inner.released.lock().insert(self.sandbox.id.clone());
        if !stopped {
            let debts = self.open_debts(Phase::AfterStop);
            self.pay(debts, &why).await;
        }
        let debts = self.open_debts(Phase::AfterDelete);
        self.pay(debts, &Why::Deleted).await;
        self.end_delete().await;
    }

    /// Pays what a row without an object still owes.
    async fn pay_remains(mut self) {
        let stops = self.open_debts(Phase::AfterStop);
        self.pay(stops, &Why::Stopped(StopReason::Deleting)).await;
        let failure = self.sandbox.failure.clone().unwrap_or(chiton_model::CreateFailure {
            step: "deleted".to_owned(),
            extension: None,
            cause: "the row is being deleted".to_owned(),
        });
        let creates = self.open_debts(Phase::OnCreateFailed);
        self.pay(creates, &Why::Failed(Arc::new(failure))).await;
        let deletes = self.open_debts(Phase::AfterDelete);
        self.pay(deletes, &Why::Deleted).await;
        self.end_delete().await;
    }

    async fn end_delete(mut self) {
        self.steps.cancel.seal();
        self.sandbox.phase = SandboxPhase::Deleted;
        self.sandbox.name_held = false;
        self.exited = None;
        self.finish(OperationOutcome::Succeeded, true).await;
    }

    /// Whether the driver says that it runs; when it cannot say, it may.
    async fn reported_running(&self) -> bool {
        let driver = Arc::clone(&self.driver);
        match self.inner.look(&driver, driver.get(&self.sandbox.id)).await {
            Ok(Some(observed)) => matches!(observed.status, ObservedStatus::Running),
            Ok(None) => false,
            Err(_) => true,
        }
    }

    /// A delete that a crash interrupted goes on: what its marks show as paid is not called again.
    pub(super) async fn resume_delete(self) {
        let absent = matches!(self.sandbox.phase, SandboxPhase::Error | SandboxPhase::Deleted);
        debug_assert!(self.steps.recovered, "only recovery resumes");
        tracing::info!(sandbox = %self.sandbox.id, begun = self.may_have(DriverCall::Delete), "a delete goes on");
        Box::pin(self.delete(absent)).await;
    }
}
