//! What the driver keeps on disk of each sandbox, and where.
//!
//! The record is written (temporary file and rename) before the sandbox's first effect and is *not* fsynced. It exists
//! so that a later gateway of this boot can find and remove what an earlier one made: cgroups, a monitor, mounts. A
//! power loss ends all of these, and what is durable beyond that (that the sandbox exists at all) is in the engine's
//! journal, which was synced before the driver was called. What remains after a power loss is a folder with the
//! sandbox's id as its name, which a delete removes with or without a record.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use chiton_driver::Identity;
use chiton_image::Digest;
use chiton_model::{GatewayId, SandboxId, StoreEpoch, VolumeName};
use chiton_oci_monitor::cgroup::Hierarchy;
use chiton_oci_monitor::files;
use serde::{Deserialize, Serialize};

use crate::options::OciOptions;

/// The record's file name in the sandbox's folder.
const FILE: &str = "record.json";

/// What is kept of a sandbox. It holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The form of this record.
    pub(crate) version: u32,
    /// The sandbox.
    pub(crate) id: SandboxId,
    /// The installation.
    pub(crate) gateway: GatewayId,
    /// The store's life.
    pub(crate) epoch: StoreEpoch,
    /// The number of the commit that intended it.
    pub(crate) commit: u64,
    /// Managed labels, the plan's labels below them.
    pub(crate) labels: std::collections::BTreeMap<String, String>,
    /// Annotations of the plan.
    pub(crate) annotations: std::collections::BTreeMap<String, String>,
    /// The image that its layers are of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<ImageUse>,
    /// The first id of its range: of the host where the driver runs as root, else of the user's own namespace.
    pub(crate) first_id: u32,
    /// How many ids it has.
    #[serde(default = "all_ids")]
    pub(crate) ids: u32,
    /// Its cgroups.
    pub(crate) cgroups: Vec<Hierarchy>,
    /// The start that was asked for last.
    pub(crate) attempt: Option<String>,
    /// Its named volumes, within its workspace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) volumes: Vec<VolumeName>,
    /// How long its main process may take to end by itself.
    pub(crate) stop_grace_seconds: u64,
    /// The kernel's boot id when it was made or started last; empty when it could not be read.
    #[serde(default)]
    pub(crate) boot: String,
    /// Its place on the bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) network: Option<crate::network::Lease>,
}

/// The kernel's id of this boot; empty when it cannot be read.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// What a record without the number had.
fn all_ids() -> u32 {
    crate::means::IDS
}

/// The layers that a sandbox is made of; while its record stands they are not removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImageUse {
    /// The image.
    pub(crate) digest: Digest,
    /// Chain ids, the lowest first.
    pub(crate) chains: Vec<Digest>,
}

impl Record {
    pub(crate) const VERSION: u32 = 1;

    /// Managed labels are set last, so that nothing overrides them.
    pub(crate) fn labels(
        identity: &Identity,
        plan: &std::collections::BTreeMap<String, String>,
    ) -> std::collections::BTreeMap<String, String> {
        let mut labels = plan.clone();
        labels.extend(identity.labels().map(|(key, value)| (key.to_owned(), value)));
        labels
    }

    /// Whether what it tells of can still be running. Where that is unknown it can.
    pub(crate) fn is_of_this_boot(&self) -> bool {
        let now = boot_id();
        self.boot.is_empty() || now.is_empty() || self.boot == now
    }

    pub(crate) fn store(&self, dir: &Path) -> io::Result<()> {
        files::replace(dir, FILE, &serde_json::to_vec(self)?, false)
    }

    /// Reads a record's bytes.
    pub(crate) fn decode(bytes: &[u8]) -> io::Result<Self> {
        let record: Self = serde_json::from_slice(bytes)?;
        if record.version == Self::VERSION {
            return Ok(record);
        }
        let (found, known) = (record.version, Self::VERSION);
        Err(io::Error::other(format!("it has version {found}, known is {known}")))
    }

    pub(crate) fn load(dir: &Path) -> io::Result<Option<Self>> {
        match fs::read(dir.join(FILE)) {
            Ok(bytes) => Self::decode(&bytes).map(Some).map_err(|error| {
                io::Error::new(error.kind(), format!("{} cannot be read: {error}", dir.join(FILE).display()))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Where everything of one sandbox is.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    /// Its folder: record, marks, exit record, log, layers.
    pub(crate) dir: PathBuf,
    /// What it wrote.
    pub(crate) upper: PathBuf,
    /// The overlay's work folder.
    pub(crate) work: PathBuf,
    /// The image that holds both where the layer is limited.
    pub(crate) disk: PathBuf,
    /// The monitor's socket is here.
    pub(crate) run: PathBuf,
    /// The agent's folder.
    pub(crate) agent: PathBuf,
    /// The lock.
    pub(crate) lock: PathBuf,
    /// The tombstone.
    pub(crate) tombstone: PathBuf,
}

impl Paths {
    pub(crate) fn new(options: &OciOptions, id: &SandboxId) -> Self {
        let dir = sandboxes(options).join(id.as_str());
        Self {
            upper: dir.join("upper"),
            work: dir.join("work"),
            disk: dir.join("disk.img"),
            dir,
            run: options.run_dir.join("monitors").join(id.as_str()),
            agent: options.run_dir.join("agent").join(id.as_str()),
            lock: locks(options).join(format!("{id}.lock")),
            tombstone: locks(options).join(format!("{id}.deleted")),
        }
    }
}

/// The folder of all sandboxes' folders.
pub(crate) fn sandboxes(options: &OciOptions) -> PathBuf {
    options.state_dir.join("sandboxes")
}

/// The folder of locks and tombstones.
pub(crate) fn locks(options: &OciOptions) -> PathBuf {
    options.state_dir.join("locks")
}

/// The ids of all sandbox folders.
pub(crate) fn ids(options: &OciOptions) -> io::Result<Vec<SandboxId>> {
    let entries = match fs::read_dir(sandboxes(options)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        // A name that is no id was not made by this driver.
        if let Some(id) = entry?.file_name().to_str().and_then(|name| SandboxId::new(name).ok()) {
            found.push(id);
        }
    }
    found.sort();
    Ok(found)
}
