//! Entries become files, below one folder and nowhere else.
//!
//! Every path is resolved by the kernel relative to the layer's own folder with `RESOLVE_BENEATH`, so that no link of
//! the archive leads out of it, and the last part of a name is never followed. The folder is new and nobody else's, so
//! that nothing changes between a look and a deed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod,
    fchown, fsetxattr, ftruncate, futimens, linkat, mkdirat, mknodat, openat, openat2, statat, symlinkat, unlinkat,
    utimensat,
};
use rustix::io::Errno;
use tar::EntryType;

use super::frame::{Entry, Frames, printable};
use super::limits::{Limits, Owner};
use super::parents::{Parents, is_whiteout};
use crate::error::{Doing, ImageError, Result};

/// The longest name that the kernel takes (`PATH_MAX`, without its NUL).
const LONGEST: usize = 4095;
/// The most bytes of the names of a layer's folders, which are kept until its end: half a million of common length.
const FOLDER_NAMES: u64 = 32 << 20;
/// The mark of a name that a layer removes (OCI image specification, layer.md).
const WHITEOUT: &[u8] = b".wh.";
/// The mark of a folder whose lower contents a layer removes.
const OPAQUE: &[u8] = b".wh..wh..opq";

fn refuse(entry: &[u8], why: impl Into<String>) -> ImageError {
    ImageError::Entry { entry: printable(entry), why: why.into() }
}

/// The parts of a name, without empty ones and dots.
fn parts<'a>(entry: &[u8], name: &'a [u8], what: &str) -> Result<Vec<&'a [u8]>> {
    if name.len() > LONGEST {
        return Err(refuse(entry, format!("{what} is longer than {LONGEST} bytes")));
    }
    if name.first() == Some(&b'/') {
        return Err(refuse(entry, format!("{what} is absolute")));
    }
    let parts: Vec<&[u8]> = name.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    for part in &parts {
        if *part == b".." {
            return Err(refuse(entry, format!("{what} contains \"..\"")));
        }
        if part.len() > 255 {
            return Err(refuse(entry, format!("a part of {what} is longer than 255 bytes")));
        }
    }
    Ok(parts)
}

/// Puts the entries of one layer into a folder.
pub(super) struct Placer<'a> {
    root: OwnedFd,
    parents: &'a Parents,
    owner: Owner,
    limits: &'a Limits,
    made: u64,
    /// Times of folders, set when nothing is put into them any more.
    times: Vec<(Vec<u8>, (i64, u32))>,
    /// The bytes of their names.
    names: u64,
    /// The folder of the entry before, which is most often the folder of the next one too.
    last: Option<(Vec<u8>, OwnedFd)>,
}

impl<'a> Placer<'a> {
    pub(super) fn new(root: OwnedFd, parents: &'a Parents, owner: Owner, limits: &'a Limits) -> Self {
        Self { root, parents, owner, limits, made: 0, times: Vec::new(), names: 0, last: None }
    }

    /// How many files, folders and links there are.
    pub(super) fn made(&self) -> u64 {
        self.made
    }

    fn count(&mut self) -> Result<()> {
        self.made += 1;
        if self.made > self.limits.entries {
            return Err(ImageError::TooLarge { what: "files in a layer", limit: self.limits.entries });
        }
        Ok(())
    }

