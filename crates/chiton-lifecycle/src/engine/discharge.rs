//! Obligations that end unpaid: by an operator's word, or because they were given up long ago (rule 4).

use std::sync::Arc;

use chiton_model::{Error, OperationKind, Principal, SandboxPhase};

use super::Engine;
use super::admit::Admission;
use super::inner::{Inner, store_error};
use super::obligations::show_pending;
use crate::crash::CommitKind;
use crate::journal::{AuditRecord, Debt, Obligation, ObligationStatus, Subject, Write};
use crate::runtime::LifecycleEvent;

impl Engine {
    /// Closes an obligation by hand, unpaid. Leaves an audit record.
    pub async fn discharge(&self, principal: Principal, id: String, force: bool) -> Result<(), Error> {
        let inner = Arc::clone(&self.inner);
        self.inner.owned(async move { inner.discharge(&principal, &id, force).await }).await
    }
}

impl Inner {
    async fn discharge(self: &Arc<Self>, principal: &Principal, id: &str, force: bool) -> Result<(), Error> {
        let unknown =
            || Error::not_found(format!("there is no obligation {id:?}")).cure("chiton obligations list shows them");
        let obligation = self.book.get(id).ok_or_else(unknown)?;
        if !force {
            return Err(Error::refused("policy", format!("obligation {id:?} is not paid: {}", obligation.last_error))
                .cure("if what it would clean up is certainly gone, close it with --force; that is audited"));
        }
        let Admission::Go(_ticket) =
            self.table.admit(&obligation.subject, OperationKind::Cleanup, self.world.operation_id()).await?
        else {
            return Err(Error::conflict(format!("an operation is running on {}", obligation.subject))
                .cure("wait for it to end"));
        };
        // It may have been paid while this waited.
        let obligation = self.book.get(id).ok_or_else(unknown)?;
        let message = format!("closed unpaid; the last attempt said: {}", obligation.last_error);
        let audit = AuditRecord {
            at: self.world.clock.now(),
            action: "obligation.discharge".to_owned(),
            subject: id.to_owned(),
            by: principal.subject.clone(),
            message: message.clone(),
        };
        self.close_obligation(&obligation, Some(audit)).await?;
        self.world.audience.tell(LifecycleEvent::Audit {
            action: "obligation.discharge",
            subject: id.to_owned(),
            by: principal.subject.clone(),
            message,
        });
        Ok(())
    }

    /// Forgets what was given up long enough ago. Its audit record stays.
    pub(super) async fn forget_abandoned(self: &Arc<Self>) {
        let now = self.world.clock.now();
        let past = |obligation: &Obligation| {
            obligation.status == ObligationStatus::Abandoned && obligation.expires_at.is_some_and(|at| at <= now)
        };
        for obligation in self.book.list().into_iter().filter(past) {
            let held = self.held.lock().contains_key(&obligation.subject);
            if held || self.table.running(&obligation.subject).is_some() {
                // Looked at again with the next round.
                continue;
            }
            let admitted =
                self.table.admit(&obligation.subject, OperationKind::Cleanup, self.world.operation_id()).await;
            let Ok(Admission::Go(_ticket)) = admitted else { continue };
            if let Err(error) = self.close_obligation(&obligation, None).await {
                tracing::warn!(obligation = %obligation.id, %error, "it could not be forgotten");
            }
        }
    }

    /// Takes an obligation and its debt off the record. The caller holds its subject.
    async fn close_obligation(&self, obligation: &Obligation, audit: Option<AuditRecord>) -> Result<(), Error> {
        let (mut gone, mut changed) = (None, None);
        let open = obligation.status == ObligationStatus::Open;
        let mut writes = vec![Write::RemoveObligation(obligation.id.clone())];
        writes.extend(audit.map(|audit| Write::Audit(Box::new(audit))));
        if let Some(sandbox) = obligation.subject.sandbox()
            && let Some(mut record) = self.journal.sandbox(sandbox).await.map_err(store_error)?
        {
            if open {
                // Of one that was given up the debt is off the record; one that is there by now is another.
                record.debts.retain(|debt| !owed_by(debt, obligation));
            }
            let mut listed = self.book.of(&obligation.subject);
            listed.retain(|other| other.id != obligation.id);
            show_pending(&mut record.conditions, &listed, self.world.clock.now());
            if record.debts.is_empty() && record.phase == SandboxPhase::Error {
                // A subject's last debt takes its states along.
                let states = self.journal.states_of(&obligation.subject).await.map_err(store_error)?;
                let remove = |(name, _)| Write::RemoveState(obligation.subject.clone(), name);
                writes.extend(states.into_iter().map(remove));
            }
            if record.phase == SandboxPhase::Deleted && record.debts.is_empty() {
                gone = Some(record.id.clone());
                writes.push(Write::RemoveSandbox(record.id));
            } else {
                writes.push(Write::PutSandbox(Box::new(record.clone())));
                changed = Some(record);
            }
        }
        if let Subject::Workspace(key) = &obligation.subject
            && let Some(mut row) = self.workspace(key).await?
        {
            row.debts.retain(|debt| !(open && owed_by(debt, obligation)));
            let owing = row.debts.iter().any(|debt| debt.extension == obligation.debt.extension);
            row.chain.retain(|entry| owing || entry.name != obligation.debt.extension);
            let done = !row.ready && row.debts.is_empty();
            writes.push(if done { Write::RemoveWorkspace(key.clone()) } else { Write::PutWorkspace(Box::new(row)) });
        }
        self.journal.write(CommitKind::Decision, None, writes).await.map_err(store_error)?;
        self.book.settle(std::slice::from_ref(&obligation.id), &[], &self.world);
        if let Some(sandbox) = gone {
            self.held.lock().remove(&Subject::Sandbox(sandbox.clone()));
            self.world.audience.tell(LifecycleEvent::Removed(sandbox));
        }
        if let Some(record) = changed {
            self.changed(&record);
        }
        Ok(())
    }
}

fn owed_by(debt: &Debt, obligation: &Obligation) -> bool {
    debt.extension == obligation.debt.extension && debt.phase == obligation.debt.phase
}
