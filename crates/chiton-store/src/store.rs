//! The store as the engine sees it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use chiton_lifecycle::journal::{
    AuditRecord, Commit, ExtensionState, Journal, JournalError, Mark, MarkPosition, Obligation, OpenOperation,
    OperationRecord, RequestKey, RequestRecord, SandboxQuery, SandboxRecord, StoreInfo, Subject, WorkspaceRecord,
    Write,
};
use chiton_model::{ExtensionName, GatewayId, OperationId, SandboxId, SandboxName, StoreEpoch, WorkspaceName};
use futures::channel::oneshot;
use parking_lot::RwLock;
use rusqlite::{Connection, params};
use serde_json::Value;

use crate::check::{self, database_of, place_of};
use crate::error::sql;
use crate::folder::{DataFolder, io, private};
use crate::identity::{self, Identity};
use crate::marks::MarkLog;
use crate::reader::{Readers, bytes, decode};
use crate::rows::encode;
use crate::schema::{configure, migrate};
use crate::witness::{Note, Witness};
use crate::writer::{Fatal, Job, Pending, Writer};
use crate::{MachineFacts, StoreError};

/// What a store is opened with.
pub struct StoreOptions {
    /// The data folder; made if it is not there.
    pub folder: PathBuf,
    /// Facts about the machine.
    pub machine: MachineFacts,
    /// Called when what was promised can no longer be trusted. Must not return to business as usual: ends the process.
    pub fatal: Arc<dyn Fn(&str) + Send + Sync>,
}

impl StoreOptions {
    /// A store in this folder on this machine, which ends the process when its fsync fails.
    ///
    /// # Errors
    /// When the kernel's boot id cannot be read.
    pub fn new(folder: PathBuf) -> std::io::Result<Self> {
        let fatal = Arc::new(|why: &str| {
            tracing::error!(why, "the store cannot go on");
            std::process::abort();
        });
        Ok(Self { folder, machine: MachineFacts::read()?, fatal })
    }
}

/// The embedded store.
pub struct SqliteStore {
    writer: Writer,
    readers: Readers,
    marks: Arc<MarkLog>,
    gateway: GatewayId,
    epoch: RwLock<StoreEpoch>,
    last: Arc<AtomicU64>,
    next: AtomicU64,
    // Last: the folder stays locked until everything else is closed.
    folder: DataFolder,
}

impl SqliteStore {
    /// Opens a store.
    ///
    /// # Errors
    /// [`StoreError`] says why and names the folder.
    pub fn open(options: StoreOptions) -> Result<Self, StoreError> {
        let folder = DataFolder::open(&options.folder)?;
        let file = database_of(&folder.path);
        check::look(&folder.path)?;
        private(&file)?;
        let mut connection = Connection::open(&file).map_err(sql(&file))?;
        configure(&connection).map_err(sql(&file))?;
        migrate(&mut connection, &file)?;
        let Identity { gateway, epoch, last_commit, given } =
            identity::establish(&mut connection, &file, &options.machine)?;
        let note = Note { file: place_of(&file)?, epoch: epoch.clone(), last_commit };
        let witness = Witness::open(&folder.path, note)?;
        let marks = Arc::new(MarkLog::open(&folder.path.join("marks"), &options.machine.boot, epoch.as_str())?);
        let last = Arc::new(AtomicU64::new(last_commit));
        let fatal: Fatal = options.fatal;
        let reserved = given + identity::BLOCK;
        let writer = Writer::start(connection, Arc::clone(&last), reserved, Arc::clone(&marks), witness, fatal)
            .map_err(io(&file))?;
        Ok(Self {
            writer,
            readers: Readers::new(&file),
            marks,
            gateway,
            epoch: RwLock::new(epoch),
            last,
            next: AtomicU64::new(given + 1),
            folder,
        })
    }

    /// How many transactions were committed since it was opened; commits that shared one count once.
    pub fn transactions(&self) -> u64 {
        self.writer.transactions.load(Ordering::Relaxed)
    }

    /// The data folder.
    pub fn folder(&self) -> &std::path::Path {
        &self.folder.path
    }

    async fn ask<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, JournalError>>) -> Job,
    ) -> Result<T, JournalError> {
        let (answer, result) = oneshot::channel();
        self.writer.send(job(answer))?;
        result.await.unwrap_or_else(|_| Err(JournalError::Failed("the store's writer has ended".to_owned())))
    }
}

