//! Named volumes: looked at, made and deleted by hand.
//!
//! A volume is its driver's: what exists is what the driver says, and nothing of it is in the journal but the audit
//! records. So a store that is restored or begun anew neither loses a volume nor deletes one, and no sweep ever does.
//! Nothing is owed for a volume either: the calls are atomic in the driver, and repeating one is harmless.

use std::sync::Arc;

use chiton_driver::{CallError, ComputeDriver, Feature, Volume, VolumeRequest};
use chiton_model::{DriverId, Error, MemoryQuantity, Principal, VolumeName, WorkspaceName};

use super::Engine;
use super::calls::bounded;
use super::each::Gathered;
use super::inner::{Inner, store_error};
use crate::crash::CommitKind;
use crate::journal::{AuditRecord, Write};
use crate::runtime::LifecycleEvent;

/// A volume and who keeps it.
#[derive(Clone, Debug)]
pub struct VolumeView {
    /// The driver.
    pub driver: DriverId,
    /// What the driver says of it.
    pub volume: Volume,
}

impl Engine {
    /// The volumes of every driver that keeps any; of one workspace, or of all.
    pub async fn volumes(&self, workspace: Option<&WorkspaceName>) -> Gathered<VolumeView> {
        self.inner.volumes(None, workspace).await
    }

    /// Makes a volume; on the default driver unless another is named.
    pub async fn create_volume(
        &self,
        principal: Principal,
        driver: Option<DriverId>,
        workspace: WorkspaceName,
        name: VolumeName,
        size: Option<MemoryQuantity>,
    ) -> Result<VolumeView, Error> {
        let inner = Arc::clone(&self.inner);
        let work = async move {
            let driver = inner.keeper(driver.as_ref().unwrap_or(&inner.config.default_driver))?;
            let by = principal.subject;
            let epoch = inner.journal.info().epoch;
            let request = VolumeRequest { workspace, name, size, by: by.clone(), epoch };
            let deadline = driver.deadlines().act;
            let made = bounded(&*inner.world.clock, deadline, "create_volume", driver.create_volume(&request)).await;
            let volume = made.map_err(CallError::into_error)?;
            let view = VolumeView { driver: driver.capabilities().id.clone(), volume };
            inner.audit_volume("volume.create", &view.driver, &view.volume, &by).await?;
            Ok(view)
        };
        self.inner.owned(work).await
    }

    /// Deletes a volume and all in it. Without a driver's id, the volume must be the only one of its name.
    pub async fn delete_volume(
        &self,
        principal: Principal,
        driver: Option<DriverId>,
        workspace: WorkspaceName,
        name: VolumeName,
    ) -> Result<(), Error> {
        let inner = Arc::clone(&self.inner);
        let work = async move {
            if let Some(id) = &driver {
                inner.keeper(id)?;
            }
            let all = inner.volumes(driver.as_ref(), Some(&workspace)).await;
            // Another of the name may be on a driver that cannot be asked.
            let mut found = all.complete().map_err(|error| {
                let cure = error.cure.clone().map(|cure| format!("{cure}; ")).unwrap_or_default();
                error.cure(format!("{cure}of a driver that can be reached: name it with --driver"))
            })?;
            found.retain(|view| view.volume.name == name);
            let view = match found.as_slice() {
                [view] => view,
                [] => {
                    return Err(Error::not_found(format!("workspace {workspace} has no volume {name}"))
                        .cure("list what is there: chiton volume list"));
                }
                several => {
                    let drivers: Vec<&str> = several.iter().map(|view| view.driver.as_str()).collect();
                    let text = format!("drivers {} each have a volume {name}", drivers.join(" and "));
                    return Err(Error::conflict(text).cure("name the driver with --driver"));
                }
            };
            let driver = inner.keeper(&view.driver)?;
            let deadline = driver.deadlines().act;
            let call = driver.delete_volume(&workspace, &name);
            bounded(&*inner.world.clock, deadline, "delete_volume", call).await.map_err(CallError::into_error)?;
            inner.audit_volume("volume.delete", &view.driver, &view.volume, &principal.subject).await
        };
        self.inner.owned(work).await
    }
}

impl Inner {
    /// A driver that keeps volumes.
    fn keeper(&self, id: &DriverId) -> Result<Arc<dyn ComputeDriver>, Error> {
        let driver = self.named_driver(id)?;
        if driver.capabilities().features.contains(&Feature::Volumes) {
            return Ok(driver);
        }
        Err(Error::unsupported(id.as_str(), "volumes", format!("driver {:?} keeps no named volumes", id.as_str()))
            .cure("name another driver; chiton drivers list --wide shows what each can do"))
    }

    async fn volumes(&self, only: Option<&DriverId>, workspace: Option<&WorkspaceName>) -> Gathered<VolumeView> {
        let keepers = self.drivers.iter().filter(|(id, driver)| {
            only.is_none_or(|only| only == *id) && driver.capabilities().features.contains(&Feature::Volumes)
        });
        let mut all = Gathered::default();
        for (driver, listed) in self.look_at_each(keepers, |driver| async move { driver.volumes().await }).await {
            match listed {
                Ok(volumes) => {
                    let of = |volume: &Volume| workspace.is_none_or(|name| *name == volume.workspace);
                    let wanted = volumes.into_iter().filter(of);
                    all.found.extend(wanted.map(|volume| VolumeView { driver: driver.clone(), volume }));
                }
                Err(error) => {
                    all.failed.insert(driver, error);
                }
            }
        }
        all
    }

    /// Refuses to release a workspace that still has volumes: they would stay behind unseen.
    pub(super) async fn refuse_volumes(&self, workspace: &WorkspaceName) -> Result<(), Error> {
        let names: Vec<String> = self
            .volumes(None, Some(workspace))
            .await
            .complete()?
            .iter()
            .map(|view| view.volume.name.to_string())
            .collect();
        if names.is_empty() {
            return Ok(());
        }
        Err(Error::conflict(format!("workspace {workspace} has volumes: {}", names.join(", ")))
            .cure("delete them first: chiton volume delete"))
    }

    async fn audit_volume(
        &self,
        action: &'static str,
        driver: &DriverId,
        volume: &Volume,
        by: &str,
    ) -> Result<(), Error> {
        let subject = format!("{driver}/{}/{}", volume.workspace, volume.name);
        let message = format!("made {} by {}", volume.created_at, volume.created_by);
        let audit = AuditRecord {
            at: self.world.clock.now(),
            action: action.to_owned(),
            subject: subject.clone(),
            by: by.to_owned(),
            message: message.clone(),
        };
        let writes = vec![Write::Audit(Box::new(audit))];
        self.journal.write(CommitKind::Audit, None, writes).await.map_err(store_error)?;
        self.world.audience.tell(LifecycleEvent::Audit { action, subject, by: by.to_owned(), message });
        Ok(())
    }
}
