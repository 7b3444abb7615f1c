//! What is on the disk, and how a commit changes it.

use std::collections::{BTreeMap, BTreeSet};

use chiton_lifecycle::journal::{
    AuditRecord, Check, Commit, ExtensionState, JournalError, Mark, MarkPosition, Obligation, ObligationStatus,
    OpenOperation, OperationRecord, RequestKey, RequestRecord, SandboxQuery, SandboxRecord, StoreInfo, Subject,
    WorkspaceKey, WorkspaceRecord, Write,
};
use chiton_model::{ExtensionName, GatewayId, OperationId, SandboxId, StoreEpoch};
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::MarkLoss;
use super::undo::Undo;
use crate::ledger::Opened;

/// Why a commit is not stored.
#[derive(Debug)]
pub(super) enum Refusal {
    /// A condition did not hold.
    Error(JournalError),
    /// The engine broke the contract.
    Breach(String),
}

impl From<JournalError> for Refusal {
    fn from(error: JournalError) -> Self {
        Self::Error(error)
    }
}

fn breach<T>(text: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Breach(text.into()))
}

#[derive(Clone)]
pub(super) struct Disk {
    pub(super) info: StoreInfo,
    /// Earlier lives, oldest first.
    pub(super) epochs: Vec<StoreEpoch>,
    pub(super) sandboxes: BTreeMap<SandboxId, SandboxRecord>,
    pub(super) operations: BTreeMap<OperationId, OperationRecord>,
    pub(super) configs: BTreeMap<String, Value>,
    pub(super) states: BTreeMap<(Subject, ExtensionName), ExtensionState>,
    pub(super) obligations: BTreeMap<String, Obligation>,
    pub(super) workspaces: BTreeMap<WorkspaceKey, WorkspaceRecord>,
    pub(super) requests: BTreeMap<RequestKey, RequestRecord>,
    pub(super) audits: Vec<AuditRecord>,
    /// By sequence number.
    pub(super) marks: Vec<(u64, Mark)>,
    /// The header of the present segment; replaced when a segment cannot be trusted any more.
    log: String,
    logs: u64,
    next_mark: u64,
    boot: String,
    /// A record of the present segment is damaged: where one may be missing the absence of none proves anything.
    torn: bool,
    given: u64,
    used: BTreeSet<u64>,
    /// Ids that had a row once.
    pub(super) seen: BTreeSet<SandboxId>,
}

impl Disk {
    pub(super) fn new(entropy: &[u8; 20], boot: String) -> Self {
        let half = |from: usize| std::array::from_fn(|index| entropy[from + index]);
        Self {
            info: StoreInfo {
                gateway: GatewayId::generate(0, half(0)),
                epoch: StoreEpoch::generate(0, half(10)),
                last_commit: 0,
            },
            epochs: Vec::new(),
            sandboxes: BTreeMap::new(),
            operations: BTreeMap::new(),
            configs: BTreeMap::new(),
            states: BTreeMap::new(),
            obligations: BTreeMap::new(),
            workspaces: BTreeMap::new(),
            requests: BTreeMap::new(),
            audits: Vec::new(),
            marks: Vec::new(),
            log: "log-0".to_owned(),
            logs: 0,
            next_mark: 0,
            boot,
            torn: false,
            given: 0,
            used: BTreeSet::new(),
            seen: BTreeSet::new(),
        }
    }

    /// A process opens the store. A log of another boot is not written on.
    pub(super) fn open(&mut self, boot: String) {
        if self.boot != boot {
            self.boot = boot;
            self.next_log();
        }
    }

    /// What whoever opens it finds.
    pub(super) fn opened(&self, store: u64) -> Opened {
        let rows = self.sandboxes.values().map(|row| (row.id.clone(), (row.phase, row.epoch.clone()))).collect();
        let open = self.operations.values().filter(|operation| operation.outcome.is_none());
        let open = open.map(|operation| (operation.id.clone(), (operation.subject.clone(), operation.kind))).collect();
        Opened { store, gateway: self.info.gateway.clone(), epoch: self.info.epoch.clone(), rows, open }
    }

    fn next_log(&mut self) {
        self.logs += 1;
        self.torn = false;
        self.log = format!("log-{}", self.logs);
        self.marks.clear();
        self.next_mark = 0;
    }

    pub(super) fn lose_marks(&mut self, loss: MarkLoss) {
        match loss {
            MarkLoss::Keep => {}
            MarkLoss::Prefix(records) => {
                self.marks.truncate(records);
                self.torn = true;
            }
            MarkLoss::Lost => self.next_log(),
        }
    }

    pub(super) fn give_number(&mut self) -> u64 {
        self.given = self.given.max(self.info.last_commit) + 1;
        self.given
    }

    pub(super) fn position(&self) -> MarkPosition {
        MarkPosition { log: self.log.clone(), sequence: self.next_mark, boot: self.boot.clone() }
    }

