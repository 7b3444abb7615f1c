//! Writing a file so that nobody sees half of it: under a temporary name in the same folder, then a rename.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, RawMode, ResolveFlags, Stat, Uid, fchmod, fchown, fstat, linkat, openat,
    openat2, renameat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;

/// Makes temporary names differ inside one agent; the process id makes them differ between agents.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// Opens a folder for the calls below.
pub(super) fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    open(path, OFlags::PATH | OFlags::DIRECTORY)
}

/// Opens what a caller named. Links of the sandbox's own are followed, but never one of /proc that leads to what a process
/// has open (`/proc/1/fd/5`, `/proc/1/root`): a program could make a caller's path lead into the agent itself.
pub(super) fn open(path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC;
    match openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS) {
        // A kernel or a filter without that call.
        Err(Errno::NOSYS | Errno::PERM) => Ok(openat(CWD, path, flags, Mode::empty())?),
        result => Ok(result?),
    }
}

/// Whether an open file tells of the agent itself: its environment and memory hold the sandbox's token, and a caller who
/// was led there would carry it to wherever the file is copied.
pub(super) fn is_own(file: &File) -> io::Result<bool> {
    /// `PROC_SUPER_MAGIC` (statfs(2)).
    const PROC: i128 = 0x9fa0;
    if i128::from(rustix::fs::fstatfs(file)?.f_type) != PROC {
        return Ok(false);
    }
    let place = std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file)))?;
    // By any of its threads' numbers.
    Ok(place.components().any(|part| {
        let part = part.as_os_str();
        part.as_encoded_bytes().iter().all(u8::is_ascii_digit) && Path::new("/proc/self/task").join(part).exists()
    }))
}

/// A new directory entry under a temporary name. Dropped before [`Temporary::publish`], it is removed.
pub(super) struct Temporary<'a> {
    folder: &'a OwnedFd,
    name: String,
    armed: bool,
}

impl<'a> Temporary<'a> {
    fn make<T>(folder: &'a OwnedFd, make: impl Fn(&str) -> rustix::io::Result<T>) -> io::Result<(Self, T)> {
        loop {
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let name = format!(".chiton-{}-{number}.tmp", std::process::id());
            match make(&name) {
                Ok(result) => return Ok((Self { folder, name, armed: true }, result)),
                // Left by an agent that was killed, or put there by a program; another number will do.
                Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// An empty file that only its owner may read until its mode is set.
    pub(super) fn file(folder: &'a OwnedFd) -> io::Result<(Self, File)> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (made, file) = Self::make(folder, |name| openat(folder, name, flags, Mode::RUSR | Mode::WUSR))?;
        Ok((made, File::from(file)))
    }

    /// A symbolic link.
    pub(super) fn symlink(folder: &'a OwnedFd, target: &Path) -> io::Result<Self> {
        Ok(Self::make(folder, |name| symlinkat(target, folder, name))?.0)
    }

    /// Another name of a file. Does not follow a link at `name`.
    pub(super) fn hard_link(folder: &'a OwnedFd, from: impl AsFd, name: &Path) -> io::Result<Self> {
        Ok(Self::make(folder, |new| linkat(&from, name, folder, new, AtFlags::empty()))?.0)
    }

    /// Gives it its name, in the place of what had it.
    pub(super) fn publish(mut self, name: &Path) -> io::Result<()> {
        renameat(self.folder, self.name.as_str(), self.folder, name)?;
        // Two names of one file: then rename does nothing, by POSIX, and the temporary one is still there.
        self.armed = statat(self.folder, self.name.as_str(), AtFlags::SYMLINK_NOFOLLOW).is_ok();
        Ok(())
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if self.armed {
            // The folder itself may be gone; then so is this.
            let _ = unlinkat(self.folder, self.name.as_str(), AtFlags::empty());
        }
    }
}

/// What is at a name now, links not followed.
pub(super) fn existing(folder: impl AsFd, name: &Path) -> io::Result<Option<Stat>> {
    match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether a stat is about a regular file.
pub(super) fn is_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

/// Whether a stat is about a folder.
pub(super) fn is_folder(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Sets the permission bits, and the owner of the file that is being replaced where the agent may.
pub(super) fn dress(file: &File, mode: RawMode, old: Option<&Stat>) -> io::Result<()> {
    if let Some(old) = old {
        let new = fstat(file)?;
        if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid) {
            // Not allowed without the capability: then the new file belongs to the agent, as any write by rename does.
            let _ = fchown(file, Some(Uid::from_raw(old.st_uid)), Some(Gid::from_raw(old.st_gid)));
        }
    }
    // After the owner: a change of owner clears bits.
    Ok(fchmod(file, Mode::from_raw_mode(mode))?)
}
