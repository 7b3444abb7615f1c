//! Named volumes: files of the driver that outlive sandboxes.

use chiton_model::{GatewayId, MemoryQuantity, SandboxId, StoreEpoch, VolumeName, WorkspaceName};
use jiff::Timestamp;

/// A volume to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeRequest {
    /// The workspace that it is in.
    pub workspace: WorkspaceName,
    /// Its name there.
    pub name: VolumeName,
    /// The most bytes that it may hold; none leaves the driver's default.
    pub size: Option<MemoryQuantity>,
    /// Who asks: a principal's subject.
    pub by: String,
    /// The store's life.
    pub epoch: StoreEpoch,
}

/// A sandbox that shows a volume, running or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeUser {
    /// Its id.
    pub id: SandboxId,
    /// Its name.
    pub name: String,
}

/// A volume of this gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The workspace that it is in.
    pub workspace: WorkspaceName,
    /// Its name there.
    pub name: VolumeName,
    /// The most bytes that it may hold; none when nothing but the disk limits it.
    pub size: Option<u64>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Who asked for it, or for the sandbox that it was made for.
    pub created_by: String,
    /// The installation that it belongs to.
    pub gateway: GatewayId,
    /// The life of the store in which it was made.
    pub epoch: StoreEpoch,
    /// Sandboxes that show it.
    pub used_by: Vec<VolumeUser>,
}
