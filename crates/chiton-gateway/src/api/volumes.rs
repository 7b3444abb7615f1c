//! Named volumes.

use chiton_lifecycle::VolumeView;
use chiton_model::{DriverId, Error, MemoryQuantity, Principal, VolumeName};
use chiton_proto::v1 as wire;

use super::convert;
use super::drivers::failures;
use super::service::Api;

impl Api {
    pub(super) async fn list_volumes(
        &self,
        _: Principal,
        request: wire::ListVolumesRequest,
    ) -> Result<wire::ListVolumesResponse, Error> {
        let workspace = if request.workspace.is_empty() { None } else { Some(convert::workspace(&request.workspace)?) };
        let volumes = self.engine.volumes(workspace.as_ref()).await;
        Ok(wire::ListVolumesResponse {
            volumes: volumes.found.into_iter().map(volume).collect(),
            failed: failures(volumes.failed),
        })
    }

    pub(super) async fn create_volume(
        &self,
        principal: Principal,
        request: wire::CreateVolumeRequest,
    ) -> Result<wire::Volume, Error> {
        let size =
            if request.size.is_empty() { None } else { Some(MemoryQuantity::parse("volume.size", &request.size)?) };
        let workspace = convert::workspace(&request.workspace)?;
        let name = VolumeName::new(request.name)?;
        Ok(volume(self.engine.create_volume(principal, driver(request.driver)?, workspace, name, size).await?))
    }

    pub(super) async fn delete_volume(
        &self,
        principal: Principal,
        request: wire::DeleteVolumeRequest,
    ) -> Result<wire::DeleteVolumeResponse, Error> {
        let workspace = convert::workspace(&request.workspace)?;
        let name = VolumeName::new(request.name)?;
        self.engine.delete_volume(principal, driver(request.driver)?, workspace, name).await?;
        Ok(wire::DeleteVolumeResponse {})
    }
}

fn driver(id: String) -> Result<Option<DriverId>, Error> {
    if id.is_empty() { Ok(None) } else { DriverId::new(id).map(Some) }
}

fn volume(view: VolumeView) -> wire::Volume {
    let volume = view.volume;
    wire::Volume {
        name: volume.name.to_string(),
        workspace: volume.workspace.to_string(),
        driver: view.driver.to_string(),
        size: volume.size.unwrap_or_default(),
        created_at: Some(convert::time(volume.created_at)),
        created_by: volume.created_by,
        used_by: volume
            .used_by
            .into_iter()
            .map(|user| wire::VolumeUser { id: user.id.to_string(), name: user.name })
            .collect(),
        epoch: volume.epoch.to_string(),
    }
}
