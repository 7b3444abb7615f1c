//! What a start finds out before it takes anything up: whose store this is, what is held, what is missing (rules 2a and 12).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chiton_model::{BackendId, DriverId, Error, ErrorKind, SandboxPhase, StoreEpoch};

use futures::future::join_all;

use super::inner::{Inner, store_error};
use super::{Missing, StartupError};
use crate::crash::CommitKind;
use crate::journal::{
    AuditRecord, Obligation, ObligationStatus, SandboxQuery, SandboxRecord, Subject, WorkspaceRecord, Write,
};
/// Why something of an earlier life of the store is held.
fn earlier_life(epoch: &StoreEpoch) -> String {
    format!(
        "it belongs to an earlier life of this store ({epoch}); start with --adopt-epoch {epoch} if that store is gone for good"
    )
}

/// Why a sandbox is held whose driver answers for another installation than the one that has it. A driver that does not
/// answer says nothing.
fn other_backend(backends: &HashMap<DriverId, BackendId>, sandbox: &SandboxRecord) -> Option<String> {
    let done = matches!(sandbox.phase, SandboxPhase::Error | SandboxPhase::Deleted);
    let now = backends.get(&sandbox.driver)?;
    (!done && *now != sandbox.backend).then(|| {
        format!(
            "driver {:?} now talks to {now}, the sandbox was made on {}; point the driver at that installation again",
            sandbox.driver.as_str(),
            sandbox.backend
        )
    })
}

impl Inner {
    /// A backend object of this life of the store with a later commit than the store's last one: the store is an older copy
    /// of itself. Its objects belong to the original, so a new life begins and they are held (rule 2a). Returns the drivers
    /// that did not answer: a start waits for them once.
    pub(super) async fn check_epoch(&self) -> Result<BTreeSet<DriverId>, Error> {
        let info = self.journal.info();
        let mut silent = BTreeSet::new();
        let mut renewed = false;
        for (id, listed) in self.look_at_each(&self.drivers, |driver| async move { driver.list().await }).await {
            let objects = match listed {
                Ok(objects) => objects,
                Err(error) => {
                    tracing::warn!(driver = %id, %error, "it cannot be listed at start-up");
                    silent.insert(id);
                    continue;
                }
            };
            if renewed {
                continue;
            }
            let later = objects.iter().find(|object| {
                object.gateway == info.gateway && object.epoch == info.epoch && object.commit > info.last_commit
            });
            if let Some(object) = later {
                let epoch = self.journal.renew_epoch().await.map_err(store_error)?;
                tracing::error!(driver = %id, sandbox = %object.id, commit = object.commit, last = info.last_commit, %epoch,
                    "this store is older than what it made: a new life begins, and what it made is held");
                renewed = true;
            }
        }
        Ok(silent)
    }

    /// Holds, or refuses to serve, what needs something that is not there. Drivers that were silent a moment ago are not
    /// asked again.
    pub(super) async fn check_pieces(
        &self,
        live: &[SandboxRecord],
        silent: &BTreeSet<DriverId>,
    ) -> Result<(), StartupError> {
        let epoch = self.journal.info().epoch;
        let mut missing = Vec::new();
        // Asked once each, not once for every sandbox: there may be a hundred thousand, and a driver may not answer.
        let (backends, unread) = (self.backends_now(live, silent).await, self.unread_states().await);
        for sandbox in live {
            if let Some(why) = other_backend(&backends, sandbox) {
                // Not a missing piece either: held until the driver talks to that installation again.
                self.held.lock().insert(sandbox.subject(), why);
                continue;
            }
            let why = if sandbox.epoch == epoch {
                self.missing_piece(sandbox, &unread).await
            } else {
                // Not a missing piece but an unsure identity: held in any case, never served and never refused.
                self.held.lock().insert(sandbox.subject(), earlier_life(&sandbox.epoch));
                continue;
            };
            let Some(error) = why else { continue };
            if self.config.missing == Missing::Hold {
                self.held.lock().insert(sandbox.subject(), error.message.clone());
            } else {
                let message =
                    format!("sandbox {:?} ({}) cannot be served: {}", sandbox.name.as_str(), sandbox.id, error.message);
                let cure = error.cure.unwrap_or_else(|| "restore it".to_owned());
                missing.push(
                    Error::new(error.kind, message)
                        .cure(format!("{cure}; or serve the rest: [compute] missing = \"hold\"")),
                );
            }
        }
        if self.config.missing == Missing::Refuse {
            missing.extend(self.book.list().iter().filter_map(|obligation| self.missing_for(obligation)));
        }
        // What the operator gave up is given up now, not when its next attempt comes.
        let given_up = |obligation: &Obligation| {
            let name = &obligation.debt.extension;
            self.registry.get(name).is_none() && self.policy(name).abandon
        };
        self.book.hurry(&self.world, given_up);
        if missing.is_empty() { Ok(()) } else { Err(StartupError(missing)) }
    }

