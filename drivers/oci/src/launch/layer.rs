//! The writable layer: a folder, or a file system of the sandbox's own that is as large as its limit.
//!
//! A file system is made as a detached mount, before the stage covers anything, and attached below the stage: the host
//! never sees it, and it ends with the last process of the sandbox.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Uid, chownat, mkdirat, openat, openat2, statat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen, move_mount,
};
use serde::{Deserialize, Serialize};

use super::{LaunchError, Step};
use crate::sys::loops;
use crate::wait;

/// Where a file system of the layer's own is attached, below the stage.
const LAYER: &str = "/run/layer";
/// How long an image may still be in use by what is just ending.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a file system in memory needs of its own: its root, the two folders, and the overlay's folder of work.
const OWN_INODES: u64 = 4;

/// Where what the sandbox writes is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Layer {
    /// In a folder of the host.
    Folder {
        /// The upper layer.
        upper: PathBuf,
        /// The overlay's work folder.
        work: PathBuf,
    },
    /// In a file system in a file.
    Image(PathBuf),
    /// In memory.
    Memory {
        /// Its size.
        bytes: u64,
        /// The most files.
        inodes: u64,
    },
}

/// A layer that is ready to be entered.
pub(super) enum Ready {
    Folder { upper: OwnedFd, work: OwnedFd },
    Mount(OwnedFd),
}

/// Opens the layer. To be called while the host's folders can be seen.
pub(super) fn open(layer: &Layer) -> Result<Ready, LaunchError> {
    let folder = |path: &Path| openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    match layer {
        Layer::Folder { upper, work } => Ok(Ready::Folder {
            upper: folder(upper).step("open the upper layer")?,
            work: folder(work).step("open the overlay's work folder")?,
        }),
        Layer::Image(path) => image(path, PATIENCE).map(Ready::Mount).step("mount the sandbox's disk"),
        Layer::Memory { bytes, inodes } => memory(*bytes, *inodes).map(Ready::Mount).step("make a disk in memory"),
    }
}

/// A detached mount of the file system in an image.
///
/// The lock on the file belongs to the open file, and the loop device holds that for as long as it is bound. So an image
/// that is mounted anywhere, by whomever, cannot be mounted a second time, which would destroy it.
pub(super) fn image(path: &Path, patience: Duration) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?);
    // The kernel gives a device up after the last process of its mount ended.
    wait::for_lock(&file, patience, "it is mounted by another sandbox")?;
    let (device, node) = loops::attach(&file)?;
    let system = fsopen("ext4", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&system, "source", &node)?;
    // What is deleted gives its room back to the host.
    for flag in ["discard", "noinit_itable"] {
        fsconfig_set_flag(&system, flag)?;
    }
    fsconfig_set_string(&system, "errors", "remount-ro")?;
    fsconfig_create(&system)?;
    let mounted = fsmount(&system, FsMountFlags::FSMOUNT_CLOEXEC, attributes())?;
    // From here on the mount keeps the device.
    drop(device);
    Ok(mounted)
}

fn attributes() -> MountAttrFlags {
    MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV
}

fn memory(bytes: u64, inodes: u64) -> io::Result<OwnedFd> {
    let system = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&system, "size", bytes.to_string())?;
    fsconfig_set_string(&system, "nr_inodes", inodes.saturating_add(OWN_INODES).to_string())?;
    fsconfig_set_string(&system, "mode", "0711")?;
    fsconfig_create(&system)?;
    Ok(fsmount(&system, FsMountFlags::FSMOUNT_CLOEXEC, attributes())?)
}

impl Ready {
    /// Attaches the layer below the stage; returns the upper layer and the overlay's work folder.
    pub(super) fn enter(self, owner: u32) -> io::Result<(OwnedFd, OwnedFd)> {
        let mounted = match self {
            Self::Folder { upper, work } => return Ok((upper, work)),
            Self::Mount(mounted) => mounted,
        };
        fs::DirBuilder::new().mode(0o711).create(LAYER)?;
        move_mount(&mounted, "", CWD, LAYER, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        let upper = folder(&mounted, "upper", 0o755)?;
        let (user, group) = (Uid::from_raw(owner), Gid::from_raw(owner));
        if statat(&upper, "", AtFlags::EMPTY_PATH)?.st_uid != owner {
            chownat(&upper, "", Some(user), Some(group), AtFlags::EMPTY_PATH)?;
        }
        Ok((upper, folder(&mounted, "work", 0o700)?))
    }
}

/// Opens a folder of the layer, made when it is not there. Nobody in a sandbox can reach it but as its root.
fn folder(layer: &OwnedFd, name: &str, mode: u32) -> io::Result<OwnedFd> {
    match mkdirat(layer, name, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(layer.as_fd(), name, flags, Mode::empty())?)
}
