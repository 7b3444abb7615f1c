//! The journal as one process sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use chiton_lifecycle::journal::{
    AuditRecord, Commit, ExtensionState, Journal, JournalError, Mark, MarkPosition, Obligation, OpenOperation,
    OperationRecord, RequestKey, RequestRecord, SandboxQuery, SandboxRecord, StoreInfo, Subject, WorkspaceRecord,
};
use chiton_lifecycle::runtime::Executor;
use chiton_model::{ExtensionName, OperationId, SandboxId, SandboxName, StoreEpoch, WorkspaceName};
use futures::channel::oneshot;
use jiff::Timestamp;
use serde_json::Value;

use super::MemoryJournal;
use super::disk::Refusal;
use crate::ledger::What;
use crate::world::Process;

/// A process's journal: a dead process neither writes nor reads.
pub struct JournalHandle {
    journal: MemoryJournal,
    process: Process,
    recovered: AtomicBool,
}

impl JournalHandle {
    pub(super) fn new(journal: MemoryJournal, process: Process) -> Self {
        Self { journal, process, recovered: AtomicBool::new(false) }
    }

    fn core(&self) -> &super::Core {
        &self.journal.0
    }

    fn breach(&self, text: &str) -> ! {
        self.core().ledger.violation(format!("journal: {text}"));
        panic!("seed {}: the journal's contract is broken: {text}", self.core().world.seed());
    }

    /// A commit's time on the disk, and whether it fails.
    fn next_commit_fault(&self) -> (Duration, bool) {
        let mut faults = self.core().faults.lock();
        faults.commits += 1;
        let (count, latency) = (faults.commits, faults.latency.clone());
        let spread = match (latency, &mut faults.rng) {
            (Some(range), Some(rng)) => {
                let span = range.end.saturating_sub(range.start);
                range.start + rng.millis(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
            }
            _ => Duration::ZERO,
        };
        let fails = faults.fail_commits.contains(&count);
        (spread, fails)
    }

    fn write_mark(&self, mark: &Mark) -> Result<(), JournalError> {
        if !self.process.is_alive() {
            return Err(JournalError::Failed("the process is dead".to_owned()));
        }
        let fails = {
            let mut faults = self.core().faults.lock();
            faults.marks += 1;
            let count = faults.marks;
            faults.fail_marks.contains(&count)
        };
        if fails {
            return Err(JournalError::Failed("scripted: the mark log is full".to_owned()));
        }
        let written = self.core().disk.lock().mark(mark);
        match written {
            Ok(mark) => {
                self.core().ledger.by(&self.process, What::Mark(mark));
                Ok(())
            }
            Err(Refusal::Error(error)) => Err(error),
            Err(Refusal::Breach(text)) => self.breach(&text),
        }
    }
}

#[async_trait]
impl Journal for JournalHandle {
    fn info(&self) -> StoreInfo {
        self.core().disk.lock().info.clone()
    }

    fn next_commit(&self) -> u64 {
        self.core().disk.lock().give_number()
    }

    async fn commit(&self, commit: Commit) -> Result<u64, JournalError> {
        self.process.live().await;
        let (latency, fails) = self.next_commit_fault();
        let (done, result) = oneshot::channel();
        let (journal, process) = (self.journal.clone(), self.process.clone());
        // A task of its own, as a writer thread would be: whoever waits may go away, the commit goes on.
        self.process.spawn(Box::pin(async move {
            if !latency.is_zero() {
                journal.0.world.sleep(latency).await;
            }
            process.live().await;
            let ledger = &journal.0.ledger;
            let outcome = if fails {
                Err(Refusal::Error(JournalError::Failed("scripted: the disk is full".to_owned())))
            } else {
                journal.0.disk.lock().commit(&commit)
            };
            let outcome = outcome.map(|stored| {
                let number = stored.number;
                ledger.by(&process, What::Commit(Arc::new(stored)));
                number
            });
            if let Err(Refusal::Error(error)) = &outcome {
                ledger.by(&process, What::CommitFailed(error.to_string()));
            }
            drop(done.send(outcome));
        }));
        let outcome = result.await;
        self.process.live().await;
        match outcome {
            Ok(Ok(number)) => Ok(number),
            Ok(Err(Refusal::Error(error))) => Err(error),
            Ok(Err(Refusal::Breach(text))) => self.breach(&text),
            Err(_) => std::future::pending().await,
        }
    }

    fn mark_position(&self) -> MarkPosition {
        self.core().disk.lock().position()
    }

    fn mark(&self, mark: &Mark) -> Result<(), JournalError> {
        self.write_mark(mark)
    }