    /// Takes one entry, with its data.
    pub(super) fn take<R: io::Read>(&mut self, entry: &Entry, frames: &mut Frames<R>) -> Result<()> {
        self.count()?;
        let path = parts(&entry.path, &entry.path, "its name")?;
        let Some((name, folders)) = path.split_last() else {
            // The layer's own folder.
            if entry.kind != EntryType::Directory {
                return Err(refuse(&entry.path, "it is the root and no folder"));
            }
            let root = openat(&self.root, ".", DIRECTORY, Mode::empty()).doing("open the layer's folder")?;
            return self.finish_folder(root.as_fd(), entry, b".".to_vec());
        };
        if folders.iter().any(|part| part.starts_with(WHITEOUT)) {
            return Err(refuse(&entry.path, "it lies in a folder that is the mark of a removed name"));
        }
        let folder = self.folder(entry, folders)?;
        if name.starts_with(WHITEOUT) {
            return self.whiteout(entry, folder.as_fd(), name);
        }
        let kind = match entry.kind {
            // Archives older than ustar have no type for folders.
            EntryType::Regular if entry.path.ends_with(b"/") => EntryType::Directory,
            EntryType::Continuous => EntryType::Regular,
            kind => kind,
        };
        match kind {
            EntryType::Directory => {
                let made = self.make_folder(entry, folder.as_fd(), name)?;
                self.finish_folder(made.as_fd(), entry, path.join(&b'/'))
            }
            EntryType::Regular => self.file(entry, folder.as_fd(), name, frames),
            EntryType::Symlink => self.symlink(entry, folder.as_fd(), name),
            EntryType::Link => self.hard_link(entry, folder.as_fd(), name),
            EntryType::Fifo => {
                free(entry, folder.as_fd(), name)?;
                mknodat(&folder, *name, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
                    .map_err(|error| failed(entry, error))?;
                self.finish_special(entry, folder.as_fd(), name)
            }
            EntryType::Char if entry.device == (0, 0) => {
                // The overlay's own form of a removed name.
                free(entry, folder.as_fd(), name)?;
                whiteout(folder.as_fd(), name).map_err(|error| failed(entry, error))
            }
            EntryType::Char | EntryType::Block => Err(refuse(&entry.path, "it is a device node")),
            other => Err(refuse(&entry.path, format!("its type {:?} is not known", char::from(other.as_byte())))),
        }
    }

    /// Sets the times of folders.
    pub(super) fn finish(self) -> Result<()> {
        for (path, time) in self.times.iter().rev() {
            let folder = self.inside(path).doing("open a folder")?;
            futimens(&folder, &stamps(*time)).doing("set a folder's time")?;
        }
        Ok(())
    }

    /// Opens a folder of the layer. A `..` in a link on the way is refused with EAGAIN while anything on the machine is
    /// renamed or mounted, and is to be tried again (openat2(2)).
    fn inside(&self, path: &[u8]) -> std::result::Result<OwnedFd, Errno> {
        let mut opened = Err(Errno::AGAIN);
        for _ in 0..TRIES {
            opened = openat2(&self.root, path, DIRECTORY, Mode::empty(), INSIDE);
            if !matches!(opened, Err(Errno::AGAIN)) {
                break;
            }
            std::thread::yield_now();
        }
        opened
    }

    /// Opens the folder of an entry and makes what the archive leaves out, as it is in the layers below.
    fn folder(&mut self, entry: &Entry, folders: &[&[u8]]) -> Result<OwnedFd> {
        let path = folders.join(&b'/');
        if let Some((last, opened)) = &self.last
            && *last == path
        {
            return opened.try_clone().doing("open a folder");
        }
        let opened = if folders.is_empty() {
            openat(&self.root, ".", DIRECTORY, Mode::empty()).doing("open the layer's folder")?
        } else {
            match self.inside(&path) {
                Ok(opened) => opened,
                Err(Errno::NOENT | Errno::NOTDIR) => self.make_folders(entry, folders)?,
                Err(error) => return Err(failed(entry, error)),
            }
        };
        self.last = Some((path, opened.try_clone().doing("open a folder")?));
        Ok(opened)
    }

    fn make_folders(&mut self, entry: &Entry, folders: &[&[u8]]) -> Result<OwnedFd> {
        let mut opened = openat(&self.root, ".", DIRECTORY, Mode::empty()).doing("open the layer's folder")?;
        for (depth, name) in folders.iter().enumerate() {
            let path = folders[..=depth].join(&b'/');
            match self.inside(&path) {
                Ok(next) => opened = next,
                Err(Errno::NOENT | Errno::NOTDIR) => {
                    if let Ok(stat) = statat(&opened, *name, AtFlags::SYMLINK_NOFOLLOW)
                        && !is_whiteout(&stat)
                    {
                        return Err(refuse(
                            &entry.path,
                            "a part of its name is no folder, or a link that leads nowhere",
                        ));
                    }
                    self.count()?;
                    let made = self.make_folder(entry, opened.as_fd(), name)?;
                    let below = self.parents.folder(&folders[..=depth])?;
                    let (bits, owner, time) = below.as_ref().map_or((0o755, (0, 0), (0, 0)), described);
                    self.own(made.as_fd(), owner.0, owner.1).map_err(|error| failed(entry, error))?;
                    fchmod(&made, self.folder_mode(bits)).map_err(|error| failed(entry, error))?;
                    self.remember(path, time)?;
                    opened = made;
                }
                Err(error) => return Err(failed(entry, error)),
            }
        }
        Ok(opened)
    }

    /// A folder, made or found.
    fn make_folder(&self, entry: &Entry, folder: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
        let mut hides = false;
        if let Ok(stat) = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
            && FileType::from_raw_mode(stat.st_mode) != FileType::Directory
        {
            free(entry, folder, name)?;
            hides = true;
        }
        match mkdirat(folder, name, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed(entry, error)),
        }
        let made =
            openat(folder, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()).map_err(|error| failed(entry, error))?;
        if hides {
            self.opaque(made.as_fd()).map_err(|error| failed(entry, error))?;
        }
        Ok(made)
    }

