//! The root file system, mounted in the launch child's own mount namespace.
//!
//! The stage is a tmpfs over `/run` with mode 0711: the uid that the sandbox's root is mapped to must be able to pass
//! it, and no folder of the operator's has to be opened for that. Host paths are opened before it covers them.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::steps::Watch;
use super::{Bind, Entry, LaunchError, RootDocument, Step, layer, volumes};
use crate::sys::{self, Attributes};

/// Where the stage is mounted.
const STAGE: &str = "/run";
/// The container's root.
pub(super) const ROOT: &str = "/run/root";
/// The folder with the runtime specification.
pub(super) const BUNDLE: &str = "/run/bundle";
/// The container library's state.
pub(super) const STATE: &str = "/run/state";
/// The bottom layer.
const SKELETON: &str = "/run/skeleton";
/// The image's layers, with the sandbox's ids.
const IMAGE: &str = "/run/i";

/// Moves this process into a mount namespace of its own.
pub(super) fn separate() -> Result<(), LaunchError> {
    unshare(CloneFlags::CLONE_NEWNS).step("make a mount namespace")?;
    private()
}

/// Keeps what is mounted from here on from going elsewhere.
pub(super) fn private() -> Result<(), LaunchError> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .step("make mounts private")
}

/// Makes the root at [`ROOT`] and empty [`BUNDLE`] and [`STATE`] folders, in a mount namespace of its own. For an
/// ordinary user (`user`) the image's files keep their owners.
pub(super) fn make(root: &RootDocument, user: bool, watch: &mut Watch) -> Result<(), LaunchError> {
    let sources = root
        .binds
        .iter()
        .map(|bind| clone_tree(&bind.source, !bind.device).map_err(|error| named(&bind.source, &error)))
        .collect::<Result<Vec<_>, _>>()
        .step("open what is shown from the host")?;
    // An ordinary user may not shift owners.
    let users = if user || root.lowers.is_empty() {
        None
    } else {
        Some(sys::user_namespace(root.first_id, root.ids).step("make the sandbox's ids")?)
    };
    let lowers = root
        .lowers
        .iter()
        .map(|path| image(path, users.as_ref()).map_err(|error| named(path, &error)))
        .collect::<Result<Vec<_>, _>>()
        .step("map the image's owners into the sandbox")?;
    watch.done("open what is shown from the host");
    let layer = layer::open(&root.layer)?;
    let volumes = volumes::open(&root.volumes)?;
    if user {
        super::user::hide_cgroups().step("hide cgroups")?;
    } else {
        hide_cgroups().step("detach cgroups")?;
    }
    watch.done("open the layers, hide cgroups");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), STAGE, Some("tmpfs"), flags, Some("mode=0711,size=16m")).step("mount the stage")?;
    for folder in [ROOT, BUNDLE, STATE, SKELETON, IMAGE] {
        fs::DirBuilder::new().mode(0o755).create(folder).step("lay out the stage")?;
    }
    skeleton(root).step("lay out the bottom layer")?;
    let (upper, work) = layer.enter(root.first_id).step("enter the sandbox's disk")?;
    watch.done("make the bottom layer");
    overlay(&lowers, &upper, &work, user)?;
    watch.done("mount the overlay");
    let opened = open_folder(Path::new(ROOT)).step("open the root")?;
    for (bind, source) in root.binds.iter().zip(sources) {
        show(&opened, bind, &source, root.first_id)
            .map_err(|error| io::Error::new(error.kind(), format!("at {}: {error}", bind.target)))
            .step("show a host path in the sandbox")?;
    }
    volumes::show(&opened, root, volumes, user)?;
    watch.done("show host paths and volumes");
    Ok(())
}

fn open_folder(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn clone_tree(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    Ok(open_tree(CWD, path, flags)?)
}

/// A detached, read-only copy of a folder's mount on which the files' owners are shifted into the sandbox's range; an
/// ordinary user may not shift them. The path is followed without links: it was resolved when the plan was made, and
/// must not lead elsewhere since.
fn image(path: &Path, users: Option<&OwnedFd>) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
    let tree = open_tree(
        &folder,
        "",
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH,
    )?;
    let attributes = Attributes { read_only: true, ..Attributes::default() };
    sys::set_attributes(tree.as_fd(), attributes, users.map(AsFd::as_fd))?;
    Ok(tree)
}

