//! A file or folder as a tar stream.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Read as _, Write};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use chiton_agent_proto::v1::FileChunk;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, openat, readlinkat, statat};
use rustix::io::Errno;
use tar::{Builder, EntryType, Header};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::replace::{is_folder, open_folder};
use super::{CHUNK, PIECES, failed, path};
use crate::blocking::Blocking;

/// Deepest folder, so that a program that nests without end cannot use up the agent's descriptors.
const DEPTH: usize = 256;

/// Reads a file or folder as a tar stream, names relative to its parent.
///
/// # Errors
/// `NOT_FOUND`, `PERMISSION_DENIED`, `INVALID_ARGUMENT` for a malformed path; later, in the stream, what reading reports:
/// then what was sent is no whole archive.
pub async fn read_tar(blocking: &Blocking, text: &str) -> Result<ReceiverStream<Result<FileChunk, Status>>, Status> {
    let path = path(text)?;
    let (sender, receiver) = mpsc::channel(PIECES);
    // The result is in the stream.
    drop(
        blocking
            .start(move || {
                let mut out = Out { to: sender.clone(), buffer: BytesMut::new() };
                let result =
                    pack(&path, &mut out).and_then(|()| out.flush().map_err(|error| failed("sent", &path, &error)));
                if let Err(status) = result {
                    let _ = sender.blocking_send(Err(status));
                }
            })
            .await?,
    );
    Ok(ReceiverStream::new(receiver))
}

/// Collects what is written into pieces for the caller.
struct Out {
    to: mpsc::Sender<Result<FileChunk, Status>>,
    buffer: BytesMut,
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..length]);
        if self.buffer.len() == CHUNK {
            self.flush()?;
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        let data: Bytes = self.buffer.split().freeze();
        if data.is_empty() {
            return Ok(());
        }
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the caller went away");
        self.to.blocking_send(Ok(FileChunk { data, ..FileChunk::default() })).map_err(gone)
    }
}

/// A folder whose entries are being read.
struct Level {
    path: PathBuf,
    entries: Dir,
}

/// Every name is resolved in the folder that was opened before it, and no link is followed on the way: a program that puts a
/// link in the place of a folder while it is read leads nowhere.
fn pack(root: &Path, out: &mut Out) -> Result<(), Status> {
    let mut tar = Builder::new(out);
    let base = root.parent().unwrap_or(root);
    let top = open_folder(base).map_err(|error| failed("entered", base, &error))?;
    // The root folder itself has no name to give.
    let name = root.file_name().map_or_else(|| c".".to_owned(), |name| plain_name(name.as_bytes()));
    let found = statat(&top, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(|error| failed("read", root, &error.into()))?;
    let mut open = Vec::new();
    add(&mut tar, top.as_fd(), &name, root, base, &found)?;
    let below = enter(top.as_fd(), &name, root, &found, open.len())?;
    open.extend(below);
    while let Some((name, path, found)) = step(&mut open)? {
        let Some(level) = open.last() else { break };
        let folder = level.entries.fd().map_err(|error| failed("read", &level.path, &error.into()))?;
        add(&mut tar, folder, &name, &path, base, &found)?;
        let below = enter(folder, &name, &path, &found, open.len())?;
        open.extend(below);
    }
    tar.finish().map_err(|error| failed("read", root, &error))
}

fn plain_name(bytes: &[u8]) -> CString {
    // The path was checked: it holds no zero byte.
    CString::new(bytes).unwrap_or_default()
}

/// Opens a folder that was found, so that its entries come next. None when it is no folder, or none any more.
fn enter(
    parent: BorrowedFd<'_>,
    name: &CStr,
    path: &Path,
    found: &Stat,
    depth: usize,
) -> Result<Option<Level>, Status> {
    if !is_folder(found) {
        return Ok(None);
    }
    if depth == DEPTH {
        let text = format!("{} is more than {DEPTH} folders deep; read a part of the tree", path.display());
        return Err(Status::failed_precondition(text));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(parent, name, flags, Mode::empty()).and_then(Dir::new) {
        Ok(entries) => Ok(Some(Level { path: path.to_owned(), entries })),
        // It vanished, or became something else, since we looked.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(failed("read", path, &error.into())),
    }
}

/// The next entry of the deepest open folder. What vanished in between is left out: programs go on while we read.
fn step(open: &mut Vec<Level>) -> Result<Option<(CString, PathBuf, Stat)>, Status> {
    while let Some(Level { path, entries }) = open.last_mut() {
        let Some(entry) = entries.read() else {
            open.pop();
            continue;
        };
        let entry = entry.map_err(|error| failed("read", path, &error.into()))?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let path = path.join(OsStr::from_bytes(name.to_bytes()));
        let found = entries.fd().and_then(|folder| statat(folder, name, AtFlags::SYMLINK_NOFOLLOW));
        match found {
            Ok(found) => return Ok(Some((name.to_owned(), path, found))),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(failed("read", &path, &error.into())),
        }
    }
    Ok(None)
}

/// Puts one entry into the archive, under its path relative to `base`.
fn add(
    tar: &mut Builder<&mut Out>,
    folder: BorrowedFd<'_>,
    name: &CStr,
    path: &Path,
    base: &Path,
    found: &Stat,
) -> Result<(), Status> {
    let Some(inside) = path.strip_prefix(base).ok().filter(|inside| !inside.as_os_str().is_empty()) else {
        return Ok(());
    };
    append(tar, folder, name, inside, found).map_err(|error| failed("read", path, &error))
}

fn append(
    tar: &mut Builder<&mut Out>,
    folder: BorrowedFd<'_>,
    name: &CStr,
    inside: &Path,
    found: &Stat,
) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_mtime(u64::try_from(found.st_mtime).unwrap_or(0));
    header.set_uid(found.st_uid.into());
    header.set_gid(found.st_gid.into());
    header.set_mode(found.st_mode & 0o7777);
    header.set_size(0);
    match FileType::from_raw_mode(found.st_mode) {
        FileType::Symlink => {
            let target = match readlinkat(folder, name, Vec::new()) {
                Err(Errno::NOENT | Errno::INVAL) => return Ok(()),
                result => result?,
            };
            header.set_entry_type(EntryType::Symlink);
            tar.append_link(&mut header, inside, OsStr::from_bytes(target.to_bytes()))
        }
        FileType::Directory => {
            header.set_entry_type(EntryType::Directory);
            tar.append_data(&mut header, inside, io::empty())
        }
        FileType::RegularFile => {
            // It may have become something else since we looked: never follow a link, never wait for a pipe's other side.
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
            let file = match openat(folder, name, flags, Mode::empty()) {
                Err(Errno::NOENT | Errno::LOOP) => return Ok(()),
                result => File::from(result?),
            };
            let found = file.metadata()?;
            if !found.is_file() {
                return Ok(());
            }
            header.set_size(found.len());
            // Exactly the announced size, or the archive is broken from here on: a file that shrinks is filled with zeros.
            tar.append_data(&mut header, inside, file.chain(io::repeat(0)).take(found.len()))
        }
        // Sockets, pipes and devices.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
