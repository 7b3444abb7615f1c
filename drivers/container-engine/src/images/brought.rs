//! Which images on the engine are there because of this driver: what it may remove again without being told which.
//!
//! A record is written before the image is brought, so that no crash leaves one that nobody knows of. Its time is when
//! the image was used last.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::time::SystemTime;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

const VERSION: u32 = 1;

/// One image that the driver brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    version: u32,
    /// Its name on the engine.
    pub(super) pin: String,
    /// The names that it was asked for by. They may mean another image by now; of several images that a name led to, the
    /// last has it.
    pub(super) names: BTreeSet<String>,
}

/// A record and when its image was used last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) record: Record,
    pub(super) used: SystemTime,
}

/// The records of one driver.
pub(super) struct Brought {
    folder: PathBuf,
    lock: Mutex<()>,
}

impl Brought {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, lock: Mutex::default() }
    }

    fn path(&self, pin: &str) -> PathBuf {
        self.folder.join(format!("{}.json", hex::encode(Sha256::digest(pin))))
    }

    /// Says that an image is brought, under a name, from now on.
    pub(super) fn begin(&self, pin: &str, name: &str) -> io::Result<()> {
        let _alone = self.lock.lock();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let found = self.load(pin)?;
        let mut record =
            found.unwrap_or_else(|| Record { version: VERSION, pin: pin.to_owned(), names: BTreeSet::new() });
        record.names.insert(name.to_owned());
        self.write(&record)?;
        self.take_name(pin, name)
    }

    /// Says that an image is used; nothing when it is not one that the driver brought.
    pub(super) fn used(&self, pin: &str, name: &str) -> io::Result<()> {
        let _alone = self.lock.lock();
        let Some(mut record) = self.load(pin)? else { return Ok(()) };
        if record.names.insert(name.to_owned()) {
            self.write(&record)?;
            return self.take_name(pin, name);
        }
        File::options().write(true).open(self.path(pin))?.set_modified(SystemTime::now())
    }

    /// Whatever this name led to before, it does no more.
    fn take_name(&self, pin: &str, name: &str) -> io::Result<()> {
        for Kept { mut record, used } in self.all()? {
            if record.pin != pin && record.names.remove(name) {
                self.write(&record)?;
                // It was not used just now.
                File::options().write(true).open(self.path(&record.pin))?.set_modified(used)?;
            }
        }
        Ok(())
    }

    /// The image that this name led to last.
    pub(super) fn find(&self, name: &str) -> io::Result<Option<Record>> {
        let _alone = self.lock.lock();
        Ok(self.all()?.into_iter().map(|kept| kept.record).find(|record| record.names.contains(name)))
    }

    /// All records, those used longest ago first.
    pub(super) fn list(&self) -> io::Result<Vec<Kept>> {
        let _alone = self.lock.lock();
        let mut all = self.all()?;
        all.sort_by(|one, other| (one.used, &one.record.pin).cmp(&(other.used, &other.record.pin)));
        Ok(all)
    }

    /// The image is no longer this driver's.
    pub(super) fn forget(&self, pin: &str) -> io::Result<()> {
        let _alone = self.lock.lock();
        match fs::remove_file(self.path(pin)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn load(&self, pin: &str) -> io::Result<Option<Record>> {
        match fs::read(self.path(pin)) {
            Ok(bytes) => Ok(read(&bytes).filter(|record| record.pin == pin)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn all(&self) -> io::Result<Vec<Kept>> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut all = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let Some(record) = fs::read(&path).ok().and_then(|bytes| read(&bytes)) else { continue };
            if self.path(&record.pin) == path {
                all.push(Kept { record, used: fs::metadata(&path)?.modified()? });
            }
        }
        Ok(all)
    }

    fn write(&self, record: &Record) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        serde_json::to_writer(&mut file, record)?;
        file.flush()?;
        // The kernel's own times are coarser: which was used last would be left open.
        file.as_file().set_modified(SystemTime::now())?;
        file.as_file().sync_all()?;
        file.persist(self.path(&record.pin)).map_err(|error| error.error)?;
        File::open(&self.folder)?.sync_all()
    }
}

/// A record that cannot be read counts as none: its image is then nobody's, and stays.
fn read(bytes: &[u8]) -> Option<Record> {
    serde_json::from_slice::<Record>(bytes).ok().filter(|record| record.version == VERSION)
}
