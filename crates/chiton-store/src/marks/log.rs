//! The log that is being written.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use chiton_lifecycle::journal::{JournalError, Mark, MarkPosition};
use parking_lot::Mutex;
use rand::TryRngCore as _;

use super::record::{Header, LARGEST, Trailer, encode};
use super::trust::{Segment, read_segments};
use crate::StoreError;
use crate::folder::io;

/// A segment that is larger than this is followed by a new one.
pub(super) const SEGMENT: u64 = 4 * 1024 * 1024;

/// The mark log.
pub(crate) struct MarkLog {
    folder: PathBuf,
    boot: String,
    state: Mutex<State>,
}

struct State {
    writing: Writing,
    /// Segments of this process that still exist, by id.
    own: BTreeMap<String, u64>,
    /// What was there when the log was opened.
    old: Vec<Segment>,
    /// The oldest segment that may still exist.
    oldest: u64,
    /// Open operations and the segment in which they began.
    open: BTreeMap<String, u64>,
    /// Recovery has told which operations of earlier processes are open; before that no segment goes.
    recovered: bool,
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
        let state = State {
            own: BTreeMap::from([(writing.id.clone(), index)]),
            oldest: old.first().map_or(index, |segment| segment.index),
            old,
            open: BTreeMap::new(),
            recovered: false,
            writing,
        };
        Ok(Self { folder: folder.to_owned(), boot: boot.to_owned(), state: Mutex::new(state) })
    }

    /// Where the log ends.
    pub(crate) fn position(&self) -> MarkPosition {
        let state = self.state.lock();
        MarkPosition { log: state.writing.id.clone(), sequence: state.writing.sequence, boot: self.boot.clone() }
    }

    /// Appends a mark. Returns when the kernel has it.
    pub(crate) fn append(&self, mark: &Mark) -> Result<(), JournalError> {
        let mut state = self.state.lock();
        if state.writing.size >= SEGMENT && !state.writing.broken {
            self.rotate(&mut state).map_err(|error| lost(&error))?;
        }
        state.writing.append(mark)
    }

    fn rotate(&self, state: &mut State) -> std::io::Result<()> {
        let last = &state.writing;
        let next = begin(&self.folder, last.index + 1, last.sequence, &self.boot, &last.epoch)?;
        state.own.insert(next.id.clone(), next.index);
        let mut last = std::mem::replace(&mut state.writing, next);
        let trailer = Trailer { followed_by: state.writing.id.clone() };
        encode(&mut last.buffer, last.sequence, &trailer)?;
        // One that is written in part makes the log look damaged, which is the safe side.
        last.file.write_all(&last.buffer)?;
        self.remove_old(state);
        Ok(())
    }

    /// Removes segments that no open operation needs.
    fn remove_old(&self, state: &mut State) {
        let needed = state.open.values().copied().fold(state.writing.index, u64::min);
        if !state.recovered || needed <= state.oldest {
            return;
        }
        state.old.retain(|segment| segment.index >= needed);
        state.own.retain(|_, index| *index >= needed);
        for (index, path) in super::trust::list(&self.folder).unwrap_or_default() {
            if index < needed {
                // A segment that stays is read again for nothing, which is no fault.
                drop(fs::remove_file(path));
            }
        }
        state.oldest = needed;
    }

    /// Notes that an operation is open; whether that is new. Its position may be older than the segment that is written
    /// now.
    pub(crate) fn opened(&self, operation: &str, position: &MarkPosition) -> bool {
        let mut state = self.state.lock();
        if state.open.contains_key(operation) {
            return false;
        }
        let index = state.own.get(&position.log).copied().unwrap_or(state.writing.index);
        state.open.insert(operation.to_owned(), index);
        true
    }

    /// Notes that an operation has ended.
    pub(crate) fn closed(&self, operation: &str) {
        let mut state = self.state.lock();
        if state.open.remove(operation).is_some() {
            self.remove_old(&mut state);
        }
    }

    /// The operation's marks that follow a position, if they can be trusted; keeps the segments for the operation.
    pub(crate) fn since(&self, operation: &str, position: &MarkPosition, epoch: &str) -> Option<Vec<Mark>> {
        let mut state = self.state.lock();
        // Without a segment it has no marks to keep; those that it writes from now on follow here.
        let begun = state.old.iter().find(|segment| segment.is(position)).map_or(state.writing.index, |old| old.index);
        state.open.entry(operation.to_owned()).or_insert(begun);
        super::trust::trusted(&state.old, position, &self.boot, epoch).map(|log| log.of(operation))
    }

    /// After recovery has read it: the old marks are no longer needed in memory.
    pub(crate) fn forget_old(&self) {
        let mut state = self.state.lock();
        state.old.iter_mut().for_each(Segment::forget);
        state.recovered = true;
        self.remove_old(&mut state);
    }

    /// From the next segment on the log belongs to another life of the store.
    pub(crate) fn renew(&self, epoch: &str) -> Result<(), JournalError> {
        let mut state = self.state.lock();
        epoch.clone_into(&mut state.writing.epoch);
        self.rotate(&mut state).map_err(|error| lost(&error))
    }
}

