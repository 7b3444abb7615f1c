//! Ids that were deleted. They are kept for a day, so that a create that was on its way then is refused when it comes.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use chiton_driver::CallError;
use chiton_model::{Error, SandboxId};

const KEPT: Duration = Duration::from_hours(24);

/// A folder with an empty file for each.
pub(crate) struct Tombstones(pub(crate) PathBuf);

impl Tombstones {
    /// Remembers it; before anything of it is removed.
    pub(crate) fn add(&self, id: &SandboxId) -> Result<(), CallError> {
        let write = || -> io::Result<()> {
            fs::create_dir_all(&self.0)?;
            fs::File::create(self.0.join(id.as_str())).map(drop)
        };
        write().map_err(|error| {
            let text = format!("the deletion of {id} cannot be recorded in {}: {error}", self.0.display());
            CallError::NotRun(Error::unavailable("driver", text).cure("make room, or mend the folder's permissions"))
        })
    }

    /// Refuses an id that was deleted.
    pub(crate) fn refuse(&self, id: &SandboxId) -> Result<(), CallError> {
        if !self.0.join(id.as_str()).exists() {
            return Ok(());
        }
        let text = format!("sandbox {id} was deleted and its id is never used again");
        Err(CallError::NotRun(Error::refused("driver", text).cure("create another sandbox")))
    }

    /// Forgets the old ones.
    pub(crate) fn sweep(&self) {
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let made = entry.metadata().and_then(|metadata| metadata.modified());
            let old = made.is_ok_and(|made| SystemTime::now().duration_since(made).is_ok_and(|age| age > KEPT));
            if old {
                // Another look finds it again.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}