    pub(super) fn mark(&mut self, mark: &Mark) -> Result<Mark, Refusal> {
        if self.torn {
            // Nobody writes on behind a damaged record.
            self.next_log();
        }
        let kept: Mark = through_json(mark)?;
        self.marks.push((self.next_mark, kept.clone()));
        self.next_mark += 1;
        Ok(kept)
    }

    /// All of the commit or nothing.
    pub(super) fn commit(&mut self, commit: &Commit) -> Result<Commit, Refusal> {
        let number = if commit.number == 0 { self.give_number() } else { commit.number };
        if number > self.given || number == 0 {
            return breach(format!("commit number {number} was never given out"));
        }
        if self.used.contains(&number) {
            return breach(format!("commit number {number} is used twice"));
        }
        let undo = Undo::of(self, commit);
        if let Err(refusal) = self.apply(commit) {
            undo.undo(self);
            return Err(refusal);
        }
        self.used.insert(number);
        self.info.last_commit = self.info.last_commit.max(number);
        Ok(Commit { number, ..commit.clone() })
    }

    fn apply(&mut self, commit: &Commit) -> Result<(), Refusal> {
        for write in &commit.writes {
            if let Write::ReleaseName(id) = write
                && let Some(row) = self.sandboxes.get_mut(id)
            {
                row.name_held = false;
            }
        }
        commit.checks.iter().try_for_each(|check| self.check(check))?;
        commit.writes.iter().try_for_each(|write| self.write(write))?;
        self.after(commit)
    }

    fn check(&self, check: &Check) -> Result<(), Refusal> {
        match check {
            Check::NameFree(workspace, name) => {
                let holder = self
                    .sandboxes
                    .values()
                    .find(|row| row.name_held && row.name == *name && row.workspace == *workspace);
                holder.map_or(Ok(()), |row| Err(JournalError::NameHeld { holder: row.id.clone() }.into()))
            }
            Check::WorkspaceReady(key) => match self.workspaces.get(key) {
                Some(row) if row.ready => Ok(()),
                _ => Err(JournalError::WorkspaceGone.into()),
            },
            Check::WorkspaceUnused(workspace) => {
                let users = self.sandboxes.values().filter(|row| row.workspace == *workspace).count();
                match u64::try_from(users).unwrap_or(u64::MAX) {
                    0 => Ok(()),
                    n => Err(JournalError::WorkspaceInUse(n).into()),
                }
            }
        }
    }

    fn write(&mut self, write: &Write) -> Result<(), Refusal> {
        match write {
            Write::PutSandbox(row) => self.put_sandbox(through_json(&**row)?)?,
            Write::RemoveSandbox(id) => {
                self.sandboxes.remove(id);
                self.states.retain(|(subject, _), _| subject.sandbox() != Some(id));
            }
            // Done before the checks.
            Write::ReleaseName(_) => {}
            Write::PutConfig { digest, document } => {
                if self.configs.get(digest).is_some_and(|standing| standing != document) {
                    return breach(format!("two documents have the digest {digest}"));
                }
                self.configs.insert(digest.clone(), through_json(document)?);
            }
            Write::PutOperation(operation) => self.put_operation(through_json(&**operation)?)?,
            Write::PutState(subject, extension, state) => {
                self.states.insert((through_json(subject)?, extension.clone()), through_json(state)?);
            }
            Write::RemoveState(subject, extension) => {
                self.states.remove(&(subject.clone(), extension.clone()));
            }
            Write::PutObligation(obligation) => {
                self.obligations.insert(obligation.id.clone(), through_json(&**obligation)?);
            }
            Write::RemoveObligation(id) => {
                if self.obligations.remove(id).is_none() {
                    return breach(format!("obligation {id} is removed and does not exist"));
                }
            }
            Write::PutWorkspace(row) => {
                self.workspaces.insert(row.key.clone(), through_json(&**row)?);
            }
            Write::RemoveWorkspace(key) => {
                self.workspaces.remove(key);
            }
            Write::PutRequest(request) => {
                let request: RequestRecord = through_json(&**request)?;
                if let Some(standing) = self.requests.get(&request.key)
                    && standing.operation != request.operation
                {
                    return breach(format!("request {:?} is answered twice", request.key));
                }
                self.requests.insert(request.key.clone(), request);
            }
            Write::Audit(audit) => self.audits.push(through_json(&**audit)?),
        }
        Ok(())
    }

