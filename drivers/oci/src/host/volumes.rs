//! Named volumes: made when a sandbox or a person asks, deleted only when a person does.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use chiton_driver::{CallError, CallResult, Identity, Volume, VolumeRequest, VolumeUser};
use chiton_model::label::managed;
use chiton_model::{Error, MemoryQuantity, VolumeName, WorkspaceName};
use jiff::Timestamp;

use super::{Doing, Host, Ready};
use crate::disk;
use crate::launch::VolumeBind;
use crate::options::OciOptions;
use crate::plan::OciPlan;
use crate::record::{self, Paths, Record as SandboxRecord};
use crate::volumes::{self, Record};

/// A volume as a sandbox's record names it.
type Key = (String, String);

impl Host {
    /// Makes the volumes of a new sandbox that are not there. Its record names them already, so that from here on none
    /// of them can be deleted.
    pub(super) fn make_volumes(&self, plan: &OciPlan, identity: &Identity) -> CallResult<()> {
        if plan.volumes.is_empty() {
            return Ok(());
        }
        let _lock = self.volumes.lock();
        for volume in &plan.volumes {
            if let Some(found) = self.volume(&identity.workspace, &volume.name)? {
                self.ours(&found)?;
                continue;
            }
            let record = Record {
                version: Record::VERSION,
                workspace: identity.workspace.clone(),
                name: volume.name.clone(),
                gateway: identity.gateway.clone(),
                epoch: identity.epoch.clone(),
                created_by: identity.principal.clone(),
                created_for: Some(identity.sandbox.clone()),
                created_ms: volumes::now_ms(),
                size: self.options.volume_size.as_ref().map(MemoryQuantity::bytes),
            };
            self.make_volume(&record)?;
        }
        Ok(())
    }

    /// The volumes of a sandbox as the launch child shows them. One that is missing is an error, never an empty one.
    pub(super) fn volume_binds(&self, plan: &OciPlan, workspace: &WorkspaceName) -> CallResult<Vec<VolumeBind>> {
        let bind = |volume: &crate::plan::VolumePlan| {
            let folder = volumes::folder(&self.options, workspace, &volume.name);
            let Some(record) = self.volume(workspace, &volume.name)? else {
                let text = format!("volume {} of workspace {workspace} is gone", volume.name);
                return Err(CallError::NotRun(
                    Error::not_found(text).cure("put its folder back from a backup, or delete the sandbox"),
                ));
            };
            self.ours(&record)?;
            Ok(VolumeBind {
                name: volume.name.to_string(),
                source: volumes::files(&folder, record.size),
                image: record.size.is_some(),
                target: volume.target.clone(),
                read_only: volume.read_only,
            })
        };
        plan.volumes.iter().map(bind).collect()
    }

    /// All volumes of this gateway, each with the sandboxes that show it.
    pub(crate) fn volumes(&self) -> CallResult<Vec<Volume>> {
        self.ready()?;
        let mut users = self.volume_users()?;
        let found = volumes::list(&self.options).not_run("list the volumes")?;
        let ours = found.into_iter().filter(|record| record.gateway == self.options.gateway);
        Ok(ours
            .map(|record| {
                let users = users.remove(&key(&record.workspace, &record.name)).unwrap_or_default();
                shown(record, users)
            })
            .collect())
    }

    /// Makes a volume that somebody asked for by itself.
    pub(crate) fn create_volume(&self, request: &VolumeRequest) -> CallResult<Volume> {
        self.ready()?;
        let size = request.size.as_ref().or(self.options.volume_size.as_ref()).map(MemoryQuantity::bytes);
        let record = Record {
            version: Record::VERSION,
            workspace: request.workspace.clone(),
            name: request.name.clone(),
            gateway: self.options.gateway.clone(),
            epoch: request.epoch.clone(),
            created_by: request.by.clone(),
            created_for: None,
            created_ms: volumes::now_ms(),
            size,
        };
        let _lock = self.volumes.lock();
        if self.make_volume(&record)? {
            return Ok(shown(record, Vec::new()));
        }
        let text = format!("workspace {} has a volume {} already", request.workspace, request.name);
        Err(CallError::NotRun(Error::already_exists(text).cure("choose another name, or use the one that is there")))
    }

