//! Looks that change nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use chiton_driver::{ComputeDriver, LogOptions, LogStream};
use chiton_model::condition::set;
use chiton_model::{DriverId, Error, ErrorKind, OperationId, SandboxId, SandboxName, SandboxPhase, WorkspaceName};

use super::Engine;
use super::inner::store_error;
use super::run::known;
use crate::extension::Descriptor;
use crate::journal::{OperationRecord, SandboxQuery, SandboxRecord, StoreInfo, WorkspaceRecord};
use crate::plan::{Explained, explain};
use crate::policy::Policy;

/// Which sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// By id: any row, also one that let go of its name.
    Id(SandboxId),
    /// By name: the one that holds it.
    Name(WorkspaceName, SandboxName),
}

/// A sandbox with what stands beside its row.
#[derive(Clone, Debug)]
pub struct SandboxView {
    /// The row.
    pub record: SandboxRecord,
    /// The operation that runs on it.
    pub running: Option<OperationId>,
    /// Why nothing may touch it, if so.
    pub held: Option<String>,
    /// How many cleanups it owes and could not pay.
    pub obligations: usize,
}

/// Some sandboxes, and where to go on.
#[derive(Clone, Debug)]
pub struct SandboxPage {
    /// The sandboxes.
    pub views: Vec<SandboxView>,
    /// The last row that was looked at, if more may follow.
    pub next: Option<SandboxId>,
}

/// An extension as the gateway has it.
#[derive(Clone, Debug)]
pub struct ExtensionInfo {
    /// What it declares.
    pub descriptor: Arc<Descriptor>,
    /// Its place in new chains, from 0; none when new sandboxes do not get it.
    pub position: Option<usize>,
    /// The operator's rules about it.
    pub policy: Policy,
    /// Live sandboxes that have it in their chain.
    pub sandboxes: usize,
    /// Not listed any more and still in chains.
    pub draining: bool,
}

impl Engine {
    /// Facts about the store.
    pub fn store(&self) -> StoreInfo {
        self.inner.journal.info()
    }

    /// The drivers, by id.
    pub fn drivers(&self) -> impl Iterator<Item = &Arc<dyn ComputeDriver>> {
        self.inner.drivers.values()
    }

    /// The default driver's id.
    pub fn default_driver(&self) -> &DriverId {
        &self.inner.config.default_driver
    }

    /// How many sandboxes each driver has by the records: all that are not deleted, those of drivers that are gone included.
    pub async fn sandboxes_by_driver(&self) -> Result<BTreeMap<DriverId, usize>, Error> {
        let rows = self.inner.journal.sandboxes(&SandboxQuery::default()).await.map_err(store_error)?;
        let mut count = BTreeMap::new();
        for row in rows {
            *count.entry(row.driver).or_default() += 1;
        }
        Ok(count)
    }

    /// One sandbox. `all` also finds, by name, the newest that held it.
    pub async fn get(&self, selector: &Selector, all: bool) -> Result<SandboxView, Error> {
        let record = match selector {
            Selector::Id(id) => self.inner.record(id).await?,
            Selector::Name(workspace, name) => {
                let found = self.inner.journal.sandbox_by_name(workspace, name).await.map_err(store_error)?;
                let visible = |record: &SandboxRecord| all || self.is_shown(record);
                found.filter(visible).ok_or_else(|| {
                    Error::not_found(format!(
                        "there is no sandbox {:?} in workspace {:?}",
                        name.as_str(),
                        workspace.as_str()
                    ))
                    .cure("chiton sandbox list shows those that exist")
                })?
            }
        };
        Ok(self.view(record))
    }

    /// Everything is shown but what is deleted: from confirmed absence on, even while cleanups are owed. A create that is
    /// being undone is shown also when another has its name by now.
    fn is_shown(&self, record: &SandboxRecord) -> bool {
        match record.phase {
            SandboxPhase::Deleted => false,
            SandboxPhase::Deleting => record.name_held && !self.inner.released.lock().contains(&record.id),
            _ => true,
        }
    }

