//! The log that is being written.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use chiton_lifecycle::journal::{JournalError, Mark, MarkPosition};
use parking_lot::Mutex;
use rand::TryRngCore as _;

use super::record::{Header, LARGEST, encode};
use super::trust::{Segment, read_segments};
use crate::StoreError;
use crate::folder::io;

/// A segment that is larger than this is followed by a new one.
const SEGMENT: u64 = 4 * 1024 * 1024;

/// The mark log.
pub(crate) struct MarkLog {
    folder: PathBuf,
    boot: String,
    writing: Mutex<Writing>,
    /// What was there when the log was opened.
    old: Mutex<Vec<Segment>>,
}

struct Writing {
    file: File,
    /// The segment's place in the order of files.
    index: u64,
    id: String,
    epoch: String,
    size: u64,
    sequence: u64,
    buffer: Vec<u8>,
    /// A write failed and could not be taken back: no mark can follow.
    broken: bool,
    /// Open operations and the segment in which they began.
    open: BTreeMap<String, u64>,
}

fn segment_path(folder: &Path, index: u64) -> PathBuf {
    folder.join(format!("{index:016}.log"))
}

impl MarkLog {
    /// Opens the log: reads what is there and begins a new segment.
    pub(crate) fn open(folder: &Path, boot: &str, epoch: &str) -> Result<Self, StoreError> {
        let old = read_segments(folder).map_err(io(folder))?;
        let index = old.last().map_or(0, |segment| segment.index + 1);
        let sequence = old.iter().map(|segment| segment.next).max().unwrap_or(0);
        let writing = begin(folder, index, sequence, boot, epoch).map_err(io(folder))?;
        Ok(Self {
            folder: folder.to_owned(),
            boot: boot.to_owned(),
            writing: Mutex::new(writing),
            old: Mutex::new(old),
        })
    }

    /// Where the log ends.
    pub(crate) fn position(&self) -> MarkPosition {
        let writing = self.writing.lock();
        MarkPosition { log: writing.id.clone(), sequence: writing.sequence, boot: self.boot.clone() }
    }

    /// Appends a mark. Returns when the kernel has it.
    pub(crate) fn append(&self, mark: &Mark) -> Result<(), JournalError> {
        self.write(&mut self.writing.lock(), mark)
    }

    fn write(&self, writing: &mut Writing, mark: &Mark) -> Result<(), JournalError> {
        if writing.broken {
            return Err(JournalError::Failed("an earlier mark could not be taken back; the log ends here".to_owned()));
        }
        if writing.size >= SEGMENT {
            self.rotate(writing).map_err(|error| lost(&error))?;
        }
        let Writing { file, buffer, sequence, .. } = &mut *writing;
        encode(buffer, *sequence, mark)
            .map_err(|error| JournalError::Failed(format!("a mark could not be encoded: {error}")))?;
        if buffer.len() > LARGEST {
            return Err(JournalError::Failed(format!("a mark has {} bytes, the limit is {LARGEST}", buffer.len())));
        }
        let length = u64::try_from(buffer.len()).unwrap_or(u64::MAX);
        match file.write(buffer) {
            Ok(written) if written == buffer.len() => {
                writing.size += length;
                writing.sequence += 1;
                Ok(())
            }
            other => {
                // What was written of it must not be read as a mark, nor hide the marks after it.
                let kept = rustix::fs::ftruncate(&writing.file, writing.size);
                writing.broken = kept.is_err();
                let why = other.err().map_or_else(|| "it was written in part".to_owned(), |error| error.to_string());
                Err(JournalError::Failed(format!("a mark could not be written: {why}")))
            }
        }
    }

    fn rotate(&self, writing: &mut Writing) -> std::io::Result<()> {
        let mut next = begin(&self.folder, writing.index + 1, writing.sequence, &self.boot, &writing.epoch)?;
        next.open = std::mem::take(&mut writing.open);
        *writing = next;
        self.remove_old(writing);
        Ok(())
    }

    /// Removes segments that no open operation needs.
    fn remove_old(&self, writing: &Writing) {
        let needed = writing.open.values().min().copied().unwrap_or(writing.index);
        self.old.lock().retain(|segment| segment.index >= needed);
        for (index, path) in super::trust::list(&self.folder).unwrap_or_default() {
            if index < needed.min(writing.index) {
                // A segment that stays is read again for nothing, which is no fault.
                drop(fs::remove_file(path));
            }
        }
    }

    /// Notes that an operation is open.
    pub(crate) fn opened(&self, operation: &str) {
        let mut writing = self.writing.lock();
        let index = writing.index;
        writing.open.entry(operation.to_owned()).or_insert(index);
    }

    /// Notes that an operation has ended.
    pub(crate) fn closed(&self, operation: &str) {
        self.writing.lock().open.remove(operation);
    }

    /// The marks that follow a position, if they can be trusted; keeps the segments for the operation.
    pub(crate) fn since(&self, operation: &str, position: &MarkPosition, epoch: &str) -> Option<Vec<Mark>> {
        let old = self.old.lock();
        let begun = old.iter().find(|segment| segment.is(position)).map_or(0, |segment| segment.index);
        self.writing.lock().open.insert(operation.to_owned(), begun);
        super::trust::trusted(&old, position, &self.boot, epoch)
    }

    /// After recovery has read it: the old marks are no longer needed in memory.
    pub(crate) fn forget_old(&self) {
        for segment in self.old.lock().iter_mut() {
            segment.forget();
        }
        let writing = self.writing.lock();
        if writing.open.is_empty() {
            self.remove_old(&writing);
        }
    }

    /// From the next segment on the log belongs to another life of the store.
    pub(crate) fn renew(&self, epoch: &str) -> Result<(), JournalError> {
        let mut writing = self.writing.lock();
        epoch.clone_into(&mut writing.epoch);
        self.rotate(&mut writing).map_err(|error| lost(&error))
    }
}

fn lost(error: &std::io::Error) -> JournalError {
    JournalError::Failed(format!("the mark log failed: {error}"))
}

fn begin(folder: &Path, index: u64, sequence: u64, boot: &str, epoch: &str) -> std::io::Result<Writing> {
    let mut id = [0; 16];
    rand::rngs::OsRng.try_fill_bytes(&mut id).expect("the kernel gives entropy");
    let id = hex::encode(id);
    let path = segment_path(folder, index);
    let mut file = OpenOptions::new().create_new(true).append(true).mode(0o600).open(path)?;
    let mut buffer = Vec::with_capacity(4096);
    encode(&mut buffer, sequence, &Header { id: id.clone(), boot: boot.to_owned(), epoch: epoch.to_owned() })?;
    file.write_all(&buffer)?;
    let size = u64::try_from(buffer.len()).unwrap_or(u64::MAX);
    Ok(Writing {
        file,
        index,
        id,
        epoch: epoch.to_owned(),
        size,
        sequence,
        buffer,
        broken: false,
        open: BTreeMap::new(),
    })
}