#[async_trait]
impl Journal for SqliteStore {
    fn info(&self) -> StoreInfo {
        StoreInfo {
            gateway: self.gateway.clone(),
            epoch: self.epoch.read().clone(),
            last_commit: self.last.load(Ordering::Acquire),
        }
    }

    fn next_commit(&self) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if number > self.writer.reserved.load(Ordering::Acquire) {
            // Once in a block, if commits did not reserve it on the way. Where the disk refuses, so will the commit.
            self.writer.reserve(number);
        }
        number
    }

    async fn commit(&self, commit: Commit) -> Result<u64, JournalError> {
        let rows = encode(&commit)?;
        let number = if commit.number == 0 { self.next_commit() } else { commit.number };
        self.next.fetch_max(number.saturating_add(1), Ordering::Relaxed);
        // Known as open before it is stored: its segment must not go in between.
        let (mut begun, mut ended) = (Vec::new(), Vec::new());
        for write in &commit.writes {
            if let Write::PutOperation(record) = write {
                let operation = record.id.to_string();
                if record.outcome.is_some() {
                    ended.push(operation);
                } else if self.marks.opened(&operation, &record.marks) {
                    begun.push(operation);
                }
            }
        }
        self.ask(|answer| Job::Commit(Pending { number, checks: commit.checks, rows, begun, ended, answer })).await
    }

    async fn renew_epoch(&self) -> Result<StoreEpoch, JournalError> {
        let epoch = identity::fresh_epoch();
        self.ask(|answer| Job::Epoch(epoch.clone(), answer)).await?;
        self.marks.renew(epoch.as_str())?;
        self.epoch.write().clone_from(&epoch);
        Ok(epoch)
    }

    fn mark_position(&self) -> MarkPosition {
        self.marks.position()
    }

    fn mark(&self, mark: &Mark) -> Result<(), JournalError> {
        self.marks.append(mark)
    }

    async fn open_operations(&self) -> Result<Vec<OpenOperation>, JournalError> {
        let open: Vec<OperationRecord> = self
            .readers
            .documents("SELECT 'operation ' || id, doc FROM operation WHERE open = 1 ORDER BY number, id", [])?;
        let epoch = self.epoch.read().clone();
        let found = open
            .into_iter()
            .map(|operation| {
                let marks = self.marks.since(operation.id.as_str(), &operation.marks, epoch.as_str());
                OpenOperation { marks: marks.filter(|_| operation.epoch == epoch), operation }
            })
            .collect();
        self.marks.forget_old();
        Ok(found)
    }

    async fn sandbox(&self, id: &SandboxId) -> Result<Option<SandboxRecord>, JournalError> {
        self.readers.document("SELECT 'sandbox ' || id, doc FROM sandbox WHERE id = ?1", [id.as_str()])
    }

    async fn sandbox_by_name(
        &self,
        workspace: &WorkspaceName,
        name: &SandboxName,
    ) -> Result<Option<SandboxRecord>, JournalError> {
        self.readers.document(
            "SELECT 'sandbox ' || id, doc FROM sandbox WHERE workspace = ?1 AND name = ?2 ORDER BY name_held DESC, number DESC, id DESC LIMIT 1",
            [workspace.as_str(), name.as_str()],
        )
    }

    async fn sandboxes(&self, query: &SandboxQuery) -> Result<Vec<SandboxRecord>, JournalError> {
        let limit = if query.limit == 0 { -1 } else { i64::try_from(query.limit).unwrap_or(-1) };
        self.readers.documents(
            "SELECT 'sandbox ' || id, doc FROM sandbox WHERE id > ?1 AND (?2 IS NULL OR workspace = ?2) AND (?3 OR name_held = 1) ORDER BY id LIMIT ?4",
            params![
                query.after.as_ref().map_or("", SandboxId::as_str),
                query.workspace.as_ref().map(WorkspaceName::as_str),
                query.all,
                limit
            ],
        )
    }

    async fn operation(&self, id: &OperationId) -> Result<Option<OperationRecord>, JournalError> {
        self.readers.document("SELECT 'operation ' || id, doc FROM operation WHERE id = ?1", [id.as_str()])
    }

    async fn operations(&self, subject: &Subject) -> Result<Vec<OperationRecord>, JournalError> {
        self.readers.documents(
            "SELECT 'operation ' || id, doc FROM operation WHERE subject = ?1 ORDER BY number, id",
            [subject.to_string()],
        )
    }

    async fn request(&self, key: &RequestKey) -> Result<Option<RequestRecord>, JournalError> {
        self.readers.document(
            "SELECT 'request ' || request_id, doc FROM request WHERE principal = ?1 AND method = ?2 AND request_id = ?3",
            [&key.principal, &key.method, &key.request_id],
        )
    }

    async fn states_of(&self, subject: &Subject) -> Result<Vec<(ExtensionName, ExtensionState)>, JournalError> {
        let rows = self.states("WHERE subject = ?1", subject.to_string())?;
        rows.into_iter().map(|row| Ok((row.extension()?, row.state()?))).collect()
    }

    async fn states_by(&self, name: &ExtensionName) -> Result<Vec<(Subject, ExtensionState)>, JournalError> {
        let rows = self.states("WHERE extension = ?1", name.to_string())?;
        rows.into_iter().map(|row| Ok((row.subject()?, row.state()?))).collect()
    }

    async fn state_keys(&self) -> Result<Vec<(Subject, ExtensionName)>, JournalError> {
        let rows = self.states("WHERE ?1 = ''", String::new())?;
        rows.into_iter().map(|row| Ok((row.subject()?, row.extension()?))).collect()
    }

    async fn audits(&self, after: u64, limit: usize) -> Result<Vec<(u64, AuditRecord)>, JournalError> {
        let rows = self.readers.rows(
            "SELECT number, doc FROM audit WHERE number > ?1 ORDER BY number LIMIT ?2",
            params![i64::try_from(after).unwrap_or(i64::MAX), i64::try_from(limit).unwrap_or(i64::MAX)],
            |row| Ok((row.get::<_, i64>(0)?, bytes(row, 1)?)),
        )?;
        let read = |(number, doc): (i64, Vec<u8>)| {
            let record = decode(&format!("audit record {number}"), &doc)?;
            let number = u64::try_from(number)
                .map_err(|_| JournalError::Unreadable(format!("audit record {number}: its number is negative")))?;
            Ok((number, record))
        };
        rows.into_iter().map(read).collect()
    }

    async fn obligations(&self) -> Result<Vec<Obligation>, JournalError> {
        self.readers.documents("SELECT 'obligation ' || id, doc FROM obligation ORDER BY opened_at, id", [])
    }

    async fn config(&self, digest: &str) -> Result<Option<Value>, JournalError> {
        self.readers.document("SELECT 'config ' || digest, doc FROM config WHERE digest = ?1", [digest])
    }

    async fn workspaces(&self) -> Result<Vec<WorkspaceRecord>, JournalError> {
        self.readers.documents(
            "SELECT 'workspace ' || workspace || '/' || driver, doc FROM workspace ORDER BY workspace, driver",
            [],
        )
    }

    async fn epochs(&self) -> Result<Vec<StoreEpoch>, JournalError> {
        let found = self
            .readers
            .rows("SELECT value FROM meta WHERE key = 'earlier_epochs'", [], |row| row.get::<_, String>(0))?;
        let epochs = found.iter().flat_map(|text| text.split_whitespace());
        epochs.map(|text| StoreEpoch::new(text).map_err(|error| JournalError::Unreadable(error.message))).collect()
    }

    async fn expire(&self, now: jiff::Timestamp) -> Result<Vec<SandboxId>, JournalError> {
        self.ask(|answer| Job::Expire(now.as_microsecond(), answer)).await
    }
}

/// A row of the states, as it is.
struct StateRow {
    subject: String,
    extension: String,
    key: Vec<u8>,
    doc: Vec<u8>,
}

impl StateRow {
    fn name(&self) -> String {
        format!("state {} {}", self.subject, self.extension)
    }

    fn subject(&self) -> Result<Subject, JournalError> {
        decode(&self.name(), &self.key)
    }

    fn state(&self) -> Result<ExtensionState, JournalError> {
        decode(&self.name(), &self.doc)
    }

    fn extension(&self) -> Result<ExtensionName, JournalError> {
        ExtensionName::new(&self.extension)
            .map_err(|error| JournalError::Unreadable(format!("{}: {}", self.name(), error.message)))
    }
}

impl SqliteStore {
    fn states(&self, which: &str, value: String) -> Result<Vec<StateRow>, JournalError> {
        let sql = format!("SELECT subject, extension, key, doc FROM state {which} ORDER BY subject, extension");
        self.readers.rows(&sql, [value], |row| {
            Ok(StateRow { subject: row.get(0)?, extension: row.get(1)?, key: bytes(row, 2)?, doc: bytes(row, 3)? })
        })
    }
}