    fn view(&self, mut record: SandboxRecord) -> SandboxView {
        // One lock at a time: a guard inside of the expression would be held to its end.
        let held = self.inner.held.lock().get(&record.subject()).cloned();
        let passing = self.inner.passing.lock().get(&record.id).cloned();
        if let Some(condition) = passing {
            set(&mut record.conditions, condition);
        }
        SandboxView {
            running: self.inner.table.running(&record.subject()).map(|(_, operation)| operation),
            held,
            obligations: self.inner.book.of(&record.subject()).len(),
            record,
        }
    }

    /// Sandboxes in id order. A page may have fewer rows than the limit, or none, while more follow.
    pub async fn list(&self, query: &SandboxQuery) -> Result<SandboxPage, Error> {
        // A failed create let go of its name but is still worth a line.
        let rows =
            self.inner.journal.sandboxes(&SandboxQuery { all: true, ..query.clone() }).await.map_err(store_error)?;
        let full = query.limit != 0 && rows.len() == query.limit;
        let next = rows.last().filter(|_| full).map(|row| row.id.clone());
        let views = rows.into_iter().filter(|row| query.all || self.is_shown(row)).map(|row| self.view(row)).collect();
        Ok(SandboxPage { views, next })
    }

    /// Every value of a sandbox's plan with who set it.
    pub async fn explain(&self, id: &SandboxId) -> Result<(SandboxRecord, Vec<Explained>), Error> {
        let record = self.inner.record(id).await?;
        let plan = record.plan.filled(|slot| known(&record, slot));
        let explained = explain(&record.plan, &plan);
        Ok((record, explained))
    }

    /// A sandbox's operations, oldest first, each with its steps.
    pub async fn timeline(&self, id: &SandboxId) -> Result<Vec<OperationRecord>, Error> {
        self.inner.journal.operations(&crate::journal::Subject::Sandbox(id.clone())).await.map_err(store_error)
    }

    /// Waits until an operation has ended.
    pub async fn wait(&self, id: &OperationId) -> Result<OperationRecord, Error> {
        if let Some(done) = self.inner.table.done(id) {
            done.cancelled().await;
        }
        let record = self.inner.journal.operation(id).await.map_err(store_error)?;
        record.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no operation {id}")))
    }

    /// The main process's output.
    pub async fn logs(&self, id: &SandboxId, options: LogOptions) -> Result<LogStream, Error> {
        let record = self.inner.record(id).await?;
        let driver = self.inner.driver(&record.driver)?;
        self.inner.look(&driver, driver.logs(id, options)).await
    }

    /// The hash of a sandbox's agent token and the start it counts for, if its row exists. They change together; where a driver
    /// brings no new token with a start, the start alone.
    pub async fn agent_start(&self, id: &SandboxId) -> Option<(String, String)> {
        self.inner.journal.sandbox(id).await.ok().flatten().map(|record| (record.token, record.attempt))
    }

    /// How many sandboxes are held: nothing may touch them until something is back.
    pub fn held(&self) -> usize {
        self.inner.held.lock().keys().filter(|subject| subject.sandbox().is_some()).count()
    }

    /// All workspaces.
    pub async fn workspaces(&self) -> Result<Vec<WorkspaceRecord>, Error> {
        self.inner.journal.workspaces().await.map_err(store_error)
    }

    /// All compiled-in extensions.
    pub async fn extensions(&self) -> Result<Vec<ExtensionInfo>, Error> {
        let rows = self.inner.journal.sandboxes(&SandboxQuery::default()).await.map_err(store_error)?;
        let infos = self.inner.registry.iter().map(|kind| {
            let name = &kind.descriptor().name;
            let position = self.inner.config.extensions.iter().position(|config| config.name == *name);
            let sandboxes = rows.iter().filter(|row| row.chain.iter().any(|entry| entry.name == *name)).count();
            ExtensionInfo {
                descriptor: Arc::clone(kind.descriptor()),
                position,
                policy: self.inner.policy(name),
                sandboxes,
                draining: position.is_none() && sandboxes > 0,
            }
        });
        Ok(infos.collect())
    }
}