    /// Workspaces of an earlier life are as unsure as its sandboxes.
    pub(super) async fn hold_workspaces(&self) -> Result<(), Error> {
        let epoch = self.journal.info().epoch;
        let rows = self.journal.workspaces().await.map_err(store_error)?;
        let mut held = self.held.lock();
        for row in rows.into_iter().filter(|row| row.epoch != epoch) {
            held.insert(Subject::Workspace(row.key), earlier_life(&row.epoch));
        }
        Ok(())
    }

    /// What the open obligation of a workspace needs and is not there. Those of sandboxes are looked at with their rows.
    fn missing_for(&self, obligation: &Obligation) -> Option<Error> {
        let Subject::Workspace(key) = &obligation.subject else { return None };
        if obligation.status != ObligationStatus::Open || self.held.lock().contains_key(&obligation.subject) {
            return None;
        }
        let name = &obligation.debt.extension;
        let error = if self.registry.get(name).is_none() && !self.policy(name).abandon {
            super::chain::not_compiled_in(name)
        } else {
            self.driver(&key.driver).err()?
        };
        let message = format!("obligation {} cannot be paid: {}", obligation.id, error.message);
        let cure = error.cure.unwrap_or_else(|| "restore it".to_owned());
        Some(Error::new(error.kind, message).cure(format!("{cure}; or serve the rest: [compute] missing = \"hold\"")))
    }

