//! What only its owner may do. Risk (c): an object disappears only by a committed delete or unwind of its id, or by a sweep in its epoch.
//!
//! The check follows every store through its commits, copies and restored ones too, because what a store says of an object
//! is no excuse when the object is another store's.

use std::collections::{BTreeMap, BTreeSet};

use chiton_lifecycle::journal::{OperationOutcome, Subject, Write};
use chiton_model::{ExtensionName, GatewayId, OperationId, OperationKind, Phase, SandboxId, SandboxPhase, StoreEpoch};

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

/// Why the store that runs may have the object removed; else why not.
fn removal(
    stores: &BTreeMap<u64, Store>,
    current: Option<u64>,
    id: &SandboxId,
    made: Option<&(GatewayId, StoreEpoch)>,
) -> Result<(), String> {
    let Some((number, store)) = current.and_then(|number| stores.get_key_value(&number)) else { return Ok(()) };
    store.may_remove(id, made)?;
    let knows = store.now.rows.contains_key(id) || store.ended.contains(id);
    let elsewhere = stores.iter().find(|(other, store)| {
        let lives = store.now.rows.get(id).is_some_and(|(phase, _)| lives(*phase));
        *other != number && lives && store.owns(id)
    });
    match elsewhere {
        Some((other, _)) if !knows => Err(format!("a sweep removes what store {other} has as its own")),
        _ => Ok(()),
    }
}

impl Ledger {
    /// After an operation's outcome only what that outcome lists is tried again: a cleanup outside of an operation of its
    /// subject is one of an obligation that is listed at that moment.
    pub fn only_the_listed_is_retried(&self) -> Result<(), String> {
        let mut intended: BTreeSet<OperationId> = BTreeSet::new();
        let mut listed: BTreeMap<String, (Subject, ExtensionName, Phase)> = BTreeMap::new();
        for entry in self.entries() {
            match &entry.what {
                What::Commit(commit) => {
                    for write in &commit.writes {
                        match write {
                            Write::PutOperation(operation) => drop(intended.insert(operation.id.clone())),
                            Write::PutObligation(owed) => {
                                let debt = (owed.subject.clone(), owed.debt.extension.clone(), owed.debt.phase);
                                listed.insert(owed.id.clone(), debt);
                            }
                            Write::RemoveObligation(id) => drop(listed.remove(id)),
                            _ => {}
                        }
                    }
                }
                What::HookBegin(hook) if hook.phase.is_cleanup() && !intended.contains(&hook.operation) => {
                    let debt = (hook.subject.clone(), hook.extension.clone(), hook.phase);
                    if !listed.values().any(|other| *other == debt) {
                        return Err(format!("a cleanup is retried that no obligation lists: {entry}"));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// An object disappears only by a committed delete or unwind of its id, or by a sweep of the life of the store that
    /// made it; and never by a sweep while another store has it as its own.
    pub fn only_owners_remove(&self) -> Result<(), String> {
        let mut stores: BTreeMap<u64, Store> = BTreeMap::new();
        let mut current = None;
        let mut made: BTreeMap<SandboxId, (GatewayId, StoreEpoch)> = BTreeMap::new();
        let mut asked: BTreeMap<SandboxId, Vec<Result<(), String>>> = BTreeMap::new();
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
                What::CallBegin { kind: Call::Delete, sandbox: Some(id), .. } => {
                    let verdict = removal(&stores, current, id, made.get(id));
                    asked.entry(id.clone()).or_default().push(verdict);
                }
                What::Effect { sandbox: id, effect: Effect::Deleted, .. } => {
                    // A call may take hold when another store runs: what counts is who made it, and what that one said then.
                    let verdict = match asked.get(id) {
                        Some(verdicts) if verdicts.iter().any(Result::is_ok) => Ok(()),
                        Some(verdicts) => verdicts.first().cloned().unwrap_or(Ok(())),
                        None => removal(&stores, current, id, made.get(id)),
                    };
                    verdict.map_err(|why| format!("{why}: {entry}"))?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}
