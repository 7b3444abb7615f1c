//! Workspaces: made ready before their first sandbox on a driver, released when the last is gone.

use std::sync::Arc;

use chiton_model::{Error, ExtensionName, OperationKind, Phase, Principal, Ran, WorkspaceName};
use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::Engine;
use super::admit::{Admission, Ticket};
use super::chain::Link;
use super::cleanup::obligation_id;
use super::hooks::{HookFailure, Steps, micros};
use super::inner::{Inner, engine_principal, store_error};
use super::obligations::{abandonment, backoff, give_up, later};
use super::prepare::Prepared;
use super::run::operation;
use super::states::States;
use crate::crash::CommitKind;
use crate::extension::{Extension, HookCore, StepResult, WorkspaceContext};
use crate::journal::{
    Check, Commit, Debt, DriverCall, Mark, MarkEvent, Obligation, ObligationReason, ObligationStatus, OperationOutcome,
    OperationRecord, StepKey, StepStatus, Subject, WorkspaceKey, WorkspaceRecord, Write,
};

/// An operation on a workspace.
struct Work {
    inner: Arc<Inner>,
    steps: Steps,
    op: OperationRecord,
    record: WorkspaceRecord,
    chain: Vec<Arc<Link>>,
    paid: Vec<String>,
    owed: Vec<Obligation>,
    ticket: Ticket,
}

impl Engine {
    /// Releases a workspace on every driver. Refused while a sandbox row refers to it.
    pub async fn delete_workspace(&self, principal: Principal, workspace: WorkspaceName) -> Result<(), Error> {
        let inner = Arc::clone(&self.inner);
        self.inner.owned(async move { inner.delete_workspace(&principal, &workspace).await }).await
    }
}

impl Inner {
    /// Makes a workspace ready for a chain, if it is not.
    pub(super) async fn ensure_workspace(
        self: &Arc<Self>,
        workspace: &WorkspaceName,
        prepared: &Prepared,
        principal: &Principal,
    ) -> Result<(), Error> {
        let key = WorkspaceKey { workspace: workspace.clone(), driver: prepared.driver.capabilities().id.clone() };
        let wanted: Vec<_> = prepared
            .chain
            .iter()
            .filter(|entry| {
                !entry.observe
                    && self
                        .registry
                        .get(&entry.name)
                        .is_some_and(|kind| kind.descriptor().takes_part(Phase::EnsureWorkspace))
            })
            .cloned()
            .collect();
        let subject = Subject::Workspace(key.clone());
        loop {
            let row = self.workspace(&key).await?;
            let covers = |row: &WorkspaceRecord| {
                row.ready && wanted.iter().all(|entry| row.chain.iter().any(|old| old.name == entry.name))
            };
            if row.as_ref().is_some_and(covers) {
                return Ok(());
            }
            self.check_held_workspace(&key)?;
            let ticket =
                match self.table.admit(&subject, OperationKind::EnsureWorkspace, self.world.operation_id()).await? {
                    Admission::Go(ticket) => ticket,
                    Admission::Joined(operation) | Admission::Unwinding(operation, _) => {
                        if let Some(done) = self.table.done(&operation) {
                            done.cancelled().await;
                        }
                        continue;
                    }
                };
            // It may have become ready while this waited.
            let row = self.workspace(&key).await?;
            if row.as_ref().is_some_and(covers) {
                return Ok(());
            }
            if let Some(row) = &row
                && self.book.of(&subject).iter().any(|obligation| obligation.status == ObligationStatus::Open)
            {
                self.settle_releases(ticket, row.clone()).await?;
                continue;
            }
            let missing: Vec<_> = wanted
                .iter()
                .filter(|entry| !row.as_ref().is_some_and(|row| row.chain.iter().any(|old| old.name == entry.name)))
                .cloned()
                .collect();
            let configs = prepared
                .configs
                .iter()
                .map(|(digest, document)| Write::PutConfig { digest: digest.clone(), document: document.clone() });
            return self.make_ready(ticket, key, row, missing, configs.collect(), principal).await;
        }
    }