    /// Deletes a volume that no sandbox has.
    pub(crate) fn delete_volume(&self, workspace: &WorkspaceName, name: &VolumeName) -> CallResult<()> {
        self.ready()?;
        let gone = {
            let _lock = self.volumes.lock();
            let Some(record) = self.volume(workspace, name)? else {
                let text = format!("workspace {workspace} has no volume {name}");
                return Err(CallError::NotRun(Error::not_found(text).cure("list what is there: chiton volume list")));
            };
            self.ours(&record)?;
            let users = self.volume_users()?.remove(&key(workspace, name)).unwrap_or_default();
            if !users.is_empty() {
                let names: Vec<String> = users.iter().map(|user| format!("{} ({})", user.name, user.id)).collect();
                let text = format!("volume {name} is used by {}", names.join(", "));
                return Err(CallError::NotRun(
                    Error::conflict(text).cure("delete these sandboxes first, whether they run or not"),
                ));
            }
            volumes::take(&self.options, workspace, name).failed("delete the volume")?
        };
        // It is gone for everybody; the next start removes what an interruption leaves here.
        self.remove_volume(&gone).failed("remove the volume's files")
    }

    /// Removes the files of a volume that was taken away. An ordinary user's sandboxes may have left files of other ids.
    fn remove_volume(&self, gone: &Path) -> io::Result<()> {
        let ready = self.ready().map_err(|error| io::Error::other(error.to_string()))?;
        ready.remove_volume(gone)
    }

    fn volume(&self, workspace: &WorkspaceName, name: &VolumeName) -> CallResult<Option<Record>> {
        volumes::load(&volumes::folder(&self.options, workspace, name)).not_run("read the volume's record")
    }

    /// Refuses what another installation made in this folder.
    fn ours(&self, record: &Record) -> CallResult<()> {
        if record.gateway == self.options.gateway {
            return Ok(());
        }
        let text = format!("volume {} belongs to the gateway {}, which is another", record.name, record.gateway);
        Err(CallError::NotRun(Error::refused("driver", text).cure("choose another name")))
    }

    fn make_volume(&self, record: &Record) -> CallResult<bool> {
        let geometry = match record.size {
            None => None,
            Some(size) => {
                let geometry = disk::Geometry::for_limits("volume", size, None).map_err(CallError::NotRun)?;
                let mkfs = self.disk_means().image.as_ref().map_err(|lacking| {
                    let text = format!("this machine cannot limit a volume: {lacking}");
                    CallError::NotRun(Error::refused("driver", text).cure("leave its size out"))
                })?;
                Some((geometry, mkfs))
            }
        };
        volumes::make(&self.options, record, |path| match geometry {
            Some((geometry, mkfs)) => disk::prepare(&self.options.state_dir.join("disks"), mkfs, geometry, path),
            None => Ok(()),
        })
        .failed("make the volume")
    }

    /// Which sandboxes have which volumes.
    fn volume_users(&self) -> CallResult<BTreeMap<Key, Vec<VolumeUser>>> {
        let mut users: BTreeMap<Key, Vec<VolumeUser>> = BTreeMap::new();
        for id in record::ids(&self.options).not_run("list the sandboxes")? {
            let dir = Paths::new(&self.options, &id).dir;
            let Some(record) = SandboxRecord::load(&dir).not_run("read a sandbox's record")? else { continue };
            let label = |name: &str| record.labels.get(name).cloned().unwrap_or_default();
            for volume in &record.volumes {
                let user = VolumeUser { id: id.clone(), name: label(managed::SANDBOX_NAME) };
                let users = users.entry((label(managed::WORKSPACE), volume.to_string())).or_default();
                if !users.contains(&user) {
                    users.push(user);
                }
            }
        }
        Ok(users)
    }
}

impl Ready {
    /// Removes, in its own time, what an earlier gateway left of volumes that it was making or deleting. It may be much:
    /// nobody waits for it. What this gateway makes from here on is not among it.
    pub(super) fn remove_leftovers(self: &Arc<Self>, options: &OciOptions) -> io::Result<()> {
        let left = volumes::leftovers(options)?;
        if left.is_empty() {
            return Ok(());
        }
        let ready = Arc::clone(self);
        std::thread::Builder::new().name("volume leftovers".to_owned()).spawn(move || {
            for folder in left {
                if let Err(error) = ready.remove_volume(&folder) {
                    tracing::warn!(folder = %folder.display(), %error, "what is left of a volume was not removed");
                }
            }
        })?;
        Ok(())
    }

    fn remove_volume(&self, gone: &Path) -> io::Result<()> {
        let data = gone.join("data");
        if let (Some(user), true) = (&self.user, data.exists()) {
            user.remove(&[&data], super::ACT)?;
        }
        fs::remove_dir_all(gone)
    }
}

fn key(workspace: &WorkspaceName, name: &VolumeName) -> Key {
    (workspace.to_string(), name.to_string())
}

fn shown(record: Record, used_by: Vec<VolumeUser>) -> Volume {
    let created = i64::try_from(record.created_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    Volume {
        workspace: record.workspace,
        name: record.name,
        size: record.size,
        created_at: created.unwrap_or(Timestamp::UNIX_EPOCH),
        created_by: record.created_by,
        gateway: record.gateway,
        epoch: record.epoch,
        used_by,
    }
}
