//! What a driver keeps in a file, so that its next process knows its sandboxes. Nothing secret is in it.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use chiton_compute_wire::v1::DriverSandbox;
use prost::Message as _;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};

use crate::platform::{Inner, Object, Phase};

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    backend: String,
    deleted: Vec<String>,
    objects: Vec<SavedObject>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedObject {
    /// The message, in hexadecimal digits.
    sandbox: String,
    phase: Phase,
    code: Option<i32>,
    /// Its main process, by number and start time, so that a driver that was killed leaves none.
    process: Option<(i32, u64)>,
}

pub(crate) fn load(file: &Path) -> io::Result<Inner> {
    let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {what}", file.display()));
    let saved: Saved = match fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Saved::default(),
        Err(error) => return Err(error),
    };
    let mut inner = Inner { backend: saved.backend, deleted: saved.deleted.into_iter().collect(), ..Inner::default() };
    for object in saved.objects {
        end(object.process);
        let bytes = hex::decode(&object.sandbox).map_err(|error| wrong(error.to_string()))?;
        let sandbox = DriverSandbox::decode(&*bytes).map_err(|error| wrong(error.to_string()))?;
        let revision = inner.next();
        let id = sandbox.id.clone();
        // What was being deleted or stopped had its process ended with its driver.
        let phase = match object.phase {
            Phase::Deleting => {
                inner.deleted.insert(id);
                continue;
            }
            Phase::Stopping => Phase::Stopped,
            phase => phase,
        };
        inner.objects.insert(id, Object { phase, code: object.code, ..Object::new(sandbox, <_>::default(), revision) });
    }
    Ok(inner)
}

/// Writes it beside and renames: a process that is killed leaves the old or the new one.
pub(crate) fn save(file: &Path, inner: &Inner) -> io::Result<()> {
    let objects = inner.objects.values().map(|object| SavedObject {
        sandbox: hex::encode(object.sandbox.encode_to_vec()),
        phase: object.phase,
        code: object.code,
        process: object.pid.and_then(|pid| Some((pid.as_raw_nonzero().get(), start_time(pid)?))),
    });
    let saved = Saved {
        backend: inner.backend.clone(),
        deleted: inner.deleted.iter().cloned().collect(),
        objects: objects.collect(),
    };
    let folder = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut new = tempfile::NamedTempFile::new_in(folder)?;
    serde_json::to_writer(&mut new, &saved)?;
    new.flush()?;
    new.persist(file)?;
    Ok(())
}

/// Ends the group of a process that a former driver began, if it is that process still.
fn end(process: Option<(i32, u64)>) {
    let Some((number, time)) = process else { return };
    if let Some(pid) = Pid::from_raw(number).filter(|pid| start_time(*pid) == Some(time)) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

/// When a process began, in ticks since the machine did: field 22 of `proc_pid_stat(5)`, whose second may hold spaces.
fn start_time(pid: Pid) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}