    /// Pays what an earlier release or undone ensure still owes: nobody may release a workspace that was made ready since.
    async fn settle_releases(self: &Arc<Self>, ticket: Ticket, row: WorkspaceRecord) -> Result<(), Error> {
        let subject = Subject::Workspace(row.key.clone());
        let op = operation(self, &ticket, OperationKind::Cleanup, &engine_principal());
        let mut owed: Vec<Obligation> = self.book.of(&subject);
        owed.retain(|obligation| obligation.status == ObligationStatus::Open);
        owed.sort_by_key(|obligation| row.chain.iter().position(|entry| entry.name == obligation.debt.extension));
        let mut work = self.work(ticket, op, row).await?;
        for obligation in owed.into_iter().rev() {
            work.pay(obligation.debt, obligation.attempts).await;
        }
        let unpaid = work.owed.iter().find(|obligation| obligation.status == ObligationStatus::Open).cloned();
        work.store(OperationOutcome::Succeeded, false).await?;
        match unpaid {
            None => Ok(()),
            Some(obligation) => Err(Error::conflict(format!(
                "extension {:?} still owes the release of workspace {:?} (obligation {}): {}",
                obligation.debt.extension.as_str(),
                obligation.name,
                obligation.id,
                obligation.last_error
            ))
            .cure(format!(
                "wait for its retry, or close it by hand: chiton obligations discharge {} --force",
                obligation.id
            ))),
        }
    }

    pub(super) async fn workspace(&self, key: &WorkspaceKey) -> Result<Option<WorkspaceRecord>, Error> {
        let rows = self.journal.workspaces().await.map_err(store_error)?;
        Ok(rows.into_iter().find(|row| row.key == *key))
    }

    async fn make_ready(
        self: &Arc<Self>,
        ticket: Ticket,
        key: WorkspaceKey,
        row: Option<WorkspaceRecord>,
        missing: Vec<crate::journal::ChainEntry>,
        mut writes: Vec<Write>,
        principal: &Principal,
    ) -> Result<(), Error> {
        let fresh = row.is_none();
        let mut record = row.unwrap_or(WorkspaceRecord {
            key,
            ready: false,
            chain: Vec::new(),
            debts: Vec::new(),
            epoch: self.journal.info().epoch,
            created_at: self.world.clock.now(),
        });
        let driver = self.driver(&record.key.driver)?;
        let known = driver.capabilities().features.contains(&chiton_driver::Feature::Workspaces);
        if missing.is_empty() && !(fresh && known) {
            // Nobody has anything to do for it: being ready is all there is to store.
            record.ready = true;
            writes.push(Write::PutWorkspace(Box::new(record)));
            let operation = Some(OperationKind::EnsureWorkspace);
            return self.journal.write(CommitKind::Workspace, operation, writes).await.map_err(store_error);
        }
        let op = operation(self, &ticket, OperationKind::EnsureWorkspace, principal);
        let before = record.chain.len();
        record.chain.extend(missing);
        writes.push(Write::PutOperation(Box::new(op.clone())));
        writes.push(Write::PutWorkspace(Box::new(record.clone())));
        let commit = Commit { number: op.commit, checks: Vec::new(), writes };
        self.journal.commit(CommitKind::Intent, Some(op.kind), commit).await.map_err(store_error)?;
        ticket.intended();
        let work = self.work(ticket, op, record).await?;
        work.ensure(before, fresh).await
    }

    async fn work(
        self: &Arc<Self>,
        ticket: Ticket,
        op: OperationRecord,
        record: WorkspaceRecord,
    ) -> Result<Work, Error> {
        let chain = self.links_or_abandoned(&record.chain).await?;
        let states = States::load(Arc::clone(&self.journal), &op).await?;
        let steps = Steps::new(Arc::clone(self), &op, Arc::new(states), Arc::clone(&ticket.cancel));
        Ok(Work { inner: Arc::clone(self), steps, op, record, chain, paid: Vec::new(), owed: Vec::new(), ticket })
    }

