//! By what means this machine can limit a writable layer.

use std::fs;
use std::path::PathBuf;

use chiton_model::{Error, printable};

use crate::plan::{DiskMeans, ResourcesPlan};

use super::Geometry;

/// The program that makes file systems in images; from e2fsprogs.
const MKFS: &str = "mkfs.ext4";
/// Where it is looked for: a gateway's search path need not have system folders.
const FOLDERS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin"];

/// What was found, looked at once.
#[derive(Clone, Debug)]
pub(crate) struct DiskAbility {
    /// `mkfs.ext4`, or what an image would need and is missing here.
    pub(crate) image: Result<PathBuf, String>,
}

impl DiskAbility {
    /// Looks at the machine. Changes nothing.
    pub(crate) fn detect() -> Self {
        Self { image: image() }
    }

    /// The best means that keeps what is written.
    pub(crate) fn best(&self) -> Option<DiskMeans> {
        self.image.is_ok().then_some(DiskMeans::Image)
    }

    /// What is missing, for people.
    pub(crate) fn lacking(&self) -> String {
        self.image.clone().err().unwrap_or_default()
    }
}

fn image() -> Result<PathBuf, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("mounting an image needs root".to_owned());
    }
    let systems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !systems.lines().any(|line| line.split_whitespace().last() == Some("ext4")) {
        return Err("the kernel has no ext4 file system (modprobe ext4)".to_owned());
    }
    fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/loop-control")
        .map_err(|error| format!("no loop devices: /dev/loop-control: {error} (modprobe loop)"))?;
    let found = FOLDERS.iter().map(|folder| PathBuf::from(folder).join(MKFS)).find(|path| path.exists());
    found.ok_or_else(|| format!("{MKFS} is not in {} (install e2fsprogs)", FOLDERS.join(", ")))
}

/// The means for a request: what it asks for, else the best that this machine has.
pub(crate) fn chosen(asked: Option<DiskMeans>, means: &DiskAbility) -> Option<DiskMeans> {
    asked.or_else(|| means.best())
}

/// Checks a plan's limits of the writable layer against this machine: each is applied or refused.
pub(crate) fn check(limits: &ResourcesPlan, read_only: bool, means: &DiskAbility) -> Result<(), Error> {
    if limits.disk_lost_at_stop != (limits.disk_by == Some(DiskMeans::Memory)) {
        return Err(Error::refused("driver", "the plan is not true about what is lost at a stop")
            .cure("leave /resources/disk_by and /resources/disk_lost_at_stop as the driver made them"));
    }
    let memory = limits.disk_by == Some(DiskMeans::Memory);
    if !limits.limits_disk() {
        if !memory {
            return Ok(());
        }
        let text = "a writable layer in memory needs a size, and the request gives none";
        return Err(Error::invalid("resources.disk", text).cure("give a disk limit too, for example --disk 64Mi"));
    }
    if read_only {
        return Err(Error::invalid("resources.disk", "the root is read-only: there is no writable layer to limit")
            .cure("leave the disk and inode limits out, or let the root be written"));
    }
    match limits.disk_by {
        Some(DiskMeans::Image) => {
            Geometry::of(limits)?;
            means.image.as_ref().map(drop).map_err(|lacking| lacks(lacking))
        }
        Some(DiskMeans::Memory) => memory_fits(limits),
        None => Err(lacks(&means.lacking())),
    }
}

fn lacks(lacking: &str) -> Error {
    let text = format!("this machine cannot limit the writable layer and keep it: {}", printable(lacking));
    Error::refused("driver", text).cure(
        "install or enable what is missing; leave the limit out; or, if losing the files at a stop will do, ask for \
         a layer in memory with the driver's option disk = \"memory\"",
    )
}

/// A layer in memory counts to the memory limit; as large as that limit it could never fill up, the sandbox would be
/// killed instead.
fn memory_fits(limits: &ResourcesPlan) -> Result<(), Error> {
    let Some(disk) = &limits.disk else {
        let text = "a writable layer in memory needs a size, and the request gives none";
        return Err(Error::invalid("resources.disk", text).cure("give a disk limit too, for example --disk 64Mi"));
    };
    if disk.bytes() < 64 << 10 {
        return Err(Error::invalid("resources.disk", format!("a disk limit of {disk} leaves no room to start in"))
            .cure("allow at least 64Ki"));
    }
    match &limits.memory {
        Some(memory) if disk.bytes() >= memory.bytes() => {
            let text = format!(
                "a writable layer of {disk} in memory does not fit into the memory limit of {memory}: the sandbox \
                 would be killed before the layer is full"
            );
            Err(Error::invalid("resources.disk", text).cure("make the disk limit smaller than the memory limit"))
        }
        _ => Ok(()),
    }
}
