//! One operation on a workspace while it runs: what is done, what it owes, and its outcome.

use super::super::chain::Link;
use super::super::cleanup::obligation_id;
use super::super::hooks::{HookFailure, micros};
use super::super::inner::store_error;
use super::super::obligations::{POLICY, abandonment, backoff, give_up, later};
use super::Work;
use crate::crash::CommitKind;
use crate::extension::{Extension, HookCore, StepResult, WorkspaceContext};
use crate::journal::{
    Debt, DriverCall, Mark, MarkEvent, Obligation, ObligationReason, ObligationStatus, OperationOutcome, StepKey,
    StepStatus, Subject, Write,
};
use chiton_model::{Error, ExtensionName, OperationKind, Phase, Ran};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use std::sync::Arc;

impl Work {
    async fn call(&mut self, link: &Arc<Link>, phase: Phase, ran: Ran) -> Result<(), HookFailure> {
        let workspace = self.record.key.workspace.clone();
        let driver = self.inner.drivers.get(&self.record.key.driver).map(|driver| driver.capabilities());
        let Some(driver) = driver else {
            return Err(HookFailure::NotStarted("its driver is not configured".to_owned()));
        };
        let make = move |extension: Arc<dyn Extension>, core: HookCore| -> BoxFuture<'static, StepResult> {
            let cx = WorkspaceContext { core, workspace: workspace.clone(), driver: Arc::clone(&driver) };
            async move {
                match phase {
                    Phase::EnsureWorkspace => extension.ensure_workspace(&cx).await,
                    _ => extension.release_workspace(&cx, ran).await,
                }
            }
            .boxed()
        };
        self.steps.hook(link, phase, phase.is_cleanup(), make).await
    }

    /// The effects of an ensure, for the extensions from `from` on.
    pub(super) async fn ensure(mut self, from: usize, fresh: bool) -> Result<(), Error> {
        let driver = self.inner.driver(&self.record.key.driver)?;
        let workspace = self.record.key.workspace.clone();
        if fresh {
            let deadline = driver.deadlines().act;
            if let Err(error) =
                self.steps.driver(DriverCall::EnsureWorkspace, deadline, driver.ensure_workspace(&workspace)).await
            {
                return self.undo(error.into_error()).await;
            }
        }
        let names: Vec<ExtensionName> = self.record.chain[from..].iter().map(|entry| entry.name.clone()).collect();
        for name in names {
            let Some(link) = self.chain.iter().find(|link| *link.name() == name).cloned() else { continue };
            if let Err(failure) = self.call(&link, Phase::EnsureWorkspace, Ran::Completed).await {
                let message = format!(
                    "extension {:?} could not make workspace {workspace:?} ready: {}",
                    name.as_str(),
                    failure.message()
                );
                return self.undo(Error::refused(name.as_str(), message)).await;
            }
            if link.descriptor.takes_part(Phase::ReleaseWorkspace) {
                self.record.debts.push(Debt { extension: name, phase: Phase::ReleaseWorkspace, ran: Ran::Completed });
            }
        }
        self.record.ready = true;
        self.store(OperationOutcome::Succeeded, false).await
    }

    /// Undoes an ensure: whoever may have acted in it releases; the rest of the workspace stays as it was.
    pub(super) async fn undo(mut self, error: Error) -> Result<(), Error> {
        let acted: Vec<Debt> = self
            .chain
            .iter()
            .filter(|link| link.descriptor.takes_part(Phase::ReleaseWorkspace))
            .filter_map(|link| {
                let status = self.steps.status.get(&StepKey::hook(Phase::EnsureWorkspace, link.name()))?;
                let ran = match status {
                    StepStatus::Completed => Ran::Completed,
                    StepStatus::Failed => Ran::Failed,
                    StepStatus::Started | StepStatus::Maybe => Ran::Maybe,
                };
                Some(Debt { extension: link.name().clone(), phase: Phase::ReleaseWorkspace, ran })
            })
            .collect();
        for debt in acted.into_iter().rev() {
            self.pay(debt, 0).await;
        }
        // Extensions without a debt took no part that counts: the next create ensures them again.
        let owing: Vec<ExtensionName> = self.record.debts.iter().map(|debt| debt.extension.clone()).collect();
        self.record.chain.retain(|entry| owing.contains(&entry.name));
        let empty = self.record.chain.is_empty() && !self.record.ready;
        if empty && let Err(failure) = self.release_driver().await {
            // Idempotent on the driver's side: the next ensure of this workspace finds it as it is.
            tracing::warn!(workspace = %self.record.key.workspace, %failure, "the driver could not release it");
        }
        self.store(OperationOutcome::Failed(error.clone()), empty).await?;
        Err(error)
    }

    /// Pays every debt, last to first, then lets the driver release it.
    pub(super) async fn release(mut self) -> Result<(), Error> {
        for debt in self.record.debts.clone().into_iter().rev() {
            self.pay(debt, 0).await;
        }
        if let Err(error) = self.release_driver().await {
            // The row stays, so that the delete can be asked for again.
            self.store(OperationOutcome::Failed(error.clone()), false).await?;
            return Err(error.cure("delete the workspace again when the driver answers"));
        }
        let empty = self.record.debts.is_empty();
        self.store(OperationOutcome::Succeeded, empty).await
    }

    async fn release_driver(&mut self) -> Result<(), Error> {
        let driver = self.inner.driver(&self.record.key.driver)?;
        let (workspace, deadline) = (self.record.key.workspace.clone(), driver.deadlines().act);
        self.steps
            .driver(DriverCall::ReleaseWorkspace, deadline, driver.release_workspace(&workspace))
            .await
            .map_err(chiton_driver::CallError::into_error)
    }

    pub(super) async fn pay(&mut self, debt: Debt, attempts: u32) {
        let subject = Subject::Workspace(self.record.key.clone());
        let id = obligation_id(&subject.to_string(), &debt);
        let link = self.chain.iter().find(|link| *link.name() == debt.extension).cloned();
        let stuck = self.steps.still_running(&debt.extension);
        let (abandoned, local) = match &link {
            Some(link) => (false, link.descriptor.local_effects),
            None => (self.inner.policy(&debt.extension).abandon, true),
        };
        let answer = match link {
            Some(link) => self.call(&link, Phase::ReleaseWorkspace, debt.ran).await,
            None => Err(HookFailure::NotStarted("the extension is not compiled in".to_owned())),
        };
        self.record.debts.retain(|other| other.extension != debt.extension);
        // What was on its way when the gateway crashed may take hold after this release: it is called once more (rule 6a).
        let confirm = answer.is_ok() && self.steps.recovered && debt.ran == Ran::Maybe && !local;
        let now = self.inner.world.clock.now();
        let (reason, last_error, pause) = match answer {
            Ok(()) if confirm => {
                (ObligationReason::Confirming, String::new(), self.inner.policy(&debt.extension).deadline)
            }
            Ok(()) => {
                // Released: the next sandbox that wants it makes it ready anew.
                self.record.chain.retain(|entry| entry.name != debt.extension);
                if self.inner.book.has(&id) {
                    self.paid.push(id);
                }
                return;
            }
            Err(failure) if stuck => {
                (ObligationReason::HookStillRunning, failure.message(), backoff(&self.inner.world, attempts))
            }
            Err(failure) => (ObligationReason::CleanupFailed, failure.message(), backoff(&self.inner.world, attempts)),
        };
        if !abandoned {
            self.record.debts.push(debt.clone());
        }
        let opened_at = self.inner.book.get(&id).map_or(now, |listed| listed.opened_at);
        let obligation = Obligation {
            id,
            subject,
            name: self.record.key.workspace.to_string(),
            debt,
            reason,
            status: ObligationStatus::Open,
            stop_reason: None,
            failure: None,
            operation: self.op.id.clone(),
            opened_at,
            attempts: attempts + 1,
            last_error,
            next_attempt_at: later(now, pause),
            expires_at: None,
        };
        self.owed.push(if abandoned { give_up(obligation, now) } else { obligation });
    }

    /// C2.
    pub(super) async fn store(mut self, outcome: OperationOutcome, remove: bool) -> Result<(), Error> {
        self.steps.cancel.seal();
        let mut writes = self.steps.states.writes();
        if self.op.kind != OperationKind::Cleanup {
            self.op.ended_at = Some(self.inner.world.clock.now());
            self.op.outcome = Some(outcome);
            self.op.steps = std::mem::take(&mut self.steps.timings);
            self.op.total_us = micros(self.inner.world.clock.since_boot().saturating_sub(self.steps.begun));
            writes.push(Write::PutOperation(Box::new(self.op.clone())));
        }
        let released = !self.record.ready && self.record.debts.is_empty() && self.op.kind == OperationKind::Cleanup;
        if remove || released {
            writes.extend(self.steps.states.removals());
            writes.push(Write::RemoveWorkspace(self.record.key.clone()));
        } else {
            writes.push(Write::PutWorkspace(Box::new(self.record.clone())));
        }
        writes.extend(self.paid.iter().cloned().map(Write::RemoveObligation));
        writes.extend(self.owed.iter().cloned().map(|obligation| Write::PutObligation(Box::new(obligation))));
        writes.extend(self.owed.iter().filter_map(|obligation| abandonment(obligation, POLICY, &self.inner.world)));
        if self.op.kind == OperationKind::Cleanup {
            let operation = Some(OperationKind::Cleanup);
            self.inner.journal.write(CommitKind::Outcome, operation, writes).await.map_err(store_error)?;
        } else {
            self.inner.commit_outcome(&self.op, writes).await;
        }
        self.inner.book.settle(&self.paid, &self.owed, &self.inner.world);
        Ok(())
    }

    pub(super) fn replay(&mut self, marks: Option<Vec<Mark>>) {
        let Some(marks) = marks else {
            // Who has a debt on the record was made ready by an earlier operation, which this one does not undo.
            let earlier = |name: &ExtensionName| self.record.debts.iter().any(|debt| debt.extension == *name);
            for link in self.chain.iter().filter(|link| !earlier(link.name())) {
                self.steps.status.insert(StepKey::hook(Phase::EnsureWorkspace, link.name()), StepStatus::Maybe);
            }
            return;
        };
        for mark in marks.into_iter().filter(|mark| mark.operation == self.op.id) {
            match mark.event {
                MarkEvent::Step { step, status } => {
                    let status = if status == StepStatus::Started { StepStatus::Maybe } else { status };
                    self.steps.status.insert(step, status);
                }
                MarkEvent::State { extension, state } => self.steps.states.replay(&extension, state),
                MarkEvent::Slots { .. } => {}
            }
        }
    }
}