    fn finish_folder(&mut self, made: BorrowedFd<'_>, entry: &Entry, path: Vec<u8>) -> Result<()> {
        self.own(made, entry.uid, entry.gid).map_err(|error| failed(entry, error))?;
        fchmod(made, self.folder_mode(entry.mode)).map_err(|error| failed(entry, error))?;
        attributes(entry, made)?;
        self.remember(path, entry.mtime)
    }

    /// Keeps a folder's time for the end. A small archive can name a million folders by names of thousands of bytes.
    fn remember(&mut self, path: Vec<u8>, time: (i64, u32)) -> Result<()> {
        self.names += path.len() as u64;
        if self.names > FOLDER_NAMES {
            return Err(ImageError::TooLarge { what: "bytes in the names of a layer's folders", limit: FOLDER_NAMES });
        }
        self.times.push((path, time));
        Ok(())
    }

    /// Sticky and the inherited group stay: they give nobody anything.
    fn folder_mode(&self, mode: u32) -> Mode {
        let own = if self.owner == Owner::Single { 0o700 } else { 0 };
        Mode::from_raw_mode(mode & 0o3777 | own)
    }

    /// A file. Its set-id bits are dropped: no sandbox honours them (`nosuid`, `no_new_privs`), and on the host a
    /// program that becomes another user must not lie around.
    fn file<R: io::Read>(
        &mut self,
        entry: &Entry,
        folder: BorrowedFd<'_>,
        name: &[u8],
        frames: &mut Frames<R>,
    ) -> Result<()> {
        if entry.length > self.limits.layer_bytes {
            return Err(ImageError::TooLarge { what: "bytes in a layer", limit: self.limits.layer_bytes });
        }
        free(entry, folder, name)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(folder, name, flags, Mode::from_raw_mode(0o600)).map_err(|error| failed(entry, error))?;
        match &entry.parts {
            None => copy(frames, &file, 0, entry.length)?,
            Some(parts) => {
                ftruncate(&file, entry.length).map_err(|error| failed(entry, error))?;
                for part in parts {
                    copy(frames, &file, part.offset, part.length)?;
                }
            }
        }
        self.own(file.as_fd(), entry.uid, entry.gid).map_err(|error| failed(entry, error))?;
        fchmod(&file, Mode::from_raw_mode(entry.mode & 0o1777)).map_err(|error| failed(entry, error))?;
        attributes(entry, file.as_fd())?;
        futimens(&file, &stamps(entry.mtime)).map_err(|error| failed(entry, error))
    }

    /// A link may say anything: it is followed in a sandbox, below the sandbox's root.
    fn symlink(&self, entry: &Entry, folder: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
        if entry.link.is_empty() || entry.link.len() > LONGEST {
            return Err(refuse(&entry.path, "it is a link to an empty or overlong name"));
        }
        free(entry, folder, name)?;
        symlinkat(entry.link.as_slice(), folder, name).map_err(|error| failed(entry, error))?;
        self.own_name(entry, folder, name)
    }

    fn finish_special(&self, entry: &Entry, folder: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
        rustix::fs::chmodat(folder, name, Mode::from_raw_mode(entry.mode & 0o1777), AtFlags::empty())
            .map_err(|error| failed(entry, error))?;
        self.own_name(entry, folder, name)
    }

