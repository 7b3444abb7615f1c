//! A tar stream into a folder.
//!
//! Whoever made the archive is not trusted to stay in the folder. Every name is resolved by the kernel below the folder's
//! descriptor (`openat2` with `RESOLVE_BENEATH`), so that no link, old or new, and no race leads out of it; on kernels
//! without that call, links in the middle of a path are not followed at all.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};

use chiton_agent_proto::headers::{Bounded, Gate};
use chiton_agent_proto::v1::write_tar_request::Input;
use chiton_agent_proto::v1::{WriteTarRequest, WriteTarResponse, WriteTarStart};
use rustix::fs::{
    AtFlags, Mode, OFlags, ResolveFlags, Timespec, Timestamps, chmodat, futimens, mkdirat, openat, openat2,
};
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::plain::copy;
use super::replace::{Temporary, dress, existing, is_file, is_folder, open_folder};
use super::{PATH_BYTES, PIECES, Piece, Pieces, failed, path, receive, unfinished};
use crate::blocking::Blocking;

/// How often a folder is asked for while the kernel cannot be sure of its place.
const TRIES: u32 = 1000;
/// The largest sparse file, in bytes. An archive of a few bytes may hold one of any size, and reading its zeros takes time.
const SPARSE: u64 = 256 << 30;

/// Unpacks a tar stream below a folder.
///
/// # Errors
/// `INVALID_ARGUMENT` for a malformed path, stream or archive and for an entry that would leave the folder,
/// `FAILED_PRECONDITION` when something of another kind is in an entry's place, else what writing reports. Entries before
/// the one that failed stay; no entry is ever there in part.
pub async fn write_tar(blocking: &Blocking, mut input: Streaming<WriteTarRequest>) -> Result<WriteTarResponse, Status> {
    let Some(WriteTarRequest { input: Some(Input::Start(WriteTarStart { path: text, outside_links })) }) =
        input.message().await?
    else {
        return Err(Status::invalid_argument("the first message of a tar write must be its start"));
    };
    let path = path(&text)?;
    let (sender, receiver) = mpsc::channel(PIECES);
    let result = blocking.start(move || unpack(&path, outside_links, Pieces::new(receiver), SPARSE)).await?;
    receive(input, sender, result, |message| match message.input {
        Some(Input::Data(bytes)) => Some(Piece::Data(bytes)),
        Some(Input::Finish(true)) => Some(Piece::Finish),
        _ => None,
    })
    .await
}

pub(super) fn unpack(
    root: &Path,
    outside_links: bool,
    mut from: Pieces,
    sparse: u64,
) -> Result<WriteTarResponse, Status> {
    match std::fs::create_dir(root) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed("made", root, &error)),
    }
    let folder = open_folder(root).map_err(|error| failed("entered", root, &error))?;
    let mut target = Target { root, folder, outside_links, sparse, modes: Vec::new() };
    let mut written = 0;
    let gate = Gate::default();
    let mut archive = Archive::new(Bounded::new(&mut from, &gate));
    let mut entries = archive.entries().map_err(malformed)?;
    loop {
        gate.headers();
        let Some(entry) = entries.next() else { break };
        let mut entry = entry.map_err(malformed)?;
        gate.contents();
        target.write(&mut entry)?;
        // Contents that its kind does not have: skipped here, because between two entries only headers are taken.
        copy(&mut entry, &mut io::sink()).map_err(malformed)?;
        written += 1;
    }
    if !from.finish() {
        return Err(unfinished());
    }
    target.seal()?;
    Ok(WriteTarResponse { entries: written })
}

#[expect(clippy::needless_pass_by_value, reason = "it stands in map_err")]
fn malformed(error: io::Error) -> Status {
    Status::invalid_argument(format!("the tar stream is broken: {error}"))
}

type Upload<'a, 'b> = Bounded<'a, &'b mut Pieces>;

struct Target<'a> {
    root: &'a Path,
    folder: OwnedFd,
    outside_links: bool,
    sparse: u64,
    /// Folders that must not get their mode before their content is in them.
    modes: Vec<(PathBuf, u32)>,
}

