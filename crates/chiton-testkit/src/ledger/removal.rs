//! Risk (c): an object disappears only by a committed delete or unwind of its id, or by a sweep in its epoch.
//!
//! The check follows every store through its commits, copies and restored ones too, because what a store says of an object
//! is no excuse when the object is another store's.

use std::collections::{BTreeMap, BTreeSet};

use chiton_lifecycle::journal::{OperationOutcome, Subject, Write};
use chiton_model::{GatewayId, OperationKind, SandboxId, SandboxPhase, StoreEpoch};

use super::{Effect, Ledger, Opened, What};
use crate::driver::Call;

#[derive(Clone)]
struct Store {
    now: Opened,
    /// Ids whose end this store committed.
    ended: BTreeSet<SandboxId>,
}

fn lives(phase: SandboxPhase) -> bool {
    !matches!(phase, SandboxPhase::Deleted | SandboxPhase::Error)
}

impl Store {
    /// The row is this life's own: not held.
    fn owns(&self, id: &SandboxId) -> bool {
        self.now.rows.get(id).is_some_and(|(_, epoch)| *epoch == self.now.epoch)
    }

    fn commit(&mut self, writes: &[Write]) {
        for write in writes {
            match write {
                Write::PutSandbox(row) => drop(self.now.rows.insert(row.id.clone(), (row.phase, row.epoch.clone()))),
                Write::RemoveSandbox(id) => drop(self.now.rows.remove(id)),
                Write::PutOperation(operation) => {
                    let Some(id) = operation.subject.sandbox() else { continue };
                    let undone = operation.kind == OperationKind::Create
                        && matches!(operation.outcome, Some(OperationOutcome::Failed(_)));
                    if operation.kind == OperationKind::Delete || undone {
                        self.ended.insert(id.clone());
                    }
                    if operation.outcome.is_some() {
                        self.now.open.remove(&operation.id);
                    } else {
                        let about = (operation.subject.clone(), operation.kind);
                        self.now.open.insert(operation.id.clone(), about);
                    }
                }
                _ => {}
            }
        }
    }

    /// Why it may remove the object; else why not.
    fn may_remove(&self, id: &SandboxId, made: Option<&(GatewayId, StoreEpoch)>) -> Result<(), &'static str> {
        let subject = Subject::Sandbox(id.clone());
        let ends = |kind: OperationKind| matches!(kind, OperationKind::Delete | OperationKind::Create);
        if self.now.open.values().any(|(about, kind)| *about == subject && ends(*kind)) {
            return if self.owns(id) { Ok(()) } else { Err("its row is of another life of the store and held") };
        }
        if self.ended.contains(id) {
            return Ok(());
        }
        match self.now.rows.get(id) {
            Some((phase, _)) if lives(*phase) => Err("its row lives and nobody committed its end"),
            Some(_) if self.owns(id) => Ok(()),
            Some(_) => Err("its row is of another life of the store and held"),
            // Nobody here knows it: only a sweep of what this very life made.
            None if made.is_none_or(|(gateway, epoch)| *gateway == self.now.gateway && *epoch == self.now.epoch) => {
                Ok(())
            }
            None => Err("it was made by another gateway or in another life of the store"),
        }
    }
}

impl Ledger {
    /// An object disappears only by a committed delete or unwind of its id, or by a sweep of the life of the store that
    /// made it; and never by a sweep while another store has it as its own.
    pub fn only_owners_remove(&self) -> Result<(), String> {
        let mut stores: BTreeMap<u64, Store> = BTreeMap::new();
        let mut current = None;
        let mut made: BTreeMap<SandboxId, (GatewayId, StoreEpoch)> = BTreeMap::new();
        for entry in self.entries() {
            match &entry.what {
                What::Opened(opened) => {
                    // What a store ended before it was restored, the restored one did not.
                    let ended = match stores.get(&opened.store) {
                        Some(store) if store.now.epoch == opened.epoch => store.ended.clone(),
                        _ => BTreeSet::new(),
                    };
                    stores.insert(opened.store, Store { now: (**opened).clone(), ended });
                    current = Some(opened.store);
                }
                What::Renewed(epoch) => {
                    if let Some(store) = current.and_then(|store| stores.get_mut(&store)) {
                        store.now.epoch = epoch.clone();
                        store.ended.clear();
                    }
                }
                What::Commit(commit) => {
                    if let Some(store) = current.and_then(|store| stores.get_mut(&store)) {
                        store.commit(&commit.writes);
                    }
                }
                What::CallBegin { kind: Call::Create, sandbox: Some(id), .. } => {
                    if let Some(store) = current.and_then(|store| stores.get(&store))
                        && let Some((_, epoch)) = store.now.rows.get(id)
                    {
                        made.insert(id.clone(), (store.now.gateway.clone(), epoch.clone()));
                    }
                }
                What::Effect { sandbox: id, effect: Effect::Deleted, .. } => {
                    let Some(number) = current else { continue };
                    let Some(store) = stores.get(&number) else { continue };
                    store.may_remove(id, made.get(id)).map_err(|why| format!("{why}: {entry}"))?;
                    let knows = store.now.rows.contains_key(id) || store.ended.contains(id);
                    let elsewhere = stores.iter().find(|(other, store)| {
                        let lives = store.now.rows.get(id).is_some_and(|(phase, _)| lives(*phase));
                        **other != number && lives && store.owns(id)
                    });
                    if let (false, Some((other, _))) = (knows, elsewhere) {
                        return Err(format!("a sweep removes what store {other} has as its own: {entry}"));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}
