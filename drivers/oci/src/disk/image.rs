//! Images: made once for each size, copied for each sandbox.
//!
//! A pristine image is some hundred KiB in a sparse file. It is kept in `disks/` under its geometry and copied (as a
//! reflink where the file system can, else only what is not a hole) to the sandbox's folder. Neither is fsynced: the
//! kernel's first mount of a copy writes its superblock with a flush, which loop devices pass on to the file, so that
//! an image that was ever used outlives a power loss.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{SeekFrom, copy_file_range, ftruncate, ioctl_ficlone, seek};
use rustix::io::Errno;

use super::geometry::{BLOCK, Geometry, INODE, JOURNAL_MIB};
use crate::program;

/// How long mkfs may take; 8 TiB take some seconds.
const MKFS_DEADLINE: Duration = Duration::from_secs(30);
/// Pristine images that are kept. Sizes come from requests, so that their number must have a bound.
const KEPT: usize = 16;
/// The form of pristine images; part of their name.
const FORM: u32 = 1;
/// Tells work folders of this process apart.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// Makes the image `to`, unless it is there. It appears whole under its name or not at all.
pub(crate) fn prepare(disks: &Path, mkfs: &Path, geometry: Geometry, to: &Path) -> io::Result<()> {
    if to.symlink_metadata().is_ok() {
        return Ok(());
    }
    let temporary = to.with_extension("new");
    for attempt in 0.. {
        let pristine = pristine(disks, mkfs, geometry)?;
        match copy(&pristine, &temporary) {
            // Thrown out between the two steps, to make room for another.
            Err(error) if error.kind() == io::ErrorKind::NotFound && attempt < 3 => {}
            Err(error) => return Err(error),
            Ok(()) => break,
        }
    }
    fs::rename(&temporary, to)
}

/// The pristine image of a geometry, made when it is not there.
fn pristine(disks: &Path, mkfs: &Path, geometry: Geometry) -> io::Result<PathBuf> {
    crate::host::make_folder(disks)?;
    let path = disks.join(format!("ext4-{FORM}-{}-{}.img", geometry.bytes, geometry.inodes));
    if path.exists() {
        return Ok(path);
    }
    throw_out(disks)?;
    // The process's id and a number of its own: several creates may want the same image at once, and the last one's
    // replaces the others' equal ones.
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let work = disks.join(format!("new-{}-{number}", std::process::id()));
    let made = make(&work, mkfs, geometry).and_then(|()| fs::rename(work.join("image"), &path));
    let _ = fs::remove_dir_all(&work);
    made.map(|()| path)
}

fn make(work: &Path, mkfs: &Path, geometry: Geometry) -> io::Result<()> {
    fs::create_dir(work)?;
    let tree = work.join("tree");
    for (folder, mode) in [("", 0o711), ("upper", 0o755), ("work", 0o700)] {
        fs::create_dir(tree.join(folder))?;
        // The file mode mask of the process does not decide this.
        fs::set_permissions(tree.join(folder), fs::Permissions::from_mode(mode))?;
    }
    let image = work.join("image");
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&image)?;
    ftruncate(&file, geometry.bytes)?;
    drop(file);
    let features = "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,\
                    huge_file,dir_nlink,extra_isize,metadata_csum";
    let mut command = Command::new(mkfs);
    command
        // The machine's own defaults must not decide what an image is.
        .env_clear()
        .env("MKE2FS_CONFIG", "/dev/null")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .args(["-q", "-F", "-m", "0", "-b", &BLOCK.to_string(), "-I", &INODE.to_string()])
        .args(["-N", &geometry.inodes.to_string(), "-J", &format!("size={JOURNAL_MIB}"), "-O", features])
        // A hole reads as zeroes: nothing has to be written now, and nothing by the kernel later.
        .args(["-E", "lazy_itable_init=0,lazy_journal_init=1,root_owner=0:0", "-d"])
        .arg(&tree)
        .arg(&image)
        .stdin(Stdio::null())
        .current_dir("/");
    let ended = program::run(&mut command, MKFS_DEADLINE)?;
    if ended.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("{}: {}: {}", mkfs.display(), ended.status, ended.complaint())))
}

/// Removes the oldest pristine images, so that there is room for one more.
fn throw_out(disks: &Path) -> io::Result<()> {
    let mut found = Vec::new();
    for entry in fs::read_dir(disks)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "img") {
            match fs::metadata(&path).and_then(|metadata| metadata.modified()) {
                Ok(at) => found.push((at, path)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    found.sort();
    let surplus = found.len().saturating_sub(KEPT - 1);
    for (_, path) in found.into_iter().take(surplus) {
        chiton_oci_monitor::files::remove(&path)?;
    }
    Ok(())
}

/// Copies a sparse file: as a reflink, else piece by piece without its holes.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let source = File::open(from)?;
    let target = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(to)?;
    if ioctl_ficlone(&target, &source).is_ok() {
        return Ok(());
    }
    let length = source.metadata()?.len();
    ftruncate(&target, length)?;
    let mut at = 0;
    while at < length {
        let begin = match seek(source.as_fd(), SeekFrom::Data(at)) {
            Ok(begin) => begin,
            // No data after this.
            Err(Errno::NXIO) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let end = seek(source.as_fd(), SeekFrom::Hole(begin))?;
        let (mut input, mut output) = (begin, begin);
        while input < end {
            let left = usize::try_from(end - input).unwrap_or(usize::MAX);
            if copy_file_range(&source, Some(&mut input), &target, Some(&mut output), left)? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
        }
        at = end;
    }
    Ok(())
}