    async fn renew_epoch(&self) -> Result<StoreEpoch, JournalError> {
        self.process.live().await;
        let epoch = self.journal.renew_epoch();
        self.core().ledger.by(&self.process, What::Renewed(epoch.clone()));
        Ok(epoch)
    }

    async fn epochs(&self) -> Result<Vec<StoreEpoch>, JournalError> {
        self.process.live().await;
        Ok(self.core().disk.lock().epochs.clone())
    }

    async fn open_operations(&self) -> Result<Vec<OpenOperation>, JournalError> {
        self.process.live().await;
        if self.recovered.swap(true, Ordering::AcqRel) {
            self.breach("open operations are asked for twice");
        }
        Ok(self.core().disk.lock().open_operations())
    }

    async fn sandbox(&self, id: &SandboxId) -> Result<Option<SandboxRecord>, JournalError> {
        self.process.live().await;
        Ok(self.core().disk.lock().sandboxes.get(id).cloned())
    }

    async fn sandbox_by_name(
        &self,
        workspace: &WorkspaceName,
        name: &SandboxName,
    ) -> Result<Option<SandboxRecord>, JournalError> {
        self.process.live().await;
        let disk = self.core().disk.lock();
        Ok(disk
            .sandboxes
            .values()
            .filter(|row| row.workspace == *workspace && row.name == *name)
            .max_by_key(|row| (row.name_held, row.commit))
            .cloned())
    }

    async fn sandboxes(&self, query: &SandboxQuery) -> Result<Vec<SandboxRecord>, JournalError> {
        self.process.live().await;
        Ok(self.core().disk.lock().list(query))
    }

    async fn operation(&self, id: &OperationId) -> Result<Option<OperationRecord>, JournalError> {
        self.process.live().await;
        Ok(self.core().disk.lock().operations.get(id).cloned())
    }

    async fn operations(&self, subject: &Subject) -> Result<Vec<OperationRecord>, JournalError> {
        self.process.live().await;
        let disk = self.core().disk.lock();
        let mut found: Vec<OperationRecord> =
            disk.operations.values().filter(|operation| operation.subject == *subject).cloned().collect();
        found.sort_by_key(|operation| operation.commit);
        Ok(found)
    }

    async fn request(&self, key: &RequestKey) -> Result<Option<RequestRecord>, JournalError> {
        self.process.live().await;
        Ok(self.core().disk.lock().requests.get(key).cloned())
    }

    async fn states_of(&self, subject: &Subject) -> Result<Vec<(ExtensionName, ExtensionState)>, JournalError> {
        self.process.live().await;
        let disk = self.core().disk.lock();
        let of = disk.states.iter().filter(|((about, _), _)| about == subject);
        Ok(of.map(|((_, extension), state)| (extension.clone(), state.clone())).collect())
    }

    async fn states_by(&self, extension: &ExtensionName) -> Result<Vec<(Subject, ExtensionState)>, JournalError> {
        self.process.live().await;
        let disk = self.core().disk.lock();
        let by = disk.states.iter().filter(|((_, name), _)| name == extension);
        Ok(by.map(|((subject, _), state)| (subject.clone(), state.clone())).collect())
    }

    async fn state_keys(&self) -> Result<Vec<(Subject, ExtensionName)>, JournalError> {
        self.process.live().await;
        Ok(self.core().disk.lock().states.keys().cloned().collect())
    }

    async fn audits(&self, after: u64, limit: usize) -> Result<Vec<(u64, AuditRecord)>, JournalError> {
        self.process.live().await;
        let all = self.core().disk.lock().audits.clone();
        Ok((1..).zip(all).filter(|(number, _)| *number > after).take(limit).collect())
    }

    async fn obligations(&self) -> Result<Vec<Obligation>, JournalError> {
        self.process.live().await;
        let mut all: Vec<Obligation> = self.core().disk.lock().obligations.values().cloned().collect();
        all.sort_by(|a, b| (a.opened_at, &a.id).cmp(&(b.opened_at, &b.id)));
        Ok(all)
    }

    async fn config(&self, digest: &str) -> Result<Option<Value>, JournalError> {
        self.process.live().await;
        Ok(self.core().disk.lock().configs.get(digest).cloned())
    }

    async fn workspaces(&self) -> Result<Vec<WorkspaceRecord>, JournalError> {
        self.process.live().await;
        Ok(self.core().disk.lock().workspaces.values().cloned().collect())
    }

    async fn expire(&self, now: Timestamp) -> Result<Vec<SandboxId>, JournalError> {
        self.process.live().await;
        Ok(self.core().disk.lock().expire(now))
    }
}
