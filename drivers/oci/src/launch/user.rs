//! What differs for an ordinary user: the launch child is in the user namespace that the driver made and in the
//! monitor's pid namespace, and takes mount and cgroup namespaces that belong to them.

use std::io;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::layer::Layer;
use super::{LaunchError, RootDocument, Step, stage};

/// Moves this process into its namespaces and gives what needs another owner than the user to that owner.
pub(super) fn prepare(root: &RootDocument) -> Result<(), LaunchError> {
    if let Layer::Folder { upper, .. } = &root.layer {
        own(upper, root.first_id).step("give the upper layer to the sandbox's root")?;
    }
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWCGROUP).step("make mount and cgroup namespaces")?;
    stage::private()?;
    // The one that is mounted numbers processes as the host does, and the container library names them by number.
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>).step("mount /proc of the pid namespace")
}

/// In the user namespace its root may change owners among the ids that are mapped.
fn own(folder: &Path, id: u32) -> io::Result<()> {
    let metadata = std::fs::symlink_metadata(folder)?;
    if metadata.uid() == id && metadata.gid() == id { Ok(()) } else { lchown(folder, Some(id), Some(id)) }
}

/// Covers all cgroup hierarchies by the unified one as this process's cgroup namespace has it, read-only. The container
/// library takes that for a machine with nothing else, and that it may not write there for the usual lot of an ordinary
/// user: it leaves the process in the cgroup where it is, which is the sandbox's where there is one.
pub(super) fn hide_cgroups() -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    // The kernel refuses to mount a file system over itself, which is what is there where no other version is.
    mount(Some("tmpfs"), "/sys/fs/cgroup", Some("tmpfs"), flags, Some("mode=0755,size=4k"))?;
    Ok(mount(Some("cgroup2"), "/sys/fs/cgroup", Some("cgroup2"), flags, None::<&str>)?)
}