impl Target<'_> {
    fn write(&mut self, entry: &mut Entry<'_, Upload<'_, '_>>) -> Result<(), Status> {
        let name = entry.path().map_err(malformed)?;
        let name = relative(&name)?;
        let kind = entry.header().entry_type();
        let mode = entry.header().mode().unwrap_or(0o644);
        let refused = |why: &str| Err(Status::invalid_argument(format!("the tar entry {} {why}", name.display())));
        let broken = |error: io::Error| self.failed(&name, &error);
        let (Some(parent), Some(file)) = (name.parent(), name.file_name().map(Path::new)) else {
            // The folder itself.
            return if kind == EntryType::Directory { Ok(()) } else { refused("has no name") };
        };
        match kind {
            EntryType::GNUSparse if entry.size() > self.sparse => refused(&format!(
                "is a sparse file of {} bytes, and one may have {}; send it packed",
                entry.size(),
                self.sparse
            )),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let folder = self.folder(parent).map_err(broken)?;
                write_file(&folder, file, mode & 0o777, entry).map_err(broken)
            }
            EntryType::Directory => {
                self.folder(&name).map_err(broken)?;
                let mode = mode & 0o1777;
                // What its owner can write to needs no delay, and a large archive no long list.
                if mode & 0o700 == 0o700 {
                    return self.set_mode(&name, mode);
                }
                self.modes.push((name, mode));
                Ok(())
            }
            EntryType::Symlink => {
                let link = entry.link_name().ok().flatten().map(PathBuf::from).unwrap_or_default();
                if link.as_os_str().is_empty() {
                    return refused("is a symbolic link to nothing");
                }
                if !self.outside_links && !self.inside(parent, &link).map_err(broken)? {
                    return refused(&format!(
                        "is a symbolic link to {}, which leads or could lead out of {}; leave it out or allow outside links",
                        link.display(),
                        self.root.display()
                    ));
                }
                let folder = self.folder(parent).map_err(broken)?;
                make_room(&folder, file).map_err(broken)?;
                Temporary::symlink(&folder, &link).and_then(|link| link.publish(file)).map_err(broken)
            }
            EntryType::Link => {
                let link = entry.link_name().ok().flatten().map(PathBuf::from).unwrap_or_default();
                let link = relative(&link)?;
                let (Some(from), Some(old)) = (link.parent(), link.file_name().map(Path::new)) else {
                    return refused("is a hard link to a folder");
                };
                let from = self.open(from).map_err(broken)?;
                if !existing(&from, old).map_err(broken)?.as_ref().is_some_and(is_file) {
                    return refused("is a hard link to something that is not a regular file of this folder");
                }
                let folder = self.folder(parent).map_err(broken)?;
                make_room(&folder, file).map_err(broken)?;
                Temporary::hard_link(&folder, &from, old).and_then(|link| link.publish(file)).map_err(broken)
            }
            // Says something about all entries, none of which we need.
            EntryType::XGlobalHeader => Ok(()),
            EntryType::Block | EntryType::Char => refused("is a device; devices are not unpacked"),
            EntryType::Fifo => refused("is a pipe; pipes are not unpacked"),
            _ => refused("is of an unknown kind"),
        }
    }

    /// Whether a link's target stays in the folder. It may go up only at its begin, and only from a place that was reached
    /// without links: after a link "up" is somewhere else than the words say, and a chain of links would lead out.
    fn inside(&self, parent: &Path, link: &Path) -> io::Result<bool> {
        let climbs = |path: &Path| path.components().any(|part| part == Component::ParentDir);
        if link.is_absolute() {
            return Ok(link.strip_prefix(self.root).is_ok_and(|rest| !climbs(rest)));
        }
        let up = link.components().take_while(|part| !matches!(part, Component::Normal(_)));
        let depth = up.clone().filter(|part| *part == Component::ParentDir).count();
        let down: PathBuf = link.components().skip(up.count()).collect();
        if climbs(&down) || depth > parent.components().count() {
            return Ok(false);
        }
        if depth == 0 || parent.as_os_str().is_empty() {
            return Ok(true);
        }
        match self.open_plain(parent) {
            Ok(_) => Ok(true),
            // What is missing will be made as folders.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENOTDIR)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Opens an existing folder below the root.
    fn open(&self, name: &Path) -> io::Result<OwnedFd> {
        if name.as_os_str().is_empty() {
            return self.folder.as_fd().try_clone_to_owned();
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..TRIES {
            match openat2(&self.folder, name, flags, Mode::empty(), resolve) {
                Err(Errno::NOSYS | Errno::PERM) => return self.open_plain(name),
                // A `..` in a link, while anything on the machine was renamed or mounted (openat2(2)).
                Err(Errno::AGAIN) => std::thread::yield_now(),
                result => return Ok(result?),
            }
        }
        Err(Errno::AGAIN.into())
    }

    /// The same where no part of the name is a link.
    fn open_plain(&self, name: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut folder = self.folder.as_fd().try_clone_to_owned()?;
        for part in name {
            folder = openat(&folder, part, flags, Mode::empty())?;
        }
        Ok(folder)
    }

    /// Opens a folder below the root and makes what is missing of it.
    fn folder(&self, name: &Path) -> io::Result<OwnedFd> {
        match self.open(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => return result,
        }
        let mut reached = PathBuf::new();
        let mut folder = self.open(&reached)?;
        for part in name {
            reached.push::<&OsStr>(part);
            folder = match self.open(&reached) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    match mkdirat(&folder, part, Mode::from_raw_mode(0o755)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(error) => return Err(error.into()),
                    }
                    self.open(&reached)?
                }
                result => result?,
            };
        }
        Ok(folder)
    }

    /// Sets the modes that waited, deepest first.
    fn seal(&mut self) -> Result<(), Status> {
        while let Some((name, mode)) = self.modes.pop() {
            self.set_mode(&name, mode)?;
        }
        Ok(())
    }

    fn set_mode(&self, name: &Path, mode: u32) -> Result<(), Status> {
        let set = self.open(name).and_then(|folder| {
            // By "." below it, because a descriptor that is only a path takes no fchmod.
            Ok(chmodat(&folder, ".", Mode::from_raw_mode(mode), AtFlags::empty())?)
        });
        set.map_err(|error| self.failed(name, &error))
    }

    fn failed(&self, name: &Path, error: &io::Error) -> Status {
        if error.raw_os_error() == Some(libc::EXDEV) {
            let text = format!("the tar entry {} leads out of {} through a link", name.display(), self.root.display());
            return Status::invalid_argument(text);
        }
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Status::invalid_argument(format!("the tar entry {} is not whole: {error}", name.display()));
        }
        failed("unpacked", &self.root.join(name), error)
    }
}