    fn put_sandbox(&mut self, row: SandboxRecord) -> Result<(), Refusal> {
        match self.sandboxes.get(&row.id) {
            None if self.seen.contains(&row.id) => return breach(format!("sandbox id {} is made again", row.id)),
            None => {}
            Some(old) => {
                let same = old.created_by == row.created_by
                    && old.commit == row.commit
                    && old.workspace == row.workspace
                    && old.driver == row.driver
                    && old.name == row.name
                    && old.chain == row.chain
                    && old.plan.digest == row.plan.digest;
                if !same {
                    return breach(format!("what was sealed of sandbox {} changes", row.id));
                }
                if row.name_held && !old.name_held {
                    return breach(format!("sandbox {} takes a name back that it let go", row.id));
                }
            }
        }
        let rival = self.sandboxes.values().find(|other| {
            other.name_held
                && row.name_held
                && other.name == row.name
                && other.workspace == row.workspace
                && other.id != row.id
        });
        if let Some(other) = rival {
            return Err(JournalError::NameHeld { holder: other.id.clone() }.into());
        }
        self.seen.insert(row.id.clone());
        self.sandboxes.insert(row.id.clone(), row);
        Ok(())
    }

    fn put_operation(&mut self, operation: OperationRecord) -> Result<(), Refusal> {
        if let Some(old) = self.operations.get(&operation.id) {
            if old.outcome.is_some() {
                return breach(format!("operation {} ends twice or is opened again", operation.id));
            }
            if old.subject != operation.subject || old.kind != operation.kind || old.commit != operation.commit {
                return breach(format!("operation {} turns into another", operation.id));
            }
        }
        self.operations.insert(operation.id.clone(), operation);
        Ok(())
    }

    /// What must hold once all is written.
    fn after(&self, commit: &Commit) -> Result<(), Refusal> {
        for write in &commit.writes {
            match write {
                Write::PutSandbox(row) => {
                    if let Some(link) = row.chain.iter().find(|link| !self.configs.contains_key(&link.config)) {
                        return breach(format!("the config of {} in the chain of {} is not kept", link.name, row.id));
                    }
                }
                Write::RemoveSandbox(id) => {
                    let owed = self.obligations.values().find(|obligation| {
                        obligation.status == ObligationStatus::Open && obligation.subject.sandbox() == Some(id)
                    });
                    if let Some(obligation) = owed {
                        return breach(format!("row {id} is removed while obligation {} is open", obligation.id));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn open_operations(&self) -> Vec<OpenOperation> {
        let mut open: Vec<&OperationRecord> =
            self.operations.values().filter(|operation| operation.outcome.is_none()).collect();
        open.sort_by_key(|operation| operation.commit);
        open.into_iter()
            .map(|operation| {
                let trusted = !self.torn
                    && operation.marks.boot == self.boot
                    && operation.marks.log == self.log
                    && operation.epoch == self.info.epoch;
                let marks = trusted.then(|| {
                    let after = |(sequence, mark): &&(u64, Mark)| {
                        *sequence >= operation.marks.sequence && mark.operation == operation.id
                    };
                    self.marks.iter().filter(after).map(|(_, mark)| mark.clone()).collect()
                });
                OpenOperation { operation: operation.clone(), marks }
            })
            .collect()
    }

    pub(super) fn list(&self, query: &SandboxQuery) -> Vec<SandboxRecord> {
        let limit = if query.limit == 0 { usize::MAX } else { query.limit };
        self.sandboxes
            .values()
            .filter(|row| query.workspace.as_ref().is_none_or(|workspace| row.workspace == *workspace))
            .filter(|row| query.all || row.name_held)
            .filter(|row| query.after.as_ref().is_none_or(|after| row.id > *after))
            .take(limit)
            .cloned()
            .collect()
    }

    pub(super) fn expire(&mut self, now: Timestamp) -> Vec<SandboxId> {
        self.requests.retain(|_, request| request.expires_at > now);
        let owing: BTreeSet<SandboxId> = self
            .obligations
            .values()
            .filter(|owed| owed.status == ObligationStatus::Open)
            .filter_map(|obligation| obligation.subject.sandbox().cloned())
            .collect();
        let expired: Vec<SandboxId> = self
            .sandboxes
            .values()
            .filter(|row| {
                row.expires_at.is_some_and(|at| at <= now) && row.debts.is_empty() && !owing.contains(&row.id)
            })
            .map(|row| row.id.clone())
            .collect();
        for id in &expired {
            self.sandboxes.remove(id);
            self.states.retain(|(subject, _), _| subject.sandbox() != Some(id));
        }
        let rows = &self.sandboxes;
        let kept = |operation: &OperationId| {
            self.requests.values().any(|request| request.operation.as_ref() == Some(operation))
        };
        self.operations.retain(|id, operation| {
            operation.outcome.is_none()
                || kept(id)
                || operation.subject.sandbox().is_none_or(|sandbox| rows.contains_key(sandbox))
        });
        expired
    }
}

/// What a record is after it was written and read: the real store keeps JSON.
fn through_json<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(record: &T) -> Result<T, Refusal> {
    let text = serde_json::to_string(record).map_err(|error| Refusal::Breach(format!("not writable: {error}")))?;
    let read: T =
        serde_json::from_str(&text).map_err(|error| Refusal::Breach(format!("not readable: {error} in {text}")))?;
    if read == *record {
        Ok(read)
    } else {
        breach(format!("a record changes by being stored: {record:?} → {read:?}"))
    }
}
