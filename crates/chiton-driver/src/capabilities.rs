//! What a driver can do, declared once and checked before anything is stored.

use std::collections::BTreeSet;

use chiton_model::{DriverId, Resources};
use serde::{Deserialize, Serialize};

/// A place in a plan that extensions can write without knowing the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Point {
    /// An environment variable of everything in the sandbox.
    Env,
    /// A label of the backend object.
    Label,
    /// An annotation of the backend object.
    Annotation,
    /// A host folder or file shown in the sandbox.
    Mount,
    /// A host device shown in the sandbox.
    Device,
    /// The sandbox's network address.
    Network,
    /// A limit.
    Resource,
}

impl Point {
    /// The word that configs, messages and descriptors use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Env => "env",
            Self::Label => "label",
            Self::Annotation => "annotation",
            Self::Mount => "mount",
            Self::Device => "device",
            Self::Network => "network",
            Self::Resource => "resource",
        }
    }
}

/// Something a driver can do beyond the contract's core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    /// Create and start are separate, so that `after_create` and `before_start` see a created, unstarted object.
    TwoPhaseStart,
    /// Keeps the main process's output.
    Logs,
    /// Keeps named volumes that outlive sandboxes.
    Volumes,
    /// Knows workspaces (its own ensure and release calls do something).
    Workspaces,
}

impl Feature {
    /// The word that messages and descriptors use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TwoPhaseStart => "two_phase_start",
            Self::Logs => "logs",
            Self::Volumes => "volumes",
            Self::Workspaces => "workspaces",
        }
    }
}

/// A limit that a driver can hold a sandbox to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// Processor time.
    Cpu,
    /// Memory.
    Memory,
    /// Processes and threads.
    Pids,
    /// Bytes of its own files.
    Disk,
    /// Number of its own files.
    Inodes,
    /// Open files of one process.
    OpenFiles,
}

impl Limit {
    /// The limits that a request names.
    pub fn asked(resources: &Resources) -> impl Iterator<Item = Self> {
        let asked = [
            (Self::Cpu, resources.cpu.is_some()),
            (Self::Memory, resources.memory.is_some()),
            (Self::Pids, resources.pids.is_some()),
            (Self::Disk, resources.disk.is_some()),
            (Self::Inodes, resources.inodes.is_some()),
            (Self::OpenFiles, resources.open_files.is_some()),
        ];
        asked.into_iter().filter(|(_, asked)| *asked).map(|(limit, _)| limit)
    }

    /// The word that requests and messages use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Disk => "disk",
            Self::Inodes => "inodes",
            Self::OpenFiles => "open_files",
        }
    }
}

/// A kind of network that a driver can give a sandbox besides none at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkKind {
    /// The host's own.
    Host,
    /// One of the driver's own.
    Bridge,
    /// One that the operator or the engine knows by name.
    Named,
}

impl NetworkKind {
    /// The word that requests and messages use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Bridge => "bridge",
            Self::Named => "named",
        }
    }
}

/// Where a driver's effects are made; decides when an unknown create is over (lifecycle rule 5a).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Locality {
    /// By our own children, whose end can be awaited: a delete ends an unfinished create first.
    Local,
    /// By a process that is not our child: a create may land late.
    Remote,
    /// By such a process that also answers a create before it is done, and whose delete does not end what is still at work
    /// for it: until the sandbox was ready once, the create may land after a delete.
    Deferred,
}

/// What a driver declares about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// The operator's id for it.
    pub id: DriverId,
    /// Its kind, for people: `oci`.
    pub kind: String,
    /// Its version, as semver.
    pub version: String,
    /// The image of requests that name none.
    pub default_image: String,
    /// Whether the gateway stops its sandboxes at shutdown and starts them again.
    pub gateway_manages_lifecycle: bool,
    /// Where effects are made.
    pub locality: Locality,
    /// Portable points that its plans offer.
    pub points: BTreeSet<Point>,
    /// Limits that it can hold a sandbox to.
    pub limits: BTreeSet<Limit>,
    /// Networks that it can give a sandbox besides none at all.
    pub networks: BTreeSet<NetworkKind>,
    /// What it can do beyond the core.
    pub features: BTreeSet<Feature>,
    /// The version of its plan's schema.
    pub plan_schema: u32,
    /// Whether sandboxes carry an agent; without one, ready is the driver's word and there is no exec.
    pub agent: bool,
}

impl Capabilities {
    /// Whether create and start are separate calls with a meaning of their own.
    pub fn two_phase_start(&self) -> bool {
        self.features.contains(&Feature::TwoPhaseStart)
    }
}
