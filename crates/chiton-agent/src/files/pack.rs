//! A file or folder as a tar stream.

use std::fs::{self, File, Metadata, ReadDir};
use std::io::{self, Read as _, Write};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use chiton_agent_proto::v1::FileChunk;
use rustix::fs::{Mode, OFlags, open};
use tar::{Builder, EntryType, Header};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

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

fn pack(root: &Path, out: &mut Out) -> Result<(), Status> {
    let mut tar = Builder::new(out);
    let base = root.parent().unwrap_or(root);
    let found = fs::symlink_metadata(root).map_err(|error| failed("read", root, &error))?;
    let mut open: Vec<(PathBuf, ReadDir)> = Vec::new();
    let mut next = Some((root.to_owned(), found));
    while let Some((path, found)) = next.take() {
        let broken = |error: &io::Error| failed("read", &path, error);
        // The root folder itself has no name to give.
        let name = path.strip_prefix(base).ok().filter(|name| !name.as_os_str().is_empty());
        if let Some(name) = name {
            append(&mut tar, &path, name, &found).map_err(|error| broken(&error))?;
        }
        if found.is_dir() {
            if open.len() == DEPTH {
                let text = format!("{} is more than {DEPTH} folders deep; read a part of the tree", path.display());
                return Err(Status::failed_precondition(text));
            }
            match fs::read_dir(&path) {
                Ok(entries) => open.push((path, entries)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(broken(&error)),
            }
        }
        next = step(&mut open)?;
    }
    tar.finish().map_err(|error| failed("read", root, &error))
}

/// The next entry of the deepest open folder. What vanished in between is left out: programs go on while we read.
fn step(open: &mut Vec<(PathBuf, ReadDir)>) -> Result<Option<(PathBuf, Metadata)>, Status> {
    while let Some((folder, entries)) = open.last_mut() {
        let Some(entry) = entries.next() else {
            open.pop();
            continue;
        };
        let entry = entry.map_err(|error| failed("read", folder, &error))?;
        match entry.metadata() {
            Ok(found) => return Ok(Some((entry.path(), found))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("read", &entry.path(), &error)),
        }
    }
    Ok(None)
}

fn append(tar: &mut Builder<&mut Out>, path: &Path, name: &Path, found: &Metadata) -> io::Result<()> {
    let kind = found.file_type();
    if kind.is_socket() || kind.is_fifo() || kind.is_block_device() || kind.is_char_device() {
        return Ok(());
    }
    let mut header = Header::new_gnu();
    header.set_mtime(u64::try_from(found.mtime()).unwrap_or(0));
    header.set_uid(found.uid().into());
    header.set_gid(found.gid().into());
    header.set_mode(found.mode() & 0o7777);
    header.set_size(0);
    if kind.is_symlink() {
        header.set_entry_type(EntryType::Symlink);
        return tar.append_link(&mut header, name, fs::read_link(path)?);
    }
    if kind.is_dir() {
        header.set_entry_type(EntryType::Directory);
        return tar.append_data(&mut header, name, io::empty());
    }
    // It may have become something else since we looked: never follow a link, never wait for a pipe's other side.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match open(path, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::LOOP) => return Ok(()),
        result => File::from(result?),
    };
    let found = file.metadata()?;
    if !found.is_file() {
        return Ok(());
    }
    header.set_size(found.len());
    // Exactly the announced size, or the archive is broken from here on: a file that shrinks is filled with zeros.
    tar.append_data(&mut header, name, file.chain(io::repeat(0)).take(found.len()))
}
