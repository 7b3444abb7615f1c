//! The writer: one thread, one connection, group commit.
//!
//! Whatever waits when a commit is done goes into the next one, each change in a savepoint of its own: a check that fails
//! undoes its own commit and no neighbour's. One fsync serves them all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use chiton_lifecycle::journal::{Check, JournalError};
use chiton_model::{SandboxId, StoreEpoch};
use futures::channel::oneshot;
use parking_lot::Mutex;
use rusqlite::Connection;

use crate::expire::expire;
use crate::identity::{self, BLOCK};
use crate::marks::MarkLog;
use crate::rows::{Refusal, Row, apply, failed};
use crate::witness::Witness;

/// The most commits that share one fsync: bounds how long the first of them waits.
const BATCH: usize = 256;

/// A commit on its way.
pub(crate) struct Pending {
    pub(crate) number: u64,
    pub(crate) checks: Vec<Check>,
    pub(crate) rows: Vec<Row>,
    /// Operations that begin with it: if it fails they never were.
    pub(crate) begun: Vec<String>,
    /// Operations that end with it: their marks are not needed any more.
    pub(crate) ended: Vec<String>,
    pub(crate) answer: oneshot::Sender<Result<u64, JournalError>>,
}

/// What the writer is asked.
pub(crate) enum Job {
    Commit(Pending),
    Expire(i64, oneshot::Sender<Result<Vec<SandboxId>, JournalError>>),
    Epoch(StoreEpoch, oneshot::Sender<Result<(), JournalError>>),
    /// Reserve commit numbers up to this one and a block further.
    Reserve(u64, Sender<()>),
}

/// What a failed fsync calls: nothing that was promised can be trusted after it.
pub(crate) type Fatal = Arc<dyn Fn(&str) + Send + Sync>;

/// The writer's thread.
pub(crate) struct Writer {
    jobs: Mutex<Option<Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Transactions that were committed; several commits may share one.
    pub(crate) transactions: Arc<AtomicU64>,
    /// Commit numbers up to this one are never given again after a restart.
    pub(crate) reserved: Arc<AtomicU64>,
}

