//! The gateway's named volumes on the engine.

use std::collections::HashMap;

use bollard::models::{ContainerSummary, Volume as Found, VolumeCreateRequest};
use bollard::query_parameters::{ListVolumesOptionsBuilder, RemoveVolumeOptions};
use chiton_driver::{CallError, CallResult, Identity, Volume, VolumeRequest, VolumeUser};
use chiton_model::label::managed;
use chiton_model::{Error, GatewayId, SandboxId, StoreEpoch, VolumeName, WorkspaceName};
use jiff::Timestamp;
use tokio::time::Instant;

use crate::client::{ACT, Answer, Failure};
use crate::engine::Engine;
use crate::names;
use crate::plan::EnginePlan;

/// The volume's name in its workspace.
const NAME: &str = "chiton.dev/volume";
/// Who asked for it, or for the sandbox that it was made for.
const CREATED_BY: &str = "chiton.dev/created-by";

impl Engine {
    /// Makes the volumes of a new sandbox that are not there.
    pub(crate) async fn ensure_volumes(
        &self,
        plan: &EnginePlan,
        identity: &Identity,
        deadline: Instant,
    ) -> CallResult<()> {
        for volume in &plan.volumes {
            if self.volume(&identity.workspace, &volume.name).await?.is_none() {
                self.make_volume(&identity.workspace, &volume.name, &identity.principal, &identity.epoch, deadline)
                    .await?;
            }
        }
        Ok(())
    }

    /// A volume of this gateway. One of that name that is not ours is an error.
    async fn volume(&self, workspace: &WorkspaceName, name: &VolumeName) -> CallResult<Option<Found>> {
        let full = names::volume(&self.options.gateway, workspace, name);
        let found = self.client.look("look at the volume", |api| {
            let full = full.clone();
            async move { api.inspect_volume(&full).await }
        });
        match found.await {
            Ok(found)
                if found.labels.get(managed::GATEWAY_ID).map(String::as_str) == Some(self.options.gateway.as_str()) =>
            {
                Ok(Some(found))
            }
            Ok(_) => {
                let text = format!("the engine's volume {full:?} does not belong to this gateway");
                Err(CallError::NotRun(Error::conflict(text).cure("remove it, or choose another name")))
            }
            Err(Failure::Absent(_)) => Ok(None),
            Err(failure) => Err(failure.into()),
        }
    }

    async fn make_volume(
        &self,
        workspace: &WorkspaceName,
        name: &VolumeName,
        by: &str,
        epoch: &StoreEpoch,
        deadline: Instant,
    ) -> CallResult<Found> {
        let labels = [
            (managed::MANAGED_BY, "chiton"),
            (managed::GATEWAY_ID, self.options.gateway.as_str()),
            (managed::STORE_EPOCH, epoch.as_str()),
            (managed::WORKSPACE, workspace.as_str()),
            (NAME, name.as_str()),
            (CREATED_BY, by),
        ];
        let request = VolumeCreateRequest {
            name: Some(names::volume(&self.options.gateway, workspace, name)),
            driver: Some("local".to_owned()),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            ..VolumeCreateRequest::default()
        };
        let made = self.client.act("make the volume", deadline, |api| async move { api.create_volume(request).await });
        Ok(made.await?)
    }

    /// All volumes of this gateway, by workspace and name, each with the sandboxes that show it.
    pub(crate) async fn volumes(&self) -> CallResult<Vec<Volume>> {
        let label = format!("{}={}", managed::GATEWAY_ID, self.options.gateway);
        let filters = HashMap::from([("label", vec![label.as_str()])]);
        let options = ListVolumesOptionsBuilder::new().filters(&filters).build();
        let found = self.client.look("list the volumes", |api| {
            let options = options.clone();
            async move { api.list_volumes(Some(options)).await }
        });
        let mut volumes = Vec::new();
        for found in found.await?.volumes.unwrap_or_default() {
            let users = self.volume_users(&found.name).await?;
            volumes.extend(read(&found, users));
        }
        volumes.sort_by(|one, other| (&one.workspace, &one.name).cmp(&(&other.workspace, &other.name)));
        Ok(volumes)
    }

    async fn volume_users(&self, full: &str) -> Answer<Vec<VolumeUser>> {
        let users = self.client.list_containers("look for the volume's sandboxes", Some(("volume", full)));
        Ok(users.await?.iter().filter_map(user).collect())
    }

    pub(crate) async fn create_volume(&self, request: &VolumeRequest) -> CallResult<Volume> {
        let (workspace, name) = (&request.workspace, &request.name);
        if let Some(size) = &request.size {
            let id = self.options.id.as_str();
            let text = format!("driver {id:?} cannot hold a volume to {size}");
            let error = Error::unsupported(id, "volumes.size", text);
            return Err(CallError::NotRun(error.cure("leave the size out, or use the oci driver")));
        }
        let _one_by_one = self.volumes_lock.lock().await;
        if self.volume(workspace, name).await?.is_some() {
            let text = format!("workspace {workspace} has a volume called {name} already");
            return Err(CallError::NotRun(Error::already_exists(text).cure("use it, or choose another name")));
        }
        let made = self.make_volume(workspace, name, &request.by, &request.epoch, Instant::now() + ACT).await?;
        read(&made, Vec::new())
            .ok_or_else(|| CallError::Failed(Error::internal("the engine did not keep the volume's labels")))
    }

    pub(crate) async fn delete_volume(&self, workspace: &WorkspaceName, name: &VolumeName) -> CallResult<()> {
        let _one_by_one = self.volumes_lock.lock().await;
        if self.volume(workspace, name).await?.is_none() {
            let text = format!("workspace {workspace} has no volume called {name}");
            return Err(CallError::NotRun(Error::not_found(text).cure("chiton volume list shows them")));
        }
        let full = names::volume(&self.options.gateway, workspace, name);
        let users = self.volume_users(&full).await?;
        if let Some(user) = users.first() {
            let text = format!("volume {name} is shown in sandbox {} ({})", user.name, user.id);
            return Err(CallError::NotRun(Error::conflict(text).cure("delete the sandbox first")));
        }
        let deadline = Instant::now() + ACT;
        let removed = self.client.act("delete the volume", deadline, |api| async move {
            api.remove_volume(&full, None::<RemoveVolumeOptions>).await
        });
        match removed.await {
            Ok(()) | Err(Failure::Absent(_)) => Ok(()),
            Err(failure) => Err(failure.into()),
        }
    }
}

fn user(found: &ContainerSummary) -> Option<VolumeUser> {
    let labels = found.labels.as_ref()?;
    let id = SandboxId::new(labels.get(managed::SANDBOX_ID)?).ok()?;
    Some(VolumeUser { id, name: labels.get(managed::SANDBOX_NAME)?.clone() })
}

fn read(found: &Found, used_by: Vec<VolumeUser>) -> Option<Volume> {
    let label = |key: &str| found.labels.get(key);
    Some(Volume {
        workspace: WorkspaceName::new(label(managed::WORKSPACE)?).ok()?,
        name: VolumeName::new(label(NAME)?).ok()?,
        size: None,
        created_at: found.created_at.as_deref().and_then(|at| at.parse().ok()).unwrap_or(Timestamp::UNIX_EPOCH),
        created_by: label(CREATED_BY)?.clone(),
        gateway: GatewayId::new(label(managed::GATEWAY_ID)?).ok()?,
        epoch: StoreEpoch::new(label(managed::STORE_EPOCH)?).ok()?,
        used_by,
    })
}
