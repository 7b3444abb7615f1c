//! The mark log without files.

use chiton_lifecycle::journal::{Mark, MarkPosition};

use super::record::{encode, take};
use super::trust::{parse, trusted};

/// A record around any body, as the log would write it.
pub fn record(sequence: u64, body: &serde_json::Value) -> Vec<u8> {
    let mut buffer = Vec::new();
    if encode(&mut buffer, sequence, body).is_err() {
        buffer.clear();
    }
    buffer
}

/// The first record of the bytes, as sequence number and body, and what follows it.
pub fn take_record(bytes: &[u8]) -> Option<(u64, &[u8], &[u8])> {
    let mut rest = bytes;
    take(&mut rest).map(|(sequence, body)| (sequence, body, rest))
}

/// The marks after a position, if the segments can be trusted.
pub fn trusted_marks(segments: &[&[u8]], position: &MarkPosition, boot: &str, epoch: &str) -> Option<Vec<Mark>> {
    let segments: Vec<_> = (0..).zip(segments).map(|(index, bytes)| parse(index, bytes, true)).collect();
    trusted(&segments, position, boot, epoch).map(|log| log.all())
}
