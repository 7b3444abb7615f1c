//! What was made durable, noted outside of the database.
//!
//! A write-ahead log ends where its first bad checksum is: `SQLite` cannot tell a log that a crash cut off from one whose
//! middle rotted, and silently goes back to before. So after each commit its number is noted in a file of its own, with
//! one `pwrite(2)` and no fsync. What the note says was durable before it was written; a note that a power loss took back
//! only says less. A database that is behind its note has lost commits.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use chiton_model::StoreEpoch;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::StoreError;
use crate::folder::io;

/// The file's size: always written whole.
const SIZE: usize = 512;

/// What is noted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Note {
    /// Device and inode of the database that it is about: a note says nothing about another file.
    pub(crate) file: String,
    pub(crate) epoch: StoreEpoch,
    pub(crate) last_commit: u64,
}

/// The note in a folder, if there is a whole one.
pub(crate) fn read(folder: &Path) -> Option<Note> {
    let bytes = std::fs::read(folder.join("witness")).ok()?;
    let (sum, text) = bytes.split_first_chunk::<4>()?;
    (crc32fast::hash(text) == u32::from_le_bytes(*sum)).then(|| serde_json::from_slice(text).ok()).flatten()
}

/// The note that is being kept.
pub(crate) struct Witness {
    file: File,
    note: Mutex<Note>,
}

impl Witness {
    pub(crate) fn open(folder: &Path, note: Note) -> Result<Self, StoreError> {
        let path = folder.join("witness");
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(io(&path))?;
        let witness = Self { file, note: Mutex::new(note) };
        witness.write(&witness.note.lock()).map_err(io(&path))?;
        Ok(witness)
    }

    /// Notes that this commit is durable.
    pub(crate) fn committed(&self, last_commit: u64) {
        let mut note = self.note.lock();
        note.last_commit = last_commit;
        self.note(&note);
    }

    /// Notes that a new life of the store is durable.
    pub(crate) fn renewed(&self, epoch: StoreEpoch) {
        let mut note = self.note.lock();
        note.epoch = epoch;
        self.note(&note);
    }

    fn note(&self, note: &Note) {
        if let Err(error) = self.write(note) {
            // The commit is durable all the same; only its loss could not be noticed.
            tracing::warn!(%error, "a commit could not be noted beside the database");
        }
    }

    fn write(&self, note: &Note) -> std::io::Result<()> {
        let mut text = serde_json::to_vec(note)?;
        text.resize(SIZE - 4, b' ');
        let mut bytes = crc32fast::hash(&text).to_le_bytes().to_vec();
        bytes.append(&mut text);
        self.file.write_all_at(&bytes, 0)
    }
}
