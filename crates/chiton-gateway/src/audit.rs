//! The audit trail as a file that an operator, or whatever ships logs, can read: `audit.jsonl` in the data folder, one
//! OCSF event a line (<https://schema.ocsf.io>, class Entity Management, 3004).
//!
//! The store's records are the trail; the file is written from them, in their order, each once, and is made durable
//! before the next. What a crash kept from the file is written at the next start. A file that then does not end where the
//! store's records do (it was changed, or the store was restored from a backup) is set aside and written anew, whole, and
//! so is one that is not there. It is opened for each append, so moving it away rotates it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chiton_lifecycle::journal::{AuditRecord, Journal, JournalError};
use chiton_lifecycle::runtime::LifecycleEvent;
use chiton_model::Error;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

/// The file's name in the data folder.
const AUDIT_FILE: &str = "audit.jsonl";

/// Records that are read and written at once.
const PAGE: usize = 256;
/// An event is smaller than this; more than it is read of the file's end.
const LONGEST: u64 = 64 * 1024;
/// How long after a failure it is tried again.
const AGAIN: Duration = Duration::from_secs(30);

/// The file, kept in step with the store.
#[derive(Clone)]
pub(crate) struct AuditFile {
    path: Arc<PathBuf>,
    journal: Arc<dyn Journal>,
    /// The number of the last record in the file; none while that is not known.
    last: Arc<Mutex<Option<u64>>>,
}

/// Why it is not in step.
#[derive(Debug, thiserror::Error)]
enum AuditError {
    #[error(transparent)]
    Store(#[from] JournalError),
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
}

impl AuditFile {
    pub(crate) fn new(folder: &Path, journal: Arc<dyn Journal>) -> Self {
        Self { path: Arc::new(folder.join(AUDIT_FILE)), journal, last: Arc::default() }
    }

    /// Brings the file up to the store. A trail that cannot be written is a reason not to start.
    pub(crate) async fn open(&self) -> Result<(), Error> {
        self.catch_up().await.map_err(|error| {
            Error::unavailable("audit", format!("the audit file cannot be written: {error}"))
                .cure("make room, or make the data folder writable; a file that is moved away is written anew")
        })
    }

    /// Follows the engine's events until they end.
    pub(crate) async fn follow(self, mut events: Receiver<LifecycleEvent>) {
        loop {
            let due = match events.recv().await {
                Ok(event) => matches!(event, LifecycleEvent::Audit { .. }),
                Err(RecvError::Lagged(_)) => true,
                Err(RecvError::Closed) => return,
            };
            while due && let Err(error) = self.catch_up().await {
                tracing::error!(%error, "the audit file is behind the store; trying again");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }

    /// Appends what the store has and the file has not.
    async fn catch_up(&self) -> Result<(), AuditError> {
        let mut last = self.last.lock().await;
        let mut from = match *last {
            Some(number) => number,
            None => self.resume().await?,
        };
        // Unknown until it is written: a line may have been written in part.
        *last = None;
        loop {
            let records = self.journal.audits(from, PAGE).await?;
            let Some((newest, _)) = records.last() else { break };
            from = *newest;
            let info = self.journal.info();
            let mut text = String::new();
            for (number, record) in &records {
                text.push_str(&event(*number, record, info.gateway.as_str()).to_string());
                text.push('\n');
            }
            self.on_file(move |path| append(path, text.as_bytes())).await?;
        }
        *last = Some(from);
        Ok(())
    }

    /// Where the file ends: the number of its last record, if the store has that record as the file has it.
    async fn resume(&self) -> Result<u64, AuditError> {
        let Some(line) = self.on_file(last_line).await? else { return Ok(0) };
        let written: Option<Value> = serde_json::from_slice(&line).ok();
        let number =
            written.as_ref().and_then(|event| event["metadata"]["sequence"].as_u64()).filter(|number| *number > 0);
        if let (Some(number), Some(written)) = (number, written) {
            let known = self.journal.audits(number - 1, 1).await?;
            let same = |(at, record): &(u64, AuditRecord)| {
                *at == number && event(number, record, self.journal.info().gateway.as_str()) == written
            };
            if known.first().is_some_and(same) {
                return Ok(number);
            }
        }
        let aside = self.on_file(set_aside).await?;
        tracing::warn!(aside = %aside.display(), "the audit file did not go on where the store does; it was set aside and is written anew");
        Ok(0)
    }

    async fn on_file<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, AuditError> {
        let path = Arc::clone(&self.path);
        let done = tokio::task::spawn_blocking(move || work(&path)).await;
        let done = done.unwrap_or_else(|error| Err(io::Error::other(error)));
        done.map_err(|source| AuditError::File { path: (*self.path).clone(), source })
    }
}

/// A record as OCSF event.
fn event(number: u64, record: &AuditRecord, gateway: &str) -> Value {
    const CLASS: u32 = 3004;
    let (activity, name) = match record.action.rsplit('.').next() {
        Some("delete" | "discharge" | "forget" | "release") => (4, "Delete"),
        Some("adopt") => (3, "Update"),
        _ => (99, record.action.as_str()),
    };
    let kind = record.action.split('.').next().unwrap_or_default();
    json!({
        "activity_id": activity,
        "activity_name": name,
        "category_uid": 3,
        "category_name": "Identity & Access Management",
        "class_uid": CLASS,
        "class_name": "Entity Management",
        "type_uid": CLASS * 100 + activity,
        "severity_id": 1,
        "status_id": 1,
        "time": record.at.as_millisecond(),
        "message": record.message,
        "actor": { "user": { "name": record.by } },
        "entity": { "type": kind, "uid": record.subject },
        "metadata": {
            "version": "1.3.0",
            "product": { "name": "Chiton", "vendor_name": "Chiton" },
            "log_name": "audit",
            "event_code": record.action,
            "sequence": number,
            "tenant_uid": gateway,
        },
    })
}

fn append(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_data()
}

/// The file's last whole line, after what a crash left behind it was cut off; none when there is none.
fn last_line(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    let from = length.saturating_sub(2 * LONGEST);
    file.seek(SeekFrom::Start(from))?;
    let mut end = Vec::new();
    File::take(file.try_clone()?, 2 * LONGEST).read_to_end(&mut end)?;
    let whole = end.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    if whole < end.len() {
        file.set_len(from + whole as u64)?;
        file.sync_data()?;
    }
    let line = end[..whole].split(|byte| *byte == b'\n').rfind(|line| !line.is_empty());
    Ok(line.map(<[u8]>::to_vec))
}

/// Gives the file another name, which nothing has.
fn set_aside(path: &Path) -> io::Result<PathBuf> {
    for number in 1_u32.. {
        let aside = path.with_extension(format!("jsonl.{number}"));
        match fs::hard_link(path, &aside) {
            Ok(()) => return fs::remove_file(path).map(|()| aside),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("every name is taken"))
}

#[cfg(test)]
mod tests;