    fn own_name(&self, entry: &Entry, folder: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
        if self.owner == Owner::Keep {
            let ids = (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)));
            chownat(folder, name, ids.0, ids.1, AtFlags::SYMLINK_NOFOLLOW).map_err(|error| failed(entry, error))?;
        }
        utimensat(folder, name, &stamps(entry.mtime), AtFlags::SYMLINK_NOFOLLOW).map_err(|error| failed(entry, error))
    }

    /// A second name of a file of this layer.
    fn hard_link(&self, entry: &Entry, folder: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
        let target = parts(&entry.path, &entry.link, "the name that it links to")?;
        let missing = || refuse(&entry.path, "it is a hard link to a name that the layer does not have before it");
        let Some((last, folders)) = target.split_last() else { return Err(missing()) };
        let path = if folders.is_empty() { b".".to_vec() } else { folders.join(&b'/') };
        let from = match self.inside(&path) {
            Ok(from) => from,
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(missing()),
            Err(error) => return Err(failed(entry, error)),
        };
        let stat = statat(&from, *last, AtFlags::SYMLINK_NOFOLLOW).map_err(|_| missing())?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory || is_whiteout(&stat) {
            return Err(refuse(&entry.path, "it is a hard link to a folder or to a removed name"));
        }
        free(entry, folder, name)?;
        linkat(&from, *last, folder, name, AtFlags::empty()).map_err(|error| failed(entry, error))
    }

    fn whiteout(&self, entry: &Entry, folder: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
        if name == OPAQUE {
            return self.opaque(folder).map_err(|error| failed(entry, error));
        }
        let hidden = &name[WHITEOUT.len()..];
        if hidden.starts_with(WHITEOUT) {
            // Bookkeeping of a file system of old, which readers ignore.
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(refuse(&entry.path, "it marks no name as removed"));
        }
        match statat(folder, hidden, AtFlags::SYMLINK_NOFOLLOW) {
            // What the layer has itself hides what is below; of a folder, all of it.
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                let hidden = openat(folder, hidden, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
                    .map_err(|error| failed(entry, error))?;
                self.opaque(hidden.as_fd()).map_err(|error| failed(entry, error))
            }
            Ok(_) => Ok(()),
            Err(_) => whiteout(folder, hidden).map_err(|error| failed(entry, error)),
        }
    }

    fn opaque(&self, folder: BorrowedFd<'_>) -> Result<(), Errno> {
        fsetxattr(folder, self.owner.opaque(), b"y", XattrFlags::empty())
    }

    fn own(&self, file: BorrowedFd<'_>, uid: u32, gid: u32) -> Result<(), Errno> {
        match self.owner {
            Owner::Keep => fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))),
            Owner::Single => Ok(()),
        }
    }
}

/// Makes room for a name: only the mark of a removed one gives way.
fn free(entry: &Entry, folder: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(failed(entry, error)),
        Ok(stat) if is_whiteout(&stat) => {
            unlinkat(folder, name, AtFlags::empty()).map_err(|error| failed(entry, error))
        }
        Ok(_) => Err(refuse(&entry.path, "the layer has the name twice")),
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// How often a folder is asked for before that counts as an attack.
const TRIES: u32 = 1000;
const INSIDE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

/// What the kernel said about an entry.
fn failed(entry: &Entry, error: Errno) -> ImageError {
    match error {
        Errno::XDEV => {
            refuse(&entry.path, "a link in its name, or in the name that it links to, leads out of the image")
        }
        Errno::LOOP => refuse(&entry.path, "the links in its name lead in a circle"),
        Errno::NAMETOOLONG => refuse(&entry.path, "its name is too long"),
        other => ImageError::Io { doing: format!("unpack {:?}", printable(&entry.path)), source: other.into() },
    }
}

fn whiteout(folder: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    match mknodat(folder, name, FileType::CharacterDevice, Mode::empty(), 0) {
        // The same name may be removed twice.
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

/// Keeps what programs set for themselves. Other classes are the kernel's and mean nothing without capabilities; those
/// of the overlay would let an image rearrange what is below it.
fn attributes(entry: &Entry, file: BorrowedFd<'_>) -> Result<()> {
    for (name, value) in &entry.xattrs {
        if name.starts_with(b"user.overlay.") || name.starts_with(b"trusted.overlay.") {
            return Err(refuse(&entry.path, format!("it has the overlay's own attribute {:?}", printable(name))));
        }
        if name.starts_with(b"user.") {
            fsetxattr(file, name.as_slice(), value, XattrFlags::empty()).map_err(|error| {
                let name = printable(name);
                refuse(&entry.path, format!("its attribute {name:?} cannot be kept: {}", io::Error::from(error)))
            })?;
        }
    }
    Ok(())
}

/// Mode, owner and time of a folder of the layers below.
fn described(stat: &Stat) -> (u32, (u32, u32), (i64, u32)) {
    let nanos = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    (stat.st_mode & 0o7777, (stat.st_uid, stat.st_gid), (stat.st_mtime, nanos))
}

fn stamps((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: i64::from(nanos) };
    Timestamps { last_access: time, last_modification: time }
}

fn copy<R: io::Read>(frames: &mut Frames<R>, file: &OwnedFd, mut at: u64, mut left: u64) -> Result<()> {
    let mut buffer = [0; 16 * 1024];
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let read = frames.read(&mut buffer[..most])?;
        if read == 0 {
            return Err(ImageError::Form {
                what: "the layer's archive".to_owned(),
                why: "a file is shorter than it says".to_owned(),
            });
        }
        let mut written = 0;
        while written < read {
            let more = rustix::io::pwrite(file, &buffer[written..read], at).doing("write a file of the layer")?;
            written += more;
            at += more as u64;
        }
        left -= read as u64;
    }
    Ok(())
}