/// Hides all cgroup hierarchies from the container library, which then leaves cgroups alone: the process is in them
/// already. What remains at `/sys/fs/cgroup` must be a tmpfs, the library's sign of hierarchies apart.
fn hide_cgroups() -> io::Result<()> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo")?;
    let points = mountinfo.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let point = before.split(' ').nth(4)?;
        (after.starts_with("cgroup") && point.starts_with("/sys/fs/cgroup")).then_some(point)
    });
    let points: Vec<&str> = points.collect();
    for point in points.iter().rev() {
        umount2(*point, MntFlags::MNT_DETACH)?;
    }
    if points.contains(&"/sys/fs/cgroup") || !Path::new("/sys/fs/cgroup").exists() {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("tmpfs"), "/sys/fs/cgroup", Some("tmpfs"), flags, Some("mode=0755,size=4k"))?;
    }
    Ok(())
}

/// Fills the bottom layer; all of it belongs to the sandbox's root.
fn skeleton(root: &RootDocument) -> io::Result<()> {
    let owner = Some(root.first_id);
    let base = Path::new(SKELETON);
    chown(base, owner, owner)?;
    for entry in &root.skeleton {
        match entry {
            Entry::Folder(path, mode) => {
                let path = base.join(path.trim_start_matches('/'));
                fs::create_dir(&path)?;
                chown(&path, owner, owner)?;
                fs::set_permissions(&path, fs::Permissions::from_mode(*mode))?;
            }
            Entry::File(path, text) => {
                let path = base.join(path.trim_start_matches('/'));
                fs::write(&path, text)?;
                chown(&path, owner, owner)?;
            }
            Entry::Link(path, target) => {
                let path = base.join(path.trim_start_matches('/'));
                symlink(target, &path)?;
                lchown(&path, owner, owner)?;
            }
            Entry::Owner(path, uid, gid) => {
                let path = base.join(path.trim_start_matches('/'));
                let shifted = |id: &u32| root.first_id.checked_add(*id);
                lchown(&path, shifted(uid), shifted(gid))?;
            }
        }
    }
    Ok(())
}

/// Mounts the overlay. Layers are named by descriptor: paths may hold commas and colons, and the sandbox sees this
/// text in its own mount table.
fn overlay(lowers: &[OwnedFd], upper: &OwnedFd, work: &OwnedFd, user: bool) -> Result<(), LaunchError> {
    use std::os::fd::AsRawFd;
    let mut stack = String::new();
    for (index, tree) in lowers.iter().enumerate() {
        // Short names: all of them together must fit into one page.
        let place = format!("{IMAGE}/{index}");
        fs::create_dir(&place).step("lay out the stage")?;
        move_mount(tree, "", CWD, &place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).step("mount the image")?;
        stack.push_str(&place);
        stack.push(':');
    }
    // An ordinary user may not write the extended attributes that the overlay otherwise uses.
    let options = format!(
        "lowerdir={stack}{SKELETON},upperdir=/proc/self/fd/{},workdir=/proc/self/fd/{}{}",
        upper.as_raw_fd(),
        work.as_raw_fd(),
        if user { ",userxattr" } else { "" }
    );
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("overlay"), ROOT, Some("overlay"), flags, Some(options.as_str())).step("mount the overlay")
}

/// Mounts a host path below the root. The target is resolved inside the root as the sandbox would resolve it: links
/// that a former run of the sandbox left there cannot lead out.
fn show(root: &OwnedFd, bind: &Bind, source: &OwnedFd, owner: u32) -> io::Result<()> {
    let attributes = Attributes { read_only: bind.read_only, devices: bind.device, recursive: !bind.device };
    sys::set_attributes(source.as_fd(), attributes, None)?;
    let stat = rustix::fs::fstat(source)?;
    let folder = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory;
    let target = mount_point(root.as_fd(), &bind.target, folder, owner)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(source, "", &target, "", flags)?)
}

/// Opens a path below the root, making what is missing.
pub(super) fn mount_point(root: BorrowedFd<'_>, path: &str, folder: bool, owner: u32) -> io::Result<OwnedFd> {
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let path = path.trim_matches('/');
    let opened = openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), inside);
    if !matches!(opened, Err(Errno::NOENT)) {
        return Ok(opened?);
    }
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let parent = if parent.is_empty() { root.try_clone_to_owned()? } else { mount_point(root, parent, true, owner)? };
    let ids = (Some(rustix::fs::Uid::from_raw(owner)), Some(rustix::fs::Gid::from_raw(owner)));
    if folder {
        rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
    } else {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644))?;
    }
    rustix::fs::chownat(&parent, name, ids.0, ids.1, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), inside)?)
}
