//! Workspaces: made ready before their first sandbox on a driver, released when the last is gone.

mod work;

use super::Engine;
use super::admit::{Admission, Ticket};
use super::chain::{Link, fences};
use super::hooks::Steps;
use super::inner::{Inner, engine_principal, store_error};
use super::prepare::Prepared;
use super::run::operation;
use super::states::States;
use crate::crash::CommitKind;
use crate::journal::{
    Check, Commit, Mark, Obligation, ObligationStatus, OperationOutcome, OperationRecord, Subject, WorkspaceKey,
    WorkspaceRecord, Write,
};
use chiton_model::{Error, OperationKind, Phase, Principal, WorkspaceName};
use std::sync::Arc;

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
        self.refuse_volumes(workspace).await?;
        let mut first = Ok(());
        for row in rows {
            // One driver that is down keeps the others' from nothing.
            let released = self.release_row(principal, row).await;
            first = first.and(released);
        }
        first
    }

    async fn release_row(self: &Arc<Self>, principal: &Principal, mut row: WorkspaceRecord) -> Result<(), Error> {
        let workspace = row.key.workspace.clone();
        let subject = Subject::Workspace(row.key.clone());
        let admitted = self.table.admit(&subject, OperationKind::ReleaseWorkspace, self.world.operation_id()).await?;
        let Admission::Go(ticket) = admitted else { return Ok(()) };
        let op = operation(self, &ticket, OperationKind::ReleaseWorkspace, principal);
        row.ready = false;
        // Nothing may fail between C1 and the work.
        let work = self.work(ticket, op.clone(), row.clone()).await?;
        let number = op.commit;
        let writes = vec![Write::PutOperation(Box::new(op)), Write::PutWorkspace(Box::new(row))];
        let checks = vec![Check::WorkspaceUnused(workspace)];
        let operation = Some(OperationKind::ReleaseWorkspace);
        let commit = Commit { number, checks, writes };
        self.journal.commit(CommitKind::Intent, operation, commit).await.map_err(store_error)?;
        work.ticket.intended();
        work.release().await
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
            if let Some((_, fences)) = fences(&work.chain, &work.op.id) {
                fences.await;
            }
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
