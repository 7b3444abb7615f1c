//! What a commit is about to change, as it was: a commit that is refused half-way leaves the disk as it found it. The
//! whole disk is not copied for that, because thousands of sandboxes would make every commit slow.

use chiton_lifecycle::journal::{Commit, ExtensionState, Obligation, RequestKey, Subject, WorkspaceKey, Write};
use chiton_lifecycle::journal::{OperationRecord, RequestRecord, SandboxRecord, WorkspaceRecord};
use chiton_model::{ExtensionName, OperationId, SandboxId};
use std::collections::BTreeMap;

use super::disk::Disk;

/// One entry of the disk.
enum Old {
    Sandbox(SandboxId, Option<Box<SandboxRecord>>),
    Seen(SandboxId, bool),
    Operation(OperationId, Option<Box<OperationRecord>>),
    Config(String, Option<serde_json::Value>),
    State((Subject, ExtensionName), Option<ExtensionState>),
    Obligation(String, Option<Box<Obligation>>),
    Workspace(WorkspaceKey, Option<Box<WorkspaceRecord>>),
    Request(RequestKey, Option<Box<RequestRecord>>),
}

/// Entries as they were.
pub(super) struct Undo {
    old: Vec<Old>,
    audits: usize,
}

fn get<K: Ord, V: Clone>(map: &BTreeMap<K, V>, key: &K) -> Option<Box<V>> {
    map.get(key).cloned().map(Box::new)
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

impl Undo {
    /// Everything that the commit may touch.
    pub(super) fn of(disk: &Disk, commit: &Commit) -> Self {
        let mut old = Vec::new();
        for write in &commit.writes {
            match write {
                Write::PutSandbox(row) => {
                    old.push(Old::Sandbox(row.id.clone(), get(&disk.sandboxes, &row.id)));
                    old.push(Old::Seen(row.id.clone(), disk.seen.contains(&row.id)));
                }
                Write::ReleaseName(id) => old.push(Old::Sandbox(id.clone(), get(&disk.sandboxes, id))),
                Write::RemoveSandbox(id) => {
                    old.push(Old::Sandbox(id.clone(), get(&disk.sandboxes, id)));
                    let of = disk.states.iter().filter(|((subject, _), _)| subject.sandbox() == Some(id));
                    old.extend(of.map(|(key, state)| Old::State(key.clone(), Some(state.clone()))));
                }
                Write::PutOperation(operation) => {
                    old.push(Old::Operation(operation.id.clone(), get(&disk.operations, &operation.id)));
                }
                Write::PutConfig { digest, .. } => {
                    old.push(Old::Config(digest.clone(), disk.configs.get(digest).cloned()));
                }
                Write::PutState(subject, extension, _) | Write::RemoveState(subject, extension) => {
                    let key = (subject.clone(), extension.clone());
                    let standing = disk.states.get(&key).cloned();
                    old.push(Old::State(key, standing));
                }
                Write::PutObligation(obligation) => {
                    old.push(Old::Obligation(obligation.id.clone(), get(&disk.obligations, &obligation.id)));
                }
                Write::RemoveObligation(id) => {
                    old.push(Old::Obligation(id.clone(), get(&disk.obligations, id)));
                }
                Write::PutWorkspace(row) => {
                    old.push(Old::Workspace(row.key.clone(), get(&disk.workspaces, &row.key)));
                }
                Write::RemoveWorkspace(key) => {
                    old.push(Old::Workspace(key.clone(), get(&disk.workspaces, key)));
                }
                Write::PutRequest(request) => {
                    old.push(Old::Request(request.key.clone(), get(&disk.requests, &request.key)));
                }
                Write::Audit(_) => {}
            }
        }
        Self { old, audits: disk.audits.len() }
    }

    /// Puts everything back.
    pub(super) fn undo(self, disk: &mut Disk) {
        // The first note of an entry is the oldest, so it is put back last.
        for old in self.old.into_iter().rev() {
            match old {
                Old::Sandbox(id, row) => put(&mut disk.sandboxes, id, row.map(|row| *row)),
                Old::Seen(_, true) => {}
                Old::Seen(id, false) => drop(disk.seen.remove(&id)),
                Old::Operation(id, operation) => put(&mut disk.operations, id, operation.map(|operation| *operation)),
                Old::Config(digest, document) => put(&mut disk.configs, digest, document),
                Old::State(key, state) => put(&mut disk.states, key, state),
                Old::Obligation(id, obligation) => put(&mut disk.obligations, id, obligation.map(|owed| *owed)),
                Old::Workspace(key, row) => put(&mut disk.workspaces, key, row.map(|row| *row)),
                Old::Request(key, request) => put(&mut disk.requests, key, request.map(|request| *request)),
            }
        }
        disk.audits.truncate(self.audits);
    }
}
