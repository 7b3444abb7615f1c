//! Ids that were deleted and are not made again, kept in a file that grows by lines and is written anew when most of them
//! say nothing any more.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chiton_driver::replace_file;
use chiton_lifecycle::runtime::LifecycleEvent;
use chiton_model::{Error, SandboxId};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::service::Driver;

/// How long after a sandbox's absence a create that was sent before its delete may still arrive: far longer than any call
/// takes.
const KEEP: Duration = Duration::from_hours(24);
/// How long after a sandbox's absence its deletion is told to whoever begins to watch.
const TELL: Duration = Duration::from_mins(10);
/// What a line ends with that says when a sandbox was known to be absent; one without says when its delete was asked for.
const ABSENT: &str = " absent";
/// Lines that say nothing any more, before the file is written anew.
const WASTE: usize = 1000;

/// The list. One process at a time has it: the data folder is locked by the store.
pub(crate) struct Gone {
    file: PathBuf,
    list: Mutex<List>,
}

struct List {
    ids: HashMap<SandboxId, Deleted>,
    /// What of the file is whole lines; what a failed write left behind it is cut off by the next.
    bytes: u64,
    lines: usize,
}

/// A delete.
#[derive(Clone, Copy)]
struct Deleted {
    asked: Timestamp,
    /// When there was nothing left; none while it is under way.
    absent: Option<Timestamp>,
}

impl Deleted {
    /// What is under way is as young as can be.
    fn is_younger(&self, age: Duration, now: Timestamp) -> bool {
        self.absent.is_none_or(|at| now.duration_since(at).unsigned_abs() < age)
    }
}

fn failed(file: &Path, error: &io::Error) -> Error {
    Error::unavailable("driver", format!("the list of deleted sandboxes {file:?} cannot be kept: {error}"))
        .cure("look at the data folder's file system")
}

fn parsed(line: &str) -> Option<(SandboxId, Timestamp, bool)> {
    let (rest, absent) = line.strip_suffix(ABSENT).map_or((line, false), |rest| (rest, true));
    let (at, id) = rest.split_once(' ')?;
    Some((SandboxId::new(id).ok()?, at.parse().ok()?, absent))
}

impl Gone {
    /// Reads the list and leaves out what is too old. A last line that a crash cut off is none.
    pub(crate) fn open(folder: &Path, now: Timestamp) -> Result<Self, Error> {
        let file = folder.join("deleted");
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(failed(&file, &error)),
        };
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let mut ids = HashMap::new();
        for (id, at, absent) in whole.lines().filter_map(parsed) {
            let deleted = ids.entry(id).or_insert(Deleted { asked: at, absent: None });
            if absent {
                deleted.absent = Some(at);
            }
        }
        let gone = Self { file, list: Mutex::new(List { ids, bytes: 0, lines: 0 }) };
        gone.rewrite(&mut gone.list.lock(), now).map_err(|error| failed(&gone.file, &error))?;
        Ok(gone)
    }

    /// Writes the file anew, without what is too old.
    fn rewrite(&self, list: &mut List, now: Timestamp) -> io::Result<()> {
        list.ids.retain(|_, deleted| deleted.is_younger(KEEP, now));
        let lines = list.ids.iter().flat_map(|(id, Deleted { asked, absent })| {
            let absent = absent.map(|at| format!("{at} {id}{ABSENT}\n"));
            [format!("{asked} {id}\n")].into_iter().chain(absent)
        });
        let lines: Vec<String> = lines.collect();
        let text = lines.concat();
        replace_file(&self.file, text.as_bytes())?;
        (list.bytes, list.lines) = (text.len() as u64, lines.len());
        Ok(())
    }

    fn append(&self, list: &mut List, line: &str, durable: bool) -> io::Result<()> {
        let mut file = fs::OpenOptions::new().append(true).open(&self.file)?;
        if file.metadata()?.len() != list.bytes {
            file.set_len(list.bytes)?;
        }
        file.write_all(line.as_bytes())?;
        if durable {
            file.sync_data()?;
        }
        list.bytes += line.len() as u64;
        list.lines += 1;
        Ok(())
    }

    /// Remembers that an id is deleted; durable when it returns.
    pub(crate) fn add(&self, id: &SandboxId, now: Timestamp) -> Result<(), Error> {
        let list = &mut *self.list.lock();
        if list.ids.contains_key(id) {
            return Ok(());
        }
        self.append(list, &format!("{now} {id}\n"), true).map_err(|error| failed(&self.file, &error))?;
        list.ids.insert(id.clone(), Deleted { asked: now, absent: None });
        list.ids.retain(|_, deleted| deleted.is_younger(KEEP, now));
        if list.lines > 2 * list.ids.len() + WASTE {
            // What is there says enough.
            if let Err(error) = self.rewrite(list, now) {
                tracing::warn!(file = ?self.file, %error, "the list of deleted sandboxes could not be made shorter");
            }
        }
        Ok(())
    }

    /// Remembers that a deleted sandbox is known to be absent now. Lost in a crash, it is found again by the next start.
    pub(crate) fn absent(&self, id: &SandboxId, now: Timestamp) {
        let list = &mut *self.list.lock();
        if list.ids.get(id).is_none_or(|deleted| deleted.absent.is_some()) {
            return;
        }
        if let Err(error) = self.append(list, &format!("{now} {id}{ABSENT}\n"), false) {
            tracing::warn!(file = ?self.file, %error, "the list of deleted sandboxes cannot be kept");
        }
        if let Some(deleted) = list.ids.get_mut(id) {
            deleted.absent = Some(now);
        }
    }

    pub(crate) fn has(&self, id: &SandboxId) -> bool {
        self.list.lock().ids.contains_key(id)
    }

    /// What is not known to be absent.
    fn under_way(&self) -> Vec<SandboxId> {
        let list = self.list.lock();
        list.ids.iter().filter(|(_, deleted)| deleted.absent.is_none()).map(|(id, _)| id.clone()).collect()
    }

    /// What is deleted or went a short time ago. Whoever tells of it looks first whether it is still there.
    pub(crate) fn lately(&self, now: Timestamp) -> Vec<SandboxId> {
        let list = self.list.lock();
        list.ids.iter().filter(|(_, deleted)| deleted.is_younger(TELL, now)).map(|(id, _)| id.clone()).collect()
    }
}

/// Writes down when deleted sandboxes are known to be absent; ends with the engine. `events` are from before the call.
pub(crate) async fn follow(driver: Arc<Driver>, mut events: Receiver<LifecycleEvent>) {
    loop {
        // What went before this began, or was told too fast.
        for id in driver.gone.under_way() {
            if driver.is_absent(&id).await {
                driver.gone.absent(&id, Timestamp::now());
            }
        }
        loop {
            match events.recv().await {
                Ok(LifecycleEvent::Removed(id)) => driver.gone.absent(&id, Timestamp::now()),
                // Cleanups may be owed for as long as they like.
                Ok(LifecycleEvent::Changed(record)) if crate::show::is_absent(&record) => {
                    driver.gone.absent(&record.id, Timestamp::now());
                }
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => break,
                Err(RecvError::Closed) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests;
