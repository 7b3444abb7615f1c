//! A store as one file, and back.
//!
//! A backup is a line that says what it is, a line of JSON (the [`Manifest`]), and the database as `SQLite` copies it: one
//! moment of the store, taken while it is written to. A restored store begins a new life (design, rule 2a): what was made
//! after the backup is not in it, and must not be taken for rubbish; what is in it may be gone.
//!
//! - `file`: the file, written as a whole or not at all
//! - `save`: from a store, open or not
//! - `restore`: into a data folder

mod file;
mod restore;
mod save;

use chiton_model::{GatewayId, StoreEpoch};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use file::BackupFile;
pub use restore::{Restored, restore};
pub use save::{Snapshot, save_offline};

/// What a backup begins with; the number is the form's version.
const MAGIC: &str = "chiton-backup 1\n";
/// The longest manifest, line end included: a longer one is damage.
const LONGEST_MANIFEST: usize = 4096;

/// What a backup says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The gateway whose store it is.
    pub gateway: GatewayId,
    /// The life of the store that it is of: what `gateway --adopt-epoch` takes after a restore.
    pub epoch: StoreEpoch,
    /// The database's schema version.
    pub schema: u32,
    /// The number of its last commit.
    pub last_commit: u64,
    /// How many sandboxes it knows, those that failed or are being deleted included.
    pub sandboxes: u64,
    /// When it was made.
    pub made_at: Timestamp,
    /// The database's size in bytes.
    pub size: u64,
    /// The database's sha256, 64 hex digits.
    pub sha256: String,
}
