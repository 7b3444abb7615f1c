//! What the fuzz targets call of the store.

pub use crate::marks::fuzzing::{record, take_record, trusted_marks};

use chiton_lifecycle::journal::JournalError;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A row's document as its record.
pub fn decode_row<T: DeserializeOwned>(name: &str, doc: &[u8]) -> Result<T, JournalError> {
    crate::reader::decode(name, doc)
}

/// A record as its row's document.
pub fn encode_row<T: Serialize>(record: &T) -> Result<String, JournalError> {
    crate::rows::doc(record)
}