impl Writing {
    fn append(&mut self, mark: &Mark) -> Result<(), JournalError> {
        if self.broken {
            return Err(JournalError::Failed("an earlier mark could not be taken back; the log ends here".to_owned()));
        }
        let Writing { file, buffer, sequence, .. } = &mut *self;
        encode(buffer, *sequence, mark)
            .map_err(|error| JournalError::Failed(format!("a mark could not be encoded: {error}")))?;
        if buffer.len() > LARGEST {
            return Err(JournalError::Failed(format!("a mark has {} bytes, the limit is {LARGEST}", buffer.len())));
        }
        let length = u64::try_from(buffer.len()).unwrap_or(u64::MAX);
        match file.write(buffer) {
            Ok(written) if written == buffer.len() => {
                self.size += length;
                self.sequence += 1;
                Ok(())
            }
            other => {
                // What was written of it must not be read as a mark, nor hide the marks after it.
                let kept = rustix::fs::ftruncate(&self.file, self.size);
                self.broken = kept.is_err();
                Err(match other {
                    Err(error) if error.kind() != std::io::ErrorKind::StorageFull => {
                        JournalError::Failed(format!("a mark could not be written: {error}"))
                    }
                    Err(error) => JournalError::Full(format!("a mark could not be written: {error}")),
                    // So says the kernel when the file system has room for a part of it.
                    Ok(_) => JournalError::Full("a mark was written in part and taken back".to_owned()),
                })
            }
        }
    }
}

fn lost(error: &std::io::Error) -> JournalError {
    match error.kind() {
        std::io::ErrorKind::StorageFull => JournalError::Full(format!("the mark log cannot grow: {error}")),
        _ => JournalError::Failed(format!("the mark log failed: {error}")),
    }
}

fn begin(folder: &Path, index: u64, sequence: u64, boot: &str, epoch: &str) -> std::io::Result<Writing> {
    let mut id = [0; 16];
    rand::rngs::OsRng.try_fill_bytes(&mut id).expect("the kernel gives entropy");
    let id = hex::encode(id);
    let path = segment_path(folder, index);
    let mut file = OpenOptions::new().create_new(true).append(true).mode(0o600).open(&path)?;
    let mut buffer = Vec::with_capacity(4096);
    encode(&mut buffer, sequence, &Header { id: id.clone(), boot: boot.to_owned(), epoch: epoch.to_owned() })?;
    file.write_all(&buffer).inspect_err(|_| {
        // On a full disk: left there, its place would be taken, and no later segment could begin.
        drop(fs::remove_file(&path));
    })?;
    let size = u64::try_from(buffer.len()).unwrap_or(u64::MAX);
    Ok(Writing { file, index, id, epoch: epoch.to_owned(), size, sequence, buffer, broken: false })
}