/// An entry's name without `.`, refused when it is absolute, holds `..` or is too long.
fn relative(name: &Path) -> Result<PathBuf, Status> {
    let refused = |why: &str| {
        let shown: String = name.display().to_string().chars().take(100).collect();
        Err(Status::invalid_argument(format!("the tar entry {shown:?} {why}; nothing of it was written")))
    };
    if name.as_os_str().len() > PATH_BYTES {
        return refused("has a name longer than 4096 bytes");
    }
    let mut clean = PathBuf::new();
    for part in name.components() {
        match part {
            Component::Normal(part) if part.as_encoded_bytes().contains(&0) => return refused("holds a zero byte"),
            Component::Normal(part) => clean.push(part),
            Component::CurDir => {}
            Component::ParentDir => return refused("holds \"..\""),
            Component::RootDir | Component::Prefix(_) => return refused("has an absolute name"),
        }
    }
    Ok(clean)
}

/// A folder is never replaced by something else.
fn make_room(folder: &OwnedFd, name: &Path) -> io::Result<()> {
    if existing(folder, name)?.as_ref().is_some_and(is_folder) {
        return Err(io::Error::from_raw_os_error(libc::EISDIR));
    }
    Ok(())
}

fn write_file(folder: &OwnedFd, name: &Path, mode: u32, entry: &mut Entry<'_, Upload<'_, '_>>) -> io::Result<()> {
    make_room(folder, name)?;
    let (temporary, file): (_, File) = Temporary::file(folder)?;
    let size = entry.size();
    let mut holey = Holey { file, sparse: entry.header().entry_type() == EntryType::GNUSparse };
    let copied = copy(&mut entry.take(size), &mut holey)?;
    let file = holey.file;
    if holey.sparse {
        file.set_len(copied)?;
    }
    if copied != size {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends in the middle of it"));
    }
    dress(&file, mode, None)?;
    if let Ok(seconds) = entry.header().mtime().map_or(Ok(0), i64::try_from) {
        let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
        // A file system that cannot hold the time still holds the file.
        let _ = futimens(&file, &Timestamps { last_access: time, last_modification: time });
    }
    temporary.publish(name)
}

/// A file whose zeros stay holes if it was sent as sparse: its size is the archive's word alone, and the disk need not pay
/// for it.
struct Holey {
    file: File,
    sparse: bool,
}

impl io::Write for Holey {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.sparse && bytes.iter().all(|byte| *byte == 0) {
            let length = i64::try_from(bytes.len()).map_err(io::Error::other)?;
            self.file.seek(SeekFrom::Current(length))?;
            return Ok(bytes.len());
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
