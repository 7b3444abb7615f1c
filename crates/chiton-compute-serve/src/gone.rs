//! Ids that were deleted and are never made again, kept in a file that only grows by lines.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chiton_model::{Error, SandboxId};
use jiff::Timestamp;
use parking_lot::Mutex;

/// How long a create that was sent before the delete may still arrive: far longer than any call takes.
const KEEP: Duration = Duration::from_hours(24);
/// How long a deletion is told to whoever begins to watch.
const TELL: Duration = Duration::from_mins(10);

/// The list. One process at a time has it: the data folder is locked by the store.
pub(crate) struct Gone {
    file: PathBuf,
    ids: Mutex<HashMap<SandboxId, Timestamp>>,
}

fn failed(file: &Path, error: &std::io::Error) -> Error {
    Error::unavailable("driver", format!("the list of deleted sandboxes {file:?} cannot be kept: {error}"))
        .cure("look at the data folder's file system")
}

impl Gone {
    /// Reads the list and leaves out what is too old. A last line that a crash cut off is none.
    pub(crate) fn open(folder: &Path) -> Result<Self, Error> {
        let file = folder.join("deleted");
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(failed(&file, &error)),
        };
        let now = Timestamp::now();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let ids = whole.lines().filter_map(|line| {
            let (at, id) = line.split_once(' ')?;
            let at: Timestamp = at.parse().ok()?;
            (now.duration_since(at).unsigned_abs() < KEEP).then_some((SandboxId::new(id).ok()?, at))
        });
        let ids: HashMap<_, _> = ids.collect();
        let gone = Self { file, ids: Mutex::new(ids) };
        gone.rewrite().map_err(|error| failed(&gone.file, &error))?;
        Ok(gone)
    }

    fn rewrite(&self) -> std::io::Result<()> {
        let new = self.file.with_extension("new");
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        for (id, at) in &*self.ids.lock() {
            writeln!(file, "{at} {id}")?;
        }
        file.sync_all()?;
        fs::rename(new, &self.file)
    }

    /// Remembers an id; durable when it returns.
    pub(crate) fn add(&self, id: &SandboxId) -> Result<(), Error> {
        let mut ids = self.ids.lock();
        if ids.contains_key(id) {
            return Ok(());
        }
        let now = Timestamp::now();
        let written = || -> std::io::Result<()> {
            let mut file = fs::OpenOptions::new().append(true).open(&self.file)?;
            file.write_all(format!("{now} {id}\n").as_bytes())?;
            file.sync_data()
        };
        written().map_err(|error| failed(&self.file, &error))?;
        ids.insert(id.clone(), now);
        Ok(())
    }

    pub(crate) fn has(&self, id: &SandboxId) -> bool {
        self.ids.lock().contains_key(id)
    }

    /// What was deleted a short time ago.
    pub(crate) fn lately(&self) -> Vec<SandboxId> {
        let now = Timestamp::now();
        let ids = self.ids.lock();
        let lately = ids.iter().filter(|(_, at)| now.duration_since(**at).unsigned_abs() < TELL);
        lately.map(|(id, _)| id.clone()).collect()
    }
}
