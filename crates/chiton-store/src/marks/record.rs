//! One record.

use serde::{Deserialize, Serialize};

/// The largest record: a mark with a state of an extension. Larger is a mistake of the extension, or damage.
pub(crate) const LARGEST: usize = 1024 * 1024;

/// What a segment begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Header {
    /// Random; operations refer to it.
    pub(crate) id: String,
    /// The kernel's boot id.
    pub(crate) boot: String,
    /// The store's epoch.
    pub(crate) epoch: String,
}

/// What a segment ends with when another follows it in the same process: without it a log whose last segment is missing
/// would look whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Trailer {
    /// The id of the segment that follows.
    pub(crate) followed_by: String,
}

/// Puts a record into the buffer, which is emptied first.
pub(crate) fn encode<T: Serialize>(buffer: &mut Vec<u8>, sequence: u64, value: &T) -> Result<(), serde_json::Error> {
    buffer.clear();
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&sequence.to_le_bytes());
    serde_json::to_writer(&mut *buffer, value)?;
    let crc = crc32fast::hash(&buffer[4..]);
    buffer.extend_from_slice(&crc.to_le_bytes());
    let length = u32::try_from(buffer.len() - 4).unwrap_or(u32::MAX);
    buffer[..4].copy_from_slice(&length.to_le_bytes());
    Ok(())
}

/// Takes the next record off the bytes: sequence number and body. `None` when there is no whole, sound record.
pub(crate) fn take<'a>(bytes: &mut &'a [u8]) -> Option<(u64, &'a [u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    if !(12..=LARGEST).contains(&length) {
        return None;
    }
    let (record, rest) = rest.split_at_checked(length)?;
    let (body, crc) = record.split_last_chunk::<4>()?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let (sequence, body) = body.split_first_chunk::<8>()?;
    *bytes = rest;
    Some((u64::from_le_bytes(*sequence), body))
}
