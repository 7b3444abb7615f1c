//! Named volumes, shown with the sandbox's ids.
//!
//! A volume's files carry the ids that they have *in* sandboxes: every sandbox has a range of its own on the host, and
//! an idmapped mount shifts between the two, so that the same volume belongs to the same users in each. An
//! ordinary user may not shift owners: its sandboxes with volumes have all the same ids.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use serde::{Deserialize, Serialize};

use super::layer;
use super::stage::mount_point;
use super::{LaunchError, RootDocument, Step};
use crate::sys::{self, Attributes};

/// Where file systems of volumes are attached, below the stage.
const VOLUMES: &str = "/run/volumes";
/// How long a volume with a size may still be in use by a sandbox that is ending.
const PATIENCE: Duration = Duration::from_secs(3);

/// A volume and where it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VolumeBind {
    /// Its name, for messages.
    pub(crate) name: String,
    /// Its folder, or its image.
    pub(crate) source: PathBuf,
    /// Whether `source` is an image.
    pub(crate) image: bool,
    /// Absolute path in the sandbox.
    pub(crate) target: String,
    /// Whether it cannot be written there.
    pub(crate) read_only: bool,
}

/// A volume whose files can be reached whatever covers the host's folders.
pub(super) enum Opened {
    /// Its folder.
    Folder(OwnedFd),
    /// A detached mount of its image.
    Mount(OwnedFd),
}

/// Opens the volumes. To be called while the host's folders can be seen.
pub(super) fn open(volumes: &[VolumeBind]) -> Result<Vec<Opened>, LaunchError> {
    volumes
        .iter()
        .map(|volume| opened(volume).map_err(|error| named(volume, &error)))
        .collect::<Result<_, _>>()
        .step("open the sandbox's volumes")
}

fn opened(volume: &VolumeBind) -> io::Result<Opened> {
    if volume.image {
        return layer::image(&volume.source, PATIENCE).map(Opened::Mount);
    }
    // The driver made the path; a link in it would be somebody else's.
    folder(CWD, &volume.source).map(Opened::Folder)
}

fn folder(at: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat2(at, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?)
}

fn named(volume: &VolumeBind, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("volume {:?}: {error}", volume.name))
}

/// Shows the volumes below the sandbox's root.
pub(super) fn show(
    root: &OwnedFd,
    document: &RootDocument,
    opened: Vec<Opened>,
    user: bool,
) -> Result<(), LaunchError> {
    if opened.is_empty() {
        return Ok(());
    }
    let users = (!user).then(|| sys::user_namespace(document.first_id, document.ids)).transpose();
    let users = users.step("map the volumes' owners into the sandbox")?;
    fs::DirBuilder::new().mode(0o700).create(VOLUMES).step("make a place for volumes")?;
    for (index, (volume, opened)) in document.volumes.iter().zip(opened).enumerate() {
        place(root, document, volume, opened, index, users.as_ref())
            .map_err(|error| named(volume, &error))
            .step("show a volume in the sandbox")?;
    }
    Ok(())
}

fn place(
    root: &OwnedFd,
    document: &RootDocument,
    volume: &VolumeBind,
    opened: Opened,
    index: usize,
    users: Option<&OwnedFd>,
) -> io::Result<()> {
    let files = match opened {
        Opened::Folder(files) => files,
        Opened::Mount(mounted) => {
            let path = PathBuf::from(VOLUMES).join(index.to_string());
            fs::DirBuilder::new().mode(0o700).create(&path)?;
            move_mount(&mounted, "", CWD, &path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
            folder(&mounted, Path::new("upper"))?
        }
    };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(&files, "", flags)?;
    let attributes = Attributes { read_only: volume.read_only, ..Attributes::default() };
    sys::set_attributes(tree.as_fd(), attributes, users.map(AsFd::as_fd))?;
    let target = mount_point(root.as_fd(), &volume.target, true, document.first_id)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(&tree, "", &target, "", flags)?)
}
