//! Orphans: backend objects that no row owns (rule 14).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chiton_driver::Observed;
use chiton_model::{DriverId, Error, ErrorKind, OperationKind, Principal, SandboxId, SandboxPhase};

use futures::future::join_all;

use super::Engine;
use super::admit::Admission;
use super::each::Gathered;
use super::inner::{Inner, store_error};
use crate::crash::{CommitKind, Deed, crash_point};
use crate::journal::{AuditRecord, DriverCall, Subject, Write};
use crate::runtime::LifecycleEvent;

/// What is known of an object without an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrphanVerdict {
    /// Made in this life of the store, and its row is gone or done: the sweep deletes it after the grace.
    Sweepable,
    /// Its row is of another life of the store: held until the operator adopts it.
    OtherEpoch,
    /// Nobody here knows it.
    Unowned,
}

/// A backend object that no row owns.
#[derive(Clone, Debug)]
pub struct Orphan {
    /// Its driver.
    pub driver: DriverId,
    /// What the driver says of it.
    pub observed: Observed,
    /// What is known of it.
    pub verdict: OrphanVerdict,
}

impl Engine {
    /// All objects without an owner, of the drivers that can be asked. Each backend is listed first, then each id is read
    /// from the store.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn orphans(&self) -> Result<Gathered<Orphan>, Error> {
        self.inner.orphans().await
    }

    /// Deletes an object that no live row owns, by hand.
    pub async fn delete_orphan(&self, principal: Principal, driver: DriverId, id: SandboxId) -> Result<(), Error> {
        let inner = Arc::clone(&self.inner);
        let work = async move {
            let handle = inner.named_driver(&driver)?;
            if inner.look(&handle, handle.get(&id)).await?.is_none() {
                return Err(Error::not_found(format!("driver {driver} has no object {id}"))
                    .cure("list what is there: chiton orphans list"));
            }
            inner.delete_orphan(&principal.subject, &driver, &id, "by hand").await
        };
        self.inner.owned(work).await
    }

    /// Takes over a held sandbox of an earlier life of the store.
    pub async fn adopt_orphan(&self, principal: Principal, id: SandboxId) -> Result<(), Error> {
        let inner = Arc::clone(&self.inner);
        self.inner.owned(async move { inner.adopt_orphan(&principal.subject, &id).await }).await
    }
}

/// What an object is suspected under: that nobody owns it. Without an id, what all of a driver's begin with.
fn suspicion(driver: &DriverId, id: Option<&SandboxId>) -> String {
    format!("object/{driver}/{}", id.map(SandboxId::as_str).unwrap_or_default())
}

impl Inner {
    async fn orphans(&self) -> Result<Gathered<Orphan>, Error> {
        let mut orphans = Gathered::default();
        for (driver, listed) in self.look_at_each(&self.drivers, |driver| async move { driver.list().await }).await {
            let objects = match listed {
                Ok(objects) => objects,
                Err(error) => {
                    orphans.failed.insert(driver, error);
                    continue;
                }
            };
            for observed in objects {
                if let Some(verdict) = self.verdict(&observed).await? {
                    orphans.found.push(Orphan { driver: driver.clone(), observed, verdict });
                }
            }
        }
        Ok(orphans)
    }

    async fn verdict(&self, observed: &Observed) -> Result<Option<OrphanVerdict>, Error> {
        let info = self.journal.info();
        if self.table.running(&Subject::Sandbox(observed.id.clone())).is_some() {
            return Ok(None);
        }
        let row = self.journal.sandbox(&observed.id).await.map_err(store_error)?;
        let ours = observed.gateway == info.gateway && observed.epoch == info.epoch;
        Ok(match row {
            Some(row) if row.epoch != info.epoch => Some(OrphanVerdict::OtherEpoch),
            // A failed create's row was written after absence was confirmed, a tombstone's too.
            Some(row) if matches!(row.phase, SandboxPhase::Error | SandboxPhase::Deleted) && ours => {
                Some(OrphanVerdict::Sweepable)
            }
            Some(_) => None,
            None if ours => Some(OrphanVerdict::Sweepable),
            None => Some(OrphanVerdict::Unowned),
        })
    }

    /// Deletes what was without an owner for the grace; each driver for itself.
    pub(super) async fn sweep_orphans(self: &Arc<Self>) -> Result<usize, Error> {
        let orphans = self.orphans().await?;
        for (driver, error) in &orphans.failed {
            // Whoever cannot be reached is told of where that is noticed.
            if !self.unreachable_for_now(driver) {
                tracing::warn!(%driver, %error, "the sweep of its objects could not run");
            }
        }
        let (mut ripe, mut suspected) = (BTreeMap::<DriverId, Vec<SandboxId>>::new(), BTreeSet::new());
        for orphan in orphans.found {
            if orphan.verdict != OrphanVerdict::Sweepable {
                self.world.audience.tell(LifecycleEvent::Unowned(Box::new(orphan.observed)));
                continue;
            }
            let key = suspicion(&orphan.driver, Some(&orphan.observed.id));
            if self.suspect(&key) {
                ripe.entry(orphan.driver).or_default().push(orphan.observed.id);
            } else {
                suspected.insert(key);
            }
        }
        let (mut deleted, mut left) = (0, Vec::new());
        for (swept, rest) in join_all(ripe.into_iter().map(|(driver, ids)| self.sweep_driver(driver, ids))).await {
            deleted += swept;
            left.extend(rest);
        }
        // What is not known to be gone, and what nobody could look at, is as old as it was.
        suspected.extend(left);
        let unasked: Vec<String> = orphans.failed.keys().map(|driver| suspicion(driver, None)).collect();
        self.suspects.lock().retain(|key, _| {
            !key.starts_with("object/")
                || suspected.contains(key)
                || unasked.iter().any(|driver| key.starts_with(driver.as_str()))
        });
        Ok(deleted)
    }

