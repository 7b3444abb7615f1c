//! Single files.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use chiton_agent_proto::v1::stat_response::Kind;
use chiton_agent_proto::v1::write_file_request::Input;
use chiton_agent_proto::v1::{FileChunk, StatResponse, WriteFileRequest, WriteFileResponse, WriteFileStart};
use rustix::buffer::spare_capacity;
use rustix::fs::OFlags;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::replace::{Temporary, dress, existing, is_file, is_folder, is_own, open, open_folder};
use super::{CHUNK, PIECES, Piece, Pieces, failed, path, receive, unfinished};
use crate::blocking::Blocking;

/// What is at a path.
///
/// # Errors
/// `NOT_FOUND`, `PERMISSION_DENIED`, `INVALID_ARGUMENT` for a malformed path.
pub async fn stat(blocking: &Blocking, text: &str) -> Result<StatResponse, Status> {
    let path = path(text)?;
    blocking
        .run(move || {
            let found = std::fs::metadata(&path).map_err(|error| failed("looked at", &path, &error))?;
            let kind = if found.is_file() {
                Kind::File
            } else if found.is_dir() {
                Kind::Folder
            } else {
                Kind::Other
            };
            Ok(StatResponse { kind: kind.into(), size: found.len(), mode: found.mode() & 0o7777 })
        })
        .await
}

/// Reads one regular file; links are followed.
///
/// # Errors
/// `NOT_FOUND`, `PERMISSION_DENIED`, `FAILED_PRECONDITION` when it is no regular file, `INVALID_ARGUMENT` for a malformed
/// path; later, in the stream, what reading reports.
pub async fn read_file(blocking: &Blocking, text: &str) -> Result<ReceiverStream<Result<FileChunk, Status>>, Status> {
    let path = path(text)?;
    let (sender, receiver) = mpsc::channel(PIECES);
    // The result is in the stream.
    drop(
        blocking
            .start(move || {
                let result = send_file(&path, &sender);
                if let Err(status) = result {
                    let _ = sender.blocking_send(Err(status));
                }
            })
            .await?,
    );
    Ok(ReceiverStream::new(receiver))
}

fn send_file(path: &Path, to: &mpsc::Sender<Result<FileChunk, Status>>) -> Result<(), Status> {
    // Without blocking: opening a pipe must not wait for its other side.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let broken = |error: io::Error| failed("read", path, &error);
    let file = File::from(open(path, flags).map_err(broken)?);
    if is_own(&file).map_err(broken)? {
        return Err(Status::permission_denied(format!("{} is the agent's own and is not read", path.display())));
    }
    let found = file.metadata().map_err(broken)?;
    if !found.is_file() {
        let text = format!("{} is not a regular file; read a folder as a tar stream", path.display());
        return Err(Status::failed_precondition(text));
    }
    let mut chunk = FileChunk { data: Bytes::new(), mode: found.mode() & 0o7777, size: found.len() };
    let mut first = true;
    loop {
        let mut buffer = Vec::with_capacity(CHUNK);
        let length = match rustix::io::read(&file, spare_capacity(&mut buffer)) {
            Err(rustix::io::Errno::INTR) => continue,
            result => result.map_err(|error| broken(error.into()))?,
        };
        chunk.data = buffer.into();
        // An empty file has one chunk, for its mode.
        if length == 0 && !first {
            return Ok(());
        }
        // A caller that went away needs no more.
        if to.blocking_send(Ok(std::mem::take(&mut chunk))).is_err() || length == 0 {
            return Ok(());
        }
        first = false;
    }
}

/// Writes one file.
///
/// # Errors
/// `INVALID_ARGUMENT` for a malformed path or a stream that breaks its order, `NOT_FOUND` when the folder is not there,
/// `FAILED_PRECONDITION` when a folder has the name, `PERMISSION_DENIED`, `RESOURCE_EXHAUSTED` when the disk is full. In
/// all these cases what was at the path is still there, and nothing else is.
pub async fn write_file(
    blocking: &Blocking,
    mut input: Streaming<WriteFileRequest>,
) -> Result<WriteFileResponse, Status> {
    let Some(WriteFileRequest { input: Some(Input::Start(WriteFileStart { path: text, mode })) }) =
        input.message().await?
    else {
        return Err(Status::invalid_argument("the first message of a file write must be its start"));
    };
    let path = file_path(&text)?;
    if mode & !0o7777 != 0 {
        return Err(Status::invalid_argument(format!("{mode:o} are no permission bits; use 0 to 7777, octal")));
    }
    let (sender, receiver) = mpsc::channel(PIECES);
    let result = blocking.start(move || receive_file(&path, mode, Pieces::new(receiver))).await?;
    receive(input, sender, result, |message| match message.input {
        Some(Input::Data(bytes)) => Some(Piece::Data(bytes)),
        Some(Input::Finish(true)) => Some(Piece::Finish),
        _ => None,
    })
    .await
}

/// A checked path that can be a file's. One that ends in a slash names a folder, or what a link there leads to.
pub(super) fn file_path(text: &str) -> Result<PathBuf, Status> {
    let checked = path(text)?;
    if text.ends_with('/') || text.ends_with("/.") {
        return Err(Status::invalid_argument(format!(
            "{text:?} names a folder; name a file, without a slash at the end"
        )));
    }
    Ok(checked)
}

pub(super) fn receive_file(path: &Path, mode: u32, mut from: Pieces) -> Result<WriteFileResponse, Status> {
    let broken = |error: io::Error| failed("written", path, &error);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().map(Path::new)) else {
        return Err(Status::invalid_argument("/ is a folder; name a file"));
    };
    let folder: OwnedFd = open_folder(parent).map_err(|error| failed("entered", parent, &error))?;
    let old = existing(&folder, name).map_err(broken)?;
    if old.as_ref().is_some_and(is_folder) {
        return Err(Status::failed_precondition(format!("{} is a folder; name a file", path.display())));
    }
    let old = old.filter(is_file);
    let mode = match (mode, &old) {
        (0, Some(old)) => old.st_mode & 0o7777,
        (0, None) => 0o644,
        (mode, _) => mode,
    };
    let (temporary, mut file) = Temporary::file(&folder).map_err(broken)?;
    let mut size = 0;
    while let Some(piece) = from.next().map_err(broken)? {
        file.write_all(&piece).map_err(broken)?;
        size += piece.len() as u64;
    }
    if !from.finish() {
        return Err(unfinished());
    }
    dress(&file, mode, old.as_ref()).map_err(broken)?;
    temporary.publish(name).map_err(broken)?;
    Ok(WriteFileResponse { size })
}

/// Copies with a buffer on the heap: these threads have a small stack.
pub(super) fn copy(from: &mut impl io::Read, to: &mut impl io::Write) -> io::Result<u64> {
    let mut buffer = vec![0; CHUNK];
    let mut size = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(size),
            Ok(length) => {
                to.write_all(&buffer[..length])?;
                size += length as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
