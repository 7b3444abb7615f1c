//! Why a store cannot be opened.

use std::io;
use std::path::PathBuf;

use chiton_model::{Error, ErrorKind};

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the data folder.
    #[error("the data folder {folder:?} is in use{}", .holder.map(|pid| format!(" by process {pid}")).unwrap_or_default())]
    Locked {
        /// The folder.
        folder: PathBuf,
        /// The process that has it, where it said so.
        holder: Option<u32>,
    },
    /// The store was written by a newer version.
    #[error("the store in {folder:?} has schema version {found}, this version of Chiton reads up to {known}")]
    Newer {
        /// The folder.
        folder: PathBuf,
        /// The store's schema version.
        found: u32,
        /// The newest that this build reads.
        known: u32,
    },
    /// The folder or a file in it cannot be used.
    #[error("{path:?} cannot be used: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The database cannot be used.
    #[error("the database in {folder:?} cannot be used: {message}")]
    Database {
        /// The folder.
        folder: PathBuf,
        /// What `SQLite` said.
        message: String,
    },
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        let kind = ErrorKind::Unavailable { what: "store".to_owned() };
        let cure = match &error {
            StoreError::Locked { .. } => {
                "stop the other gateway, or give this one a data folder of its own: --data-dir"
            }
            StoreError::Newer { .. } => {
                "run the version that wrote it or a newer one, or restore a backup of before the upgrade"
            }
            StoreError::Io { .. } => "look at its owner, its permissions and the disk",
            StoreError::Database { .. } => "restore a backup; the damaged file is left as it is",
        };
        Self::new(kind, error.to_string()).cure(cure)
    }
}