    async fn delete_workspace(self: &Arc<Self>, principal: &Principal, workspace: &WorkspaceName) -> Result<(), Error> {
        self.check_open()?;
        let rows = self.journal.workspaces().await.map_err(store_error)?;
        let rows: Vec<_> = rows.into_iter().filter(|row| row.key.workspace == *workspace).collect();
        if rows.is_empty() {
            return Err(Error::not_found(format!("there is no workspace {:?}", workspace.as_str())));
        }
        rows.iter().try_for_each(|row| self.check_held_workspace(&row.key))?;
        for mut row in rows {
            let subject = Subject::Workspace(row.key.clone());
            let admitted =
                self.table.admit(&subject, OperationKind::ReleaseWorkspace, self.world.operation_id()).await?;
            let Admission::Go(ticket) = admitted else { continue };
            let op = operation(self, &ticket, OperationKind::ReleaseWorkspace, principal);
            row.ready = false;
            // Nothing may fail between C1 and the work.
            let work = self.work(ticket, op.clone(), row.clone()).await?;
            let number = op.commit;
            let writes = vec![Write::PutOperation(Box::new(op)), Write::PutWorkspace(Box::new(row))];
            let checks = vec![Check::WorkspaceUnused(workspace.clone())];
            let operation = Some(OperationKind::ReleaseWorkspace);
            let commit = Commit { number, checks, writes };
            self.journal.commit(CommitKind::Intent, operation, commit).await.map_err(store_error)?;
            work.ticket.intended();
            work.release().await?;
        }
        Ok(())
    }

    /// Goes on with an interrupted workspace operation: an ensure is undone, a release is carried forward.
    pub(super) async fn resume_workspace(
        self: Arc<Self>,
        ticket: Ticket,
        op: OperationRecord,
        marks: Option<Vec<Mark>>,
        key: WorkspaceKey,
    ) {
        let kind = op.kind;
        let resumed = async {
            let record =
                self.workspace(&key).await?.ok_or_else(|| Error::internal(format!("the row of {key:?} is gone")))?;
            let mut work = self.work(ticket, op, record).await?;
            work.steps.recovered = true;
            work.replay(marks);
            Ok::<Work, Error>(work)
        };
        match resumed.await {
            Ok(work) if kind == OperationKind::EnsureWorkspace => {
                let failed = Error::unavailable("gateway", "the gateway ended while it ran");
                drop(work.undo(failed).await);
            }
            Ok(work) => {
                if let Err(error) = work.release().await {
                    tracing::warn!(%error, "an interrupted release ended");
                }
            }
            Err(error) => tracing::error!(%error, "an interrupted workspace operation cannot go on"),
        }
    }

    /// A retry of a workspace's cleanup.
    pub(super) async fn retry_workspace(self: &Arc<Self>, obligation: &Obligation) -> Result<(), Error> {
        let Subject::Workspace(key) = obligation.subject.clone() else { return Ok(()) };
        self.check_held_workspace(&key)?;
        let admitted = self.table.admit(&obligation.subject, OperationKind::Cleanup, self.world.operation_id()).await?;
        let Admission::Go(ticket) = admitted else { return Ok(()) };
        let Some(record) = self.workspace(&key).await? else { return Ok(()) };
        let op = operation(self, &ticket, OperationKind::Cleanup, &engine_principal());
        let mut work = self.work(ticket, op, record).await?;
        work.pay(obligation.debt.clone(), obligation.attempts).await;
        work.store(OperationOutcome::Succeeded, false).await
    }
}

impl Work {
    async fn call(&mut self, link: &Arc<Link>, phase: Phase, ran: Ran) -> Result<(), HookFailure> {
        let workspace = self.record.key.workspace.clone();
        let driver =
            self.inner.drivers.get(&self.record.key.driver).map(|driver| Arc::new(driver.capabilities().clone()));
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
    async fn ensure(mut self, from: usize, fresh: bool) -> Result<(), Error> {
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
    async fn undo(mut self, error: Error) -> Result<(), Error> {
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
    async fn release(mut self) -> Result<(), Error> {
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

    async fn pay(&mut self, debt: Debt, attempts: u32) {
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
    async fn store(mut self, outcome: OperationOutcome, remove: bool) -> Result<(), Error> {
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
        writes.extend(self.owed.iter().filter_map(|obligation| abandonment(obligation, &self.inner.world)));
        if self.op.kind == OperationKind::Cleanup {
            let operation = Some(OperationKind::Cleanup);
            self.inner.journal.write(CommitKind::Outcome, operation, writes).await.map_err(store_error)?;
        } else {
            self.inner.commit_outcome(&self.op, writes).await;
        }
        self.inner.book.settle(&self.paid, &self.owed, &self.inner.world);
        Ok(())
    }

    fn replay(&mut self, marks: Option<Vec<Mark>>) {
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
