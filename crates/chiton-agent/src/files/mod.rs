//! Files in and out of the sandbox.
//!
//! All paths are those of the sandbox, and the agent has no more rights there than its programs. What is guarded is the
//! caller's intent: a write goes to the named place and nowhere else, readers see whole files only, and an archive stays
//! in its folder.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod pack;
mod plain;
mod replace;
mod unpack;

use std::io;
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tonic::{Status, Streaming};

pub use pack::read_tar;
pub use plain::{read_file, stat, write_file};
pub use unpack::write_tar;

/// Longest path, in bytes (the kernel's `PATH_MAX`).
const PATH_BYTES: usize = 4096;
/// One piece of a file on the wire.
const CHUNK: usize = 64 * 1024;
/// Pieces that wait for a slow side.
const PIECES: usize = 4;

/// What arrives at a file thread.
enum Piece {
    Data(Bytes),
    /// Everything was sent.
    Finish,
}

/// A checked path: absolute, without `..`, of bearable length.
fn path(text: &str) -> Result<PathBuf, Status> {
    let problem = if text.len() > PATH_BYTES {
        "is longer than 4096 bytes"
    } else if text.contains('\0') {
        "holds a zero byte"
    } else if !text.starts_with('/') {
        "is not absolute"
    } else if Path::new(text).components().any(|part| part == Component::ParentDir) {
        "holds \"..\""
    } else {
        return Ok(PathBuf::from(text));
    };
    let shown: String = text.chars().take(100).collect();
    Err(Status::invalid_argument(format!("the path {shown:?} {problem}; give an absolute path inside the sandbox")))
}

/// An operating system's error about a path as what the caller can do about it.
fn failed(what: &str, path: &Path, error: &io::Error) -> Status {
    let text = format!("{} could not be {what}: {error}", path.display());
    match error.kind() {
        // The caller's stream ended without its end mark.
        io::ErrorKind::ConnectionAborted => Status::cancelled(text),
        io::ErrorKind::NotFound => Status::not_found(text),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Status::permission_denied(text),
        io::ErrorKind::AlreadyExists => Status::already_exists(text),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            Status::resource_exhausted(text)
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory | io::ErrorKind::DirectoryNotEmpty => {
            Status::failed_precondition(text)
        }
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidFilename => Status::invalid_argument(text),
        _ if matches!(error.raw_os_error(), Some(libc::ELOOP | libc::EXDEV)) => Status::failed_precondition(text),
        _ => Status::internal(text),
    }
}

/// The reading side of an upload in a file thread.
struct Pieces {
    from: mpsc::Receiver<Piece>,
    rest: Bytes,
    finished: bool,
}

impl Pieces {
    fn new(from: mpsc::Receiver<Piece>) -> Self {
        Self { from, rest: Bytes::new(), finished: false }
    }

    /// The next piece as it came, or none at the upload's end.
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        while self.rest.is_empty() && !self.finished {
            match self.from.blocking_recv() {
                Some(Piece::Data(bytes)) => self.rest = bytes,
                Some(Piece::Finish) => self.finished = true,
                None => {
                    let text = "the upload broke off before its end; nothing of its last file was kept";
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, text));
                }
            }
        }
        let piece = std::mem::take(&mut self.rest);
        Ok((!piece.is_empty()).then_some(piece))
    }

    /// Takes everything that was not read yet and says whether the upload was finished.
    fn finish(&mut self) -> bool {
        while !self.finished {
            match self.from.blocking_recv() {
                Some(Piece::Data(_)) => {}
                Some(Piece::Finish) => self.finished = true,
                None => return false,
            }
        }
        true
    }
}

impl io::Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if let Some(piece) = self.next()? {
            self.rest = piece;
        }
        let length = self.rest.len().min(into.len());
        into[..length].copy_from_slice(&self.rest.split_to(length));
        Ok(length)
    }
}

/// Hands the pieces of an upload to the thread that was started for it, and gives that thread's result. `piece` says what a
/// message after the start is; none when it has no place there.
async fn receive<M, T>(
    mut input: Streaming<M>,
    to: mpsc::Sender<Piece>,
    mut result: oneshot::Receiver<Result<T, Status>>,
    piece: impl Fn(M) -> Option<Piece>,
) -> Result<T, Status> {
    let gone = |_| Status::internal("the agent's file thread ended without a result");
    loop {
        let message = tokio::select! {
            // It ends early only when it failed.
            early = &mut result => return early.map_err(gone)?,
            message = input.message() => message?,
        };
        let Some(message) = message else { return Err(unfinished()) };
        let Some(piece) = piece(message) else {
            return Err(Status::invalid_argument("after its start an upload takes data, then finish = true"));
        };
        let last = matches!(piece, Piece::Finish);
        // A thread that failed takes no more; its result says why.
        if to.send(piece).await.is_err() || last {
            return result.await.map_err(gone)?;
        }
    }
}

/// What a broken-off upload answers, if anybody still listens.
fn unfinished() -> Status {
    Status::invalid_argument("the upload ended without `finish`; nothing was kept, send it again")
}

#[cfg(test)]
mod tests;
