//! The durable record of a gateway: `SQLite` with one writer and group commit, and the mark log beside it.
//!
//! A create costs two durable commits whatever the chain's length. That is possible because what happens between the two
//! goes to the mark log: append-only, one `write(2)` per record, never fsynced. Such a mark outlives the process, which is
//! what nearly every crash is about, and not the kernel, for which recovery assumes the worst. The log is trusted only as a
//! whole: same boot, same life of the store, every record from the operation's begin to the end in order with a good
//! checksum.
//!
//! - `folder`: the data folder and its lock
//! - `schema`: tables and migrations
//! - `rows`, `writer`: commits
//! - `reader`: look-ups
//! - `check`, `sum`, `witness`: whether what is stored is what was stored
//! - `marks`: the mark log
//! - `backup`: a store as one file, and back
//! - [`SqliteStore`]: all of it as the engine's [`chiton_lifecycle::journal::Journal`]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod backup;
mod check;
mod error;
mod examine;
mod expire;
mod folder;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod identity;
mod machine;
mod marks;
mod reader;
mod rows;
mod schema;
mod store;
mod sum;
mod witness;
mod writer;

pub use backup::{BackupFile, Manifest, Restored, Snapshot, restore, save_offline};
pub use error::StoreError;
pub use examine::{Level, StoreFinding, examine};
pub use machine::MachineFacts;
pub use schema::SCHEMA_VERSION;
pub use store::{SqliteStore, StoreOptions};
