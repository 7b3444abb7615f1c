//! The writer: one thread, one connection, group commit.
//!
//! Whatever waits when a commit is done goes into the next one, each change in a savepoint of its own: a check that fails
//! undoes its own commit and no neighbour's. One fsync serves them all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use chiton_lifecycle::journal::{Check, JournalError};
use chiton_model::SandboxId;
use futures::channel::oneshot;
use parking_lot::Mutex;
use rusqlite::Connection;

use crate::expire::expire;
use crate::identity;
use crate::rows::{Row, apply, failed};

/// The most commits that share one fsync: bounds how long the first of them waits.
const BATCH: usize = 256;

/// A commit on its way.
pub(crate) struct Pending {
    pub(crate) number: u64,
    pub(crate) checks: Vec<Check>,
    pub(crate) rows: Vec<Row>,
    pub(crate) answer: oneshot::Sender<Result<u64, JournalError>>,
}

/// What the writer is asked.
pub(crate) enum Job {
    Commit(Pending),
    Expire(i64, oneshot::Sender<Result<Vec<SandboxId>, JournalError>>),
    Epoch(String, oneshot::Sender<Result<(), JournalError>>),
}

/// What a failed fsync calls: nothing that was promised can be trusted after it.
pub(crate) type Fatal = Arc<dyn Fn(&str) + Send + Sync>;

/// The writer's thread.
pub(crate) struct Writer {
    jobs: Mutex<Option<Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Transactions that were committed; several commits may share one.
    pub(crate) transactions: Arc<AtomicU64>,
}

impl Writer {
    pub(crate) fn start(connection: Connection, last: Arc<AtomicU64>, fatal: Fatal) -> std::io::Result<Self> {
        let (jobs, inbox) = channel();
        let transactions = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&transactions);
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || work(&connection, &inbox, &last, &counter, &fatal))?;
        Ok(Self { jobs: Mutex::new(Some(jobs)), thread: Mutex::new(Some(thread)), transactions })
    }

    pub(crate) fn send(&self, job: Job) -> Result<(), JournalError> {
        let gone = || JournalError::Failed("the store's writer has ended".to_owned());
        self.jobs.lock().as_ref().ok_or_else(gone)?.send(job).map_err(|_| gone())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Without senders the thread ends after what is queued.
        self.jobs.lock().take();
        if let Some(thread) = self.thread.lock().take() {
            drop(thread.join());
        }
    }
}

fn work(connection: &Connection, inbox: &Receiver<Job>, last: &AtomicU64, transactions: &AtomicU64, fatal: &Fatal) {
    while let Ok(first) = inbox.recv() {
        let mut batch = Vec::new();
        let mut next = Some(first);
        while let Some(job) = next {
            match job {
                Job::Commit(pending) => batch.push(pending),
                Job::Expire(now, answer) => drop(answer.send(expire(connection, now))),
                Job::Epoch(epoch, answer) => {
                    let written = identity::write(connection, "epoch", &epoch);
                    drop(answer.send(written.map_err(|error| failed(&error))));
                }
            }
            next = if batch.len() < BATCH { inbox.try_recv().ok() } else { None };
        }
        if !batch.is_empty() {
            commit(connection, batch, last, transactions, fatal);
        }
    }
}

fn commit(connection: &Connection, batch: Vec<Pending>, last: &AtomicU64, transactions: &AtomicU64, fatal: &Fatal) {
    let highest = batch.iter().map(|pending| pending.number).max().unwrap_or(0).max(last.load(Ordering::Acquire));
    let mut results = Vec::with_capacity(batch.len());
    let stored = (|| {
        connection.execute_batch("BEGIN IMMEDIATE")?;
        for pending in &batch {
            connection.execute_batch("SAVEPOINT one")?;
            let result = apply(connection, &pending.checks, &pending.rows);
            connection.execute_batch(if result.is_ok() { "RELEASE one" } else { "ROLLBACK TO one; RELEASE one" })?;
            results.push(result);
        }
        identity::write(connection, "last_commit", &highest.to_string())?;
        connection.execute_batch("COMMIT")
    })();
    if let Err(error) = stored {
        if is_fsync(&error) {
            fatal(&format!("the store's fsync failed, nothing it holds can be trusted any more: {error}"));
        }
        // Whatever was begun is undone; a rollback of nothing is an error that says nothing.
        drop(connection.execute_batch("ROLLBACK"));
        for pending in batch {
            drop(pending.answer.send(Err(failed(&error))));
        }
        return;
    }
    transactions.fetch_add(1, Ordering::Relaxed);
    last.store(highest, Ordering::Release);
    for (pending, result) in batch.into_iter().zip(results) {
        drop(pending.answer.send(result.map(|()| pending.number)));
    }
}

/// `SQLite`'s extended codes for a failed fsync of a file or of its folder.
fn is_fsync(error: &rusqlite::Error) -> bool {
    const FSYNC: [i32; 2] = [rusqlite::ffi::SQLITE_IOERR_FSYNC, rusqlite::ffi::SQLITE_IOERR_DIR_FSYNC];
    error.sqlite_error().is_some_and(|error| FSYNC.contains(&error.extended_code))
}
