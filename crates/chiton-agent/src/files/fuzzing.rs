//! Uploads without a caller: all pieces are there when the work begins.

use std::path::Path;

use bytes::Bytes;
use tokio::sync::mpsc;
use tonic::Status;

use super::{Piece, Pieces, plain, unpack as tar};

fn arrived(pieces: Vec<Bytes>, finished: bool) -> Pieces {
    let (sender, receiver) = mpsc::channel(pieces.len() + 1);
    let end = finished.then_some(Piece::Finish);
    for piece in pieces.into_iter().map(Piece::Data).chain(end) {
        // It has room for all.
        drop(sender.try_send(piece));
    }
    Pieces::new(receiver)
}

pub(crate) fn unpack(
    root: &Path,
    outside_links: bool,
    pieces: Vec<Bytes>,
    finished: bool,
    sparse: u64,
) -> Result<u64, Status> {
    tar::unpack(root, outside_links, arrived(pieces, finished), sparse).map(|done| done.entries)
}

pub(crate) fn write_file(text: &str, mode: u32, pieces: Vec<Bytes>, finished: bool) -> Result<u64, Status> {
    plain::receive_file(&plain::file_path(text)?, mode, arrived(pieces, finished)).map(|done| done.size)
}