    /// The installations that the drivers of these sandboxes talk to. A driver that does not answer is not among them.
    async fn backends_now(&self, live: &[SandboxRecord], silent: &BTreeSet<DriverId>) -> HashMap<DriverId, BackendId> {
        let drivers: BTreeSet<&DriverId> =
            live.iter().map(|sandbox| &sandbox.driver).filter(|driver| !silent.contains(*driver)).collect();
        // All at once: those that hang delay a start by one deadline, not by one each.
        let asked =
            drivers.into_iter().map(|driver| async move { Some((driver.clone(), self.backend(driver).await.ok()?)) });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// States of a version that their extension does not read, by subject. States that the store cannot give say nothing
    /// here: whoever needs them will hear of it.
    async fn unread_states(&self) -> HashMap<Subject, Error> {
        let mut unread = HashMap::new();
        for kind in self.registry.iter() {
            let descriptor = kind.descriptor();
            let Ok(states) = self.journal.states_by(&descriptor.name).await else { continue };
            for (subject, state) in states {
                if !descriptor.reads(state.schema_version) {
                    let why = format!(
                        "extension {:?} reads state version {}, the saved one is {}",
                        descriptor.name.as_str(),
                        descriptor.state_schema,
                        state.schema_version
                    );
                    let error = Error::new(ErrorKind::Unavailable { what: descriptor.name.to_string() }, why);
                    unread.insert(subject, error.cure("run a build whose extension reads it"));
                }
            }
        }
        unread
    }

    async fn missing_piece(&self, sandbox: &SandboxRecord, unread: &HashMap<Subject, Error>) -> Option<Error> {
        let done = matches!(sandbox.phase, SandboxPhase::Error | SandboxPhase::Deleted) && sandbox.debts.is_empty();
        if done {
            return None;
        }
        if let Err(error) = self.driver(&sandbox.driver) {
            return Some(error);
        }
        if let Err(error) = self.links_or_abandoned(&sandbox.chain).await {
            return Some(error);
        }
        unread.get(&sandbox.subject()).cloned()
    }
}

impl Inner {
    /// Takes over the sandboxes of an earlier life of the store, by the operator's word that it is gone for good.
    pub(super) async fn adopt(&self) -> Result<(), Error> {
        let Some(old) = &self.config.adopt_epoch else { return Ok(()) };
        let all = self
            .journal
            .sandboxes(&SandboxQuery { all: true, ..SandboxQuery::default() })
            .await
            .map_err(store_error)?;
        let epoch = self.journal.info().epoch;
        let workspaces = self.journal.workspaces().await.map_err(store_error)?;
        if !all.iter().any(|sandbox| sandbox.epoch == *old) && !workspaces.iter().any(|row| row.epoch == *old) {
            return self.nothing_to_adopt(old, &all, &workspaces).await;
        }
        let mut writes = Vec::new();
        for mut sandbox in all.into_iter().filter(|sandbox| sandbox.epoch == *old) {
            sandbox.epoch = epoch.clone();
            writes.push(Write::PutSandbox(Box::new(sandbox)));
        }
        let sandboxes = writes.len();
        for mut row in workspaces.into_iter().filter(|row| row.epoch == *old) {
            row.epoch = epoch.clone();
            writes.push(Write::PutWorkspace(Box::new(row)));
        }
        let message = format!("{sandboxes} sandboxes and {} workspaces were taken over", writes.len() - sandboxes);
        writes.push(Write::Audit(Box::new(AuditRecord {
            at: self.world.clock.now(),
            action: "epoch.adopt".to_owned(),
            subject: old.to_string(),
            by: "operator".to_owned(),
            message,
        })));
        self.journal.write(CommitKind::Decision, None, writes).await.map_err(store_error)
    }

    /// An epoch without subjects. One that ended here was adopted before, or had none: the flag may stay where it is. Any
    /// other is a slip that would leave held what the operator means to free.
    async fn nothing_to_adopt(
        &self,
        wanted: &StoreEpoch,
        all: &[SandboxRecord],
        workspaces: &[WorkspaceRecord],
    ) -> Result<(), Error> {
        let present = self.journal.info().epoch;
        let earlier = self.journal.epochs().await.map_err(store_error)?;
        if *wanted == present || earlier.contains(wanted) {
            tracing::info!(epoch = %wanted, "nothing of this epoch is held: there is nothing to take over");
            return Ok(());
        }
        let mut held: BTreeMap<&StoreEpoch, (usize, usize)> = BTreeMap::new();
        for sandbox in all.iter().filter(|sandbox| sandbox.epoch != present) {
            held.entry(&sandbox.epoch).or_default().0 += 1;
        }
        for row in workspaces.iter().filter(|row| row.epoch != present) {
            held.entry(&row.epoch).or_default().1 += 1;
        }
        let named = |(epoch, (sandboxes, workspaces)): (&&StoreEpoch, &(usize, usize))| {
            format!("{epoch} ({sandboxes} sandboxes, {workspaces} workspaces)")
        };
        let held: Vec<String> = held.iter().map(named).collect();
        let (there, cure) = if held.is_empty() {
            ("nothing is held".to_owned(), "start without --adopt-epoch".to_owned())
        } else {
            (format!("held are those of {}", held.join(", ")), "name one of these with --adopt-epoch".to_owned())
        };
        Err(Error::not_found(format!("this store knows no epoch {wanted}; its present one is {present}, and {there}"))
            .cure(cure))
    }
}