    /// Deletes these of one driver's objects: how many, and what still stands.
    async fn sweep_driver(self: &Arc<Self>, driver: DriverId, ids: Vec<SandboxId>) -> (usize, Vec<String>) {
        let (mut deleted, mut left) = (0, Vec::new());
        let mut ids = ids.into_iter();
        for id in ids.by_ref() {
            let Err(error) = self.delete_orphan("engine", &driver, &id, "no row owned it for the grace").await else {
                deleted += 1;
                continue;
            };
            tracing::warn!(%driver, sandbox = %id, %error, "an object that nobody owns could not be deleted");
            left.push(suspicion(&driver, Some(&id)));
            if matches!(error.kind, ErrorKind::Unavailable { .. } | ErrorKind::Deadline) {
                // The next would wait as long for nothing.
                break;
            }
        }
        left.extend(ids.map(|id| suspicion(&driver, Some(&id))));
        (deleted, left)
    }

    async fn delete_orphan(
        self: &Arc<Self>,
        by: &str,
        driver: &DriverId,
        id: &SandboxId,
        why: &str,
    ) -> Result<(), Error> {
        let subject = Subject::Sandbox(id.clone());
        let Admission::Go(_ticket) =
            self.table.admit(&subject, OperationKind::Cleanup, self.world.operation_id()).await?
        else {
            return Err(Error::conflict(format!("an operation is running on {id}")).cure("wait for it to end"));
        };
        let row = self.journal.sandbox(id).await.map_err(store_error)?;
        if row.is_some_and(|row| !matches!(row.phase, SandboxPhase::Error | SandboxPhase::Deleted)) {
            return Err(Error::refused("policy", format!("{id} belongs to a sandbox"))
                .cure("delete the sandbox instead: chiton sandbox delete"));
        }
        let handle = self.driver(driver)?;
        let deadline = handle.deadlines().act;
        crash_point!(self.world.points, Before, None, Deed::Driver(DriverCall::Delete));
        super::calls::bounded(&*self.world.clock, deadline, "delete", handle.delete(id))
            .await
            .map_err(chiton_driver::CallError::into_error)?;
        crash_point!(self.world.points, After, None, Deed::Driver(DriverCall::Delete));
        let audit = AuditRecord {
            at: self.world.clock.now(),
            action: "orphan.delete".to_owned(),
            subject: format!("{driver}/{id}"),
            by: by.to_owned(),
            message: why.to_owned(),
        };
        let subject = audit.subject.clone();
        let writes = vec![Write::Audit(Box::new(audit))];
        self.journal.write(CommitKind::Audit, None, writes).await.map_err(store_error)?;
        self.world.audience.tell(LifecycleEvent::Audit {
            action: "orphan.delete",
            subject,
            by: by.to_owned(),
            message: why.to_owned(),
        });
        Ok(())
    }

    async fn adopt_orphan(self: &Arc<Self>, by: &str, id: &SandboxId) -> Result<(), Error> {
        let info = self.journal.info();
        let Some(mut row) = self.journal.sandbox(id).await.map_err(store_error)? else {
            return Err(Error::refused(
                "policy",
                format!("no record of {id} exists, so there is nothing to adopt it into"),
            )
            .cure("delete it: chiton orphans delete"));
        };
        if row.epoch == info.epoch {
            return Err(Error::conflict(format!("{id} belongs to this store already")));
        }
        let old = std::mem::replace(&mut row.epoch, info.epoch);
        let audit = AuditRecord {
            at: self.world.clock.now(),
            action: "orphan.adopt".to_owned(),
            subject: id.to_string(),
            by: by.to_owned(),
            message: format!("taken over from epoch {old}"),
        };
        let (subject, message) = (audit.subject.clone(), audit.message.clone());
        let writes = vec![Write::PutSandbox(Box::new(row.clone())), Write::Audit(Box::new(audit))];
        self.journal.write(CommitKind::Decision, None, writes).await.map_err(store_error)?;
        self.world.audience.tell(LifecycleEvent::Audit { action: "orphan.adopt", subject, by: by.to_owned(), message });
        self.held.lock().remove(&row.subject());
        self.changed(&row);
        self.reopen(&row).await;
        let waiting = self.waiting.lock().remove(&row.subject());
        if let Some(open) = waiting {
            self.resume(open).await?;
        }
        Ok(())
    }
}