impl Writer {
    pub(crate) fn start(
        connection: Connection,
        last: Arc<AtomicU64>,
        reserved: u64,
        marks: Arc<MarkLog>,
        witness: Witness,
        fatal: Fatal,
    ) -> std::io::Result<Self> {
        let (jobs, inbox) = channel();
        let transactions = Arc::new(AtomicU64::new(0));
        let reserved = Arc::new(AtomicU64::new(reserved));
        let work = Work {
            connection,
            last,
            transactions: Arc::clone(&transactions),
            reserved: Arc::clone(&reserved),
            marks,
            witness,
            fatal,
            lost: None,
        };
        let thread = std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || work.run(&inbox))?;
        Ok(Self { jobs: Mutex::new(Some(jobs)), thread: Mutex::new(Some(thread)), transactions, reserved })
    }

    /// Waits until the number is reserved, or cannot be.
    pub(crate) fn reserve(&self, number: u64) {
        let (answer, done) = channel();
        if self.send(Job::Reserve(number, answer)).is_ok() {
            // An end of the channel is an answer too.
            let _ended = done.recv();
        }
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

struct Work {
    connection: Connection,
    last: Arc<AtomicU64>,
    transactions: Arc<AtomicU64>,
    reserved: Arc<AtomicU64>,
    marks: Arc<MarkLog>,
    witness: Witness,
    fatal: Fatal,
    /// Why nothing is stored any more, once the store cannot be trusted and the hook has let the process live.
    lost: Option<String>,
}

impl Work {
    fn run(mut self, inbox: &Receiver<Job>) {
        let mut waiting = None;
        while let Some(job) = waiting.take().or_else(|| inbox.recv().ok()) {
            match job {
                Job::Commit(first) => {
                    let mut batch = vec![first];
                    while batch.len() < BATCH && waiting.is_none() {
                        match inbox.try_recv() {
                            Ok(Job::Commit(pending)) => batch.push(pending),
                            // Its turn is after the commits that were sent before it.
                            Ok(other) => waiting = Some(other),
                            Err(_) => break,
                        }
                    }
                    self.commit(batch);
                }
                Job::Expire(now, answer) => {
                    let gone = self.guarded(|work| expire(&work.connection, now));
                    drop(answer.send(gone.and_then(|ids| ids.into_iter().map(sandbox_id).collect())));
                }
                Job::Epoch(epoch, answer) => {
                    let renewed = self.guarded(|work| {
                        let transaction = work.connection.unchecked_transaction()?;
                        identity::renew(&transaction, epoch.as_str())?;
                        transaction.commit()
                    });
                    if renewed.is_ok() {
                        self.witness.renewed(epoch);
                    }
                    drop(answer.send(renewed));
                }
                Job::Reserve(number, answer) => {
                    drop(self.guarded(|work| work.reserve(number)));
                    let _gone = answer.send(());
                }
            }
        }
    }

    fn commit(&mut self, batch: Vec<Pending>) {
        let numbers = batch.iter().map(|pending| pending.number);
        let highest = numbers.max().unwrap_or(0).max(self.last.load(Ordering::Acquire));
        let stored = self.guarded(|work| work.transaction(&batch, highest));
        if stored.is_ok() {
            self.transactions.fetch_add(1, Ordering::Relaxed);
            self.witness.committed(highest);
            self.last.store(highest, Ordering::Release);
        }
        let results = stored.unwrap_or_else(|error| vec![Err(error); batch.len()]);
        for (pending, result) in batch.into_iter().zip(results) {
            let over = if result.is_ok() { &pending.ended } else { &pending.begun };
            for operation in over {
                self.marks.closed(operation);
            }
            drop(pending.answer.send(result.map(|()| pending.number)));
        }
    }

    /// Each commit's own result; an error when none of them is stored.
    fn transaction(&mut self, batch: &[Pending], highest: u64) -> rusqlite::Result<Vec<Result<(), JournalError>>> {
        let mut results = Vec::with_capacity(batch.len());
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        for pending in batch {
            self.connection.execute_batch("SAVEPOINT one")?;
            let result = match apply(&self.connection, &pending.checks, &pending.rows) {
                Ok(()) => Ok(()),
                // No commit of this batch can be relied on.
                Err(Refusal::Sql(error)) if is_lost(&error) => return Err(error),
                Err(Refusal::Sql(error)) => Err(failed(&error)),
                Err(Refusal::Check(error)) => Err(error),
            };
            self.connection.execute_batch(if result.is_ok() {
                "RELEASE one"
            } else {
                "ROLLBACK TO one; RELEASE one"
            })?;
            results.push(result);
        }
        identity::write(&self.connection, "last_commit", &highest.to_string())?;
        // Half a block early, and for free: so that no number ever waits for it.
        let reserved = self.reserved.load(Ordering::Acquire);
        let further =
            if highest.saturating_add(BLOCK / 2) > reserved { highest.saturating_add(BLOCK) } else { reserved };
        if further > reserved {
            identity::write(&self.connection, "reserved", &further.to_string())?;
        }
        self.connection.execute_batch("COMMIT")?;
        self.reserved.fetch_max(further, Ordering::AcqRel);
        Ok(results)
    }

    fn reserve(&mut self, number: u64) -> rusqlite::Result<()> {
        if number > self.reserved.load(Ordering::Acquire) {
            let further = number.saturating_add(BLOCK);
            identity::write(&self.connection, "reserved", &further.to_string())?;
            self.reserved.fetch_max(further, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Runs something that writes; undoes it when it fails, and gives the store up when it can no longer be trusted.
    fn guarded<T>(&mut self, run: impl FnOnce(&mut Self) -> rusqlite::Result<T>) -> Result<T, JournalError> {
        if let Some(why) = &self.lost {
            return Err(JournalError::Failed(why.clone()));
        }
        run(self).map_err(|error| {
            if is_lost(&error) {
                let why = format!("the store can no longer be trusted, nothing more is stored: {error}");
                (self.fatal)(&why);
                self.lost = Some(why);
            }
            // Whatever was begun is undone; a rollback of nothing is an error that says nothing.
            drop(self.connection.execute_batch("ROLLBACK"));
            failed(&error)
        })
    }
}

fn sandbox_id(id: String) -> Result<SandboxId, JournalError> {
    SandboxId::new(id).map_err(|error| JournalError::Unreadable(error.message))
}

/// A failed fsync, of a file or of its folder: what was promised may not be there. Damage: what is there may be wrong.
fn is_lost(error: &rusqlite::Error) -> bool {
    use rusqlite::ffi::{SQLITE_CORRUPT, SQLITE_IOERR_DIR_FSYNC, SQLITE_IOERR_FSYNC, SQLITE_NOTADB};
    error.sqlite_error().is_some_and(|error| {
        [SQLITE_IOERR_FSYNC, SQLITE_IOERR_DIR_FSYNC].contains(&error.extended_code)
            || [SQLITE_CORRUPT, SQLITE_NOTADB].contains(&(error.extended_code & 0xff))
    })
}
