//! The mark log: segments of records, each written by one `write(2)`, none fsynced.
//!
//! A record is 4 bytes of length (of what follows, little endian), 8 bytes of sequence number, the mark as JSON, and 4 bytes
//! of CRC-32 over number and mark. A segment begins with a record of its own, numbered with the sequence number of the first
//! mark after it, that holds its random id, the boot and the store's epoch. One that was followed by another for its size
//! ends with a record that names its follower, numbered as the follower's header is.
//!
//! What cannot be seen: a last segment that was cut exactly between two records. The kernel never does that to a file that
//! it has in memory, and another boot is distrusted anyway.

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod log;
mod record;
mod trust;

#[cfg(test)]
mod tests;

pub(crate) use log::MarkLog;
pub(crate) use trust::damaged_segments;
