//! Limits.

use chiton_driver::parse_count;
use chiton_model::{CpuQuantity, Error, MemoryQuantity, Resources};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::options::OciOptions;

/// By what means the bytes and files of a sandbox's writable layer are limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DiskMeans {
    /// A file system of its own in a sparse file.
    Image,
    /// A file system in memory. What was written is lost when the sandbox stops, and counts to its memory.
    Memory,
}

impl DiskMeans {
    /// The word that plans, requests and messages use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Memory => "memory",
        }
    }
}

/// Limits; an absent one is not applied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResourcesPlan {
    /// Processor time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuQuantity>,
    /// Memory, swap included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryQuantity>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
    /// Bytes of the writable layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<MemoryQuantity>,
    /// Files, folders and links of the writable layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inodes: Option<u64>,
    /// By what means the writable layer is limited; sealed. Decided also where no limit is asked for, because an
    /// extension may set one. Absent: this machine has no means.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_by: Option<DiskMeans>,
    /// Whether what the sandbox wrote is lost when it stops; sealed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disk_lost_at_stop: bool,
    /// Files that one process may have open. Absent: 65,536, or the gateway's own hard limit where that is lower.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_files: Option<u32>,
}

impl ResourcesPlan {
    /// The limits of a request over the operator's defaults. `disk_by` is what the machine has, or what the request asked
    /// for; a root that cannot be written has nothing to limit.
    pub(super) fn of(asked: &Resources, options: &OciOptions, read_only: bool, disk_by: Option<DiskMeans>) -> Self {
        let disk = options.default_disk.as_ref().filter(|_| !read_only);
        Self {
            cpu: asked.cpu.clone(),
            memory: asked.memory.clone().or_else(|| options.default_memory.clone()),
            pids: asked.pids.or(options.default_pids),
            disk: asked.disk.clone().or_else(|| disk.cloned()),
            inodes: asked.inodes,
            disk_by,
            disk_lost_at_stop: disk_by == Some(DiskMeans::Memory),
            open_files: asked.open_files,
        }
    }

    /// Whether the writable layer is limited at all.
    pub(crate) fn limits_disk(&self) -> bool {
        self.disk.is_some() || self.inodes.is_some()
    }
}

/// Sets one limit from its portable form.
pub(super) fn write_resource(resources: &mut ResourcesPlan, name: &str, quantity: &str) -> Result<(), Error> {
    let field = format!("resources.{name}");
    match name {
        "cpu" => resources.cpu = Some(CpuQuantity::parse(&field, quantity)?),
        "memory" => resources.memory = Some(MemoryQuantity::parse(&field, quantity)?),
        "disk" => resources.disk = Some(MemoryQuantity::parse(&field, quantity)?),
        "pids" => resources.pids = Some(parse_count(&field, quantity)?),
        "inodes" => resources.inodes = Some(parse_count(&field, quantity)?),
        "open_files" => resources.open_files = Some(parse_count(&field, quantity)?),
        _ => {
            return Err(Error::invalid(&field, format!("there is no limit called {name:?}"))
                .cure("the limits are \"cpu\", \"memory\", \"pids\", \"disk\", \"inodes\" and \"open_files\""));
        }
    }
    Ok(())
}
