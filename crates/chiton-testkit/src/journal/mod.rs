//! A journal in memory whose disk outlives the process, and which refuses what a correct engine never does.

mod disk;
mod handle;
#[cfg(test)]
mod tests;
mod undo;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use chiton_lifecycle::journal::{
    AuditRecord, Mark, Obligation, ObligationStatus, OperationRecord, SandboxRecord, Subject,
};
use chiton_lifecycle::journal::{ExtensionState, StoreInfo, WorkspaceRecord};
use chiton_model::{ExtensionName, OperationId, SandboxId, StoreEpoch};
use parking_lot::Mutex;

use self::disk::Disk;
pub use self::handle::JournalHandle;
use crate::ledger::{Ledger, What};
use crate::rng::Rng;
use crate::world::{Process, VirtualWorld};

/// What a crash does to the mark log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkLoss {
    /// Nothing: the kernel lived on.
    Keep,
    /// All but so many of its first records are gone, and the next one is torn.
    Prefix(usize),
    /// The log is gone.
    Lost,
}

#[derive(Debug, Default)]
struct Faults {
    fail_commits: Vec<u64>,
    fail_marks: Vec<u64>,
    commits: u64,
    marks: u64,
    latency: Option<Range<Duration>>,
    rng: Option<Rng>,
}

struct Core {
    /// Tells the stores of a ledger apart.
    number: u64,
    world: VirtualWorld,
    ledger: Ledger,
    disk: Mutex<Disk>,
    faults: Mutex<Faults>,
}

/// The disk of a strict journal in memory, with its fault switches. Clones share it; [`MemoryJournal::open`] gives the
/// journal of one process.
///
/// It panics, and the ledger says why, where an engine breaks the store's contract: a commit number that was not given
/// out, a second outcome for an operation, an id made again, a row removed while an obligation is open.
#[derive(Clone)]
pub struct MemoryJournal(Arc<Core>);

impl MemoryJournal {
    /// An empty store.
    pub fn new(ledger: &Ledger) -> Self {
        let world = ledger.world().clone();
        let mut entropy = [0; 20];
        world.fill(&mut entropy);
        let disk = Disk::new(&entropy, world.boot_id());
        let faults = Mutex::new(Faults { rng: Some(Rng::new(u64::from(entropy[0]))), ..Faults::default() });
        Self(Arc::new(Core {
            number: ledger.next_call(),
            world,
            ledger: ledger.clone(),
            disk: Mutex::new(disk),
            faults,
        }))
    }

    /// The journal of this process. It stops having effects when the process dies.
    pub fn open(&self, process: &Process) -> Arc<JournalHandle> {
        let opened = {
            let mut disk = self.0.disk.lock();
            disk.open(self.0.world.boot_id());
            disk.opened(self.0.number)
        };
        self.0.ledger.by(process, What::Opened(Arc::new(opened)));
        Arc::new(JournalHandle::new(self.clone(), process.clone()))
    }

    /// The nth commit from now fails (1 is the next one); nothing of it is stored.
    pub fn fail_commit(&self, nth: u64) {
        let mut faults = self.0.faults.lock();
        let at = faults.commits + nth;
        faults.fail_commits.push(at);
    }

    /// The nth mark from now fails (1 is the next one); nothing of it can be read back.
    pub fn fail_mark(&self, nth: u64) {
        let mut faults = self.0.faults.lock();
        let at = faults.marks + nth;
        faults.fail_marks.push(at);
    }

    /// Commits and marks succeed again.
    pub fn behave(&self) {
        let mut faults = self.0.faults.lock();
        faults.fail_commits.clear();
        faults.fail_marks.clear();
    }

    /// Commits take a random virtual time of this range. They become durable at its end even when nobody waits any more.
    pub fn latency(&self, range: Range<Duration>) {
        self.0.faults.lock().latency = Some(range);
    }

    /// What a crash did to the mark log. To be called between two processes.
    pub fn lose_marks(&self, loss: MarkLoss) {
        self.0.disk.lock().lose_marks(loss);
    }

    /// A new life of the store, as after a restore.
    pub fn renew_epoch(&self) -> StoreEpoch {
        let mut entropy = [0; 10];
        self.0.world.fill(&mut entropy);
        let epoch = StoreEpoch::generate(1, entropy);
        let mut disk = self.0.disk.lock();
        let old = std::mem::replace(&mut disk.info.epoch, epoch.clone());
        disk.epochs.push(old);
        epoch
    }

    /// A copy of the disk, as a backup takes it; marks are not part of it.
    pub fn backup(&self) -> Backup {
        Backup(self.0.disk.lock().clone())
    }

    /// Puts a backup in place of the disk, without its marks. The caller renews the epoch, or not.
    pub fn restore(&self, backup: &Backup) {
        let mut disk = self.0.disk.lock();
        *disk = backup.0.clone();
        disk.lose_marks(MarkLoss::Lost);
    }

    /// A copy of the store as it is now, with its identity, in the same ledger: a copied data folder. The caller renews the
    /// epoch of the copy, or not.
    #[must_use]
    pub fn copy(&self) -> Self {
        let mut disk = self.0.disk.lock().clone();
        disk.lose_marks(MarkLoss::Lost);
        let copy = Self::new(&self.0.ledger);
        *copy.0.disk.lock() = disk;
        copy
    }

    /// Whether no operation and no obligation is open.
    pub fn is_quiet(&self) -> bool {
        let disk = self.0.disk.lock();
        disk.operations.values().all(|operation| operation.outcome.is_some())
            && disk.obligations.values().all(|obligation| obligation.status != ObligationStatus::Open)
    }

    /// Facts about the store.
    pub fn info(&self) -> StoreInfo {
        self.0.disk.lock().info.clone()
    }

    /// All rows, by id.
    pub fn rows(&self) -> std::collections::BTreeMap<SandboxId, SandboxRecord> {
        self.0.disk.lock().sandboxes.clone()
    }

    /// A row.
    pub fn row(&self, id: &SandboxId) -> Option<SandboxRecord> {
        self.0.disk.lock().sandboxes.get(id).cloned()
    }

    /// All operations, by id.
    pub fn operations(&self) -> std::collections::BTreeMap<OperationId, OperationRecord> {
        self.0.disk.lock().operations.clone()
    }

    /// All obligations.
    pub fn obligations(&self) -> Vec<Obligation> {
        self.0.disk.lock().obligations.values().cloned().collect()
    }

    /// All workspace rows.
    pub fn workspaces(&self) -> Vec<WorkspaceRecord> {
        self.0.disk.lock().workspaces.values().cloned().collect()
    }

    /// All states.
    pub fn states(&self) -> std::collections::BTreeMap<(Subject, ExtensionName), ExtensionState> {
        self.0.disk.lock().states.clone()
    }

    /// Puts a state in place of what an extension saved, as another build would have saved it. Between two processes.
    pub fn put_state(&self, subject: &Subject, extension: &ExtensionName, state: ExtensionState) {
        self.0.disk.lock().states.insert((subject.clone(), extension.clone()), state);
    }

    /// The audit trail.
    pub fn audits(&self) -> Vec<AuditRecord> {
        self.0.disk.lock().audits.clone()
    }

    /// The mark log as it would be read now.
    pub fn marks(&self) -> Vec<Mark> {
        self.0.disk.lock().marks.iter().map(|(_, mark)| mark.clone()).collect()
    }
}

/// A copy of a store.
#[derive(Clone)]
pub struct Backup(Disk);

impl Backup {
    /// Facts about the store as it was.
    pub fn info(&self) -> StoreInfo {
        self.0.info.clone()
    }
}
