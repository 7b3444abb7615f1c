//! Checks over the global order alone.

use std::collections::{BTreeMap, BTreeSet};

use chiton_lifecycle::journal::{FrozenChain, MarkEvent, OperationOutcome, StepKey, StepStatus, Subject, Write};
use chiton_model::{ExtensionName, OperationId, Phase, Ran, SandboxId};

use super::{Effect, End, Entry, Hook, Ledger, What};
use crate::driver::Call;

/// The action phases whose effects a cleanup phase undoes.
fn undone_by(cleanup: Phase) -> &'static [Phase] {
    match cleanup {
        Phase::OnCreateFailed => &[Phase::BeforeCreate, Phase::AfterCreate],
        Phase::AfterDelete => &[Phase::BeforeCreate, Phase::AfterCreate, Phase::Reconcile],
        Phase::AfterStop => &[Phase::BeforeStart, Phase::AfterReady],
        Phase::ReleaseWorkspace => &[Phase::EnsureWorkspace],
        _ => &[],
    }
}

type Outcome = Result<(), String>;

impl Ledger {
    /// Every hook with effects, and every driver call that changes something, comes after its operation's first commit
    /// and after its own `started` mark. A cleanup may instead rest on a debt that was committed earlier.
    pub fn intent_before_effect(&self) -> Outcome {
        let mut intended: BTreeSet<OperationId> = BTreeSet::new();
        let mut started: BTreeSet<(OperationId, String)> = BTreeSet::new();
        let mut owed: BTreeSet<(Subject, ExtensionName, Phase)> = BTreeSet::new();
        for entry in self.entries() {
            match &entry.what {
                What::Commit(commit) => {
                    for write in &commit.writes {
                        let (subject, debts) = match write {
                            Write::PutOperation(operation) => {
                                intended.insert(operation.id.clone());
                                continue;
                            }
                            Write::PutSandbox(row) => (row.subject(), row.debts.as_slice()),
                            Write::PutWorkspace(row) => (Subject::Workspace(row.key.clone()), row.debts.as_slice()),
                            Write::PutObligation(owing) => (owing.subject.clone(), std::slice::from_ref(&owing.debt)),
                            _ => continue,
                        };
                        owed.extend(debts.iter().map(|debt| (subject.clone(), debt.extension.clone(), debt.phase)));
                    }
                }
                What::Mark(mark) => {
                    if let MarkEvent::Step { step, status: StepStatus::Started } = &mark.event {
                        started.insert((mark.operation.clone(), step.to_string()));
                    }
                }
                What::HookBegin(hook) if has_effects(hook.phase) => {
                    let debt = (hook.subject.clone(), hook.extension.clone(), hook.phase);
                    if !intended.contains(&hook.operation) && !owed.contains(&debt) {
                        return Err(format!("a hook before its operation's intent: {entry}"));
                    }
                    let step = StepKey::hook(hook.phase, &hook.extension).to_string();
                    if !started.contains(&(hook.operation.clone(), step)) {
                        return Err(format!("a hook before its mark: {entry}"));
                    }
                }
                // A start carries the identity of the create: its own operation is not told, so only creates are looked at.
                What::CallBegin { kind: Call::Create, operation: Some(operation), .. }
                    if !intended.contains(operation) =>
                {
                    return Err(format!("a driver call before its operation's intent: {entry}"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// No hook of an operation begins after its outcome was committed.
    pub fn nothing_after_outcome(&self) -> Outcome {
        let mut closed: BTreeSet<OperationId> = BTreeSet::new();
        for entry in self.entries() {
            match &entry.what {
                What::Commit(commit) => {
                    for write in &commit.writes {
                        if let Write::PutOperation(operation) = write
                            && operation.outcome.is_some()
                        {
                            closed.insert(operation.id.clone());
                        }
                    }
                }
                What::HookBegin(hook) if closed.contains(&hook.operation) => {
                    return Err(format!("a hook after its operation's outcome: {entry}"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A cleanup that undoes a create is called only while the object is absent, and it never appears later; a cleanup
    /// that undoes a start only while it does not run, and what was undone does not start later. A sweep frees only for what is absent.
    pub fn no_release_before_absence(&self) -> Outcome {
        let mut present: BTreeSet<SandboxId> = BTreeSet::new();
        let mut running: BTreeSet<SandboxId> = BTreeSet::new();
        let mut undone: BTreeMap<SandboxId, usize> = BTreeMap::new();
        let mut unstarted: BTreeMap<SandboxId, usize> = BTreeMap::new();
        for entry in self.entries() {
            match &entry.what {
                What::CallBegin { kind: Call::Create | Call::Start, sandbox: Some(id), .. } => {
                    unstarted.remove(id);
                }
                What::Effect { sandbox, effect, .. } => match effect {
                    Effect::Created | Effect::HalfMade => {
                        if let Some(seq) = undone.get(sandbox) {
                            return Err(format!("an object appeared after its cleanup at {seq}: {entry}"));
                        }
                        present.insert(sandbox.clone());
                    }
                    Effect::Started => {
                        if let Some(seq) = unstarted.get(sandbox) {
                            return Err(format!("an object started after the cleanup of its start at {seq}: {entry}"));
                        }
                        running.insert(sandbox.clone());
                    }
                    Effect::Stopped | Effect::Exited(_) => {
                        running.remove(sandbox);
                    }
                    Effect::Deleted | Effect::Lost => {
                        present.remove(sandbox);
                        running.remove(sandbox);
                    }
                },
                What::HookBegin(Hook { phase: Phase::OnCreateFailed | Phase::AfterDelete, subject, .. }) => {
                    let Some(id) = subject.sandbox() else { continue };
                    if present.contains(id) {
                        return Err(format!("a cleanup while the object exists: {entry}"));
                    }
                    undone.insert(id.clone(), entry.seq);
                }
                What::HookBegin(Hook { phase: Phase::AfterStop, subject, .. }) => {
                    let Some(id) = subject.sandbox() else { continue };
                    if running.contains(id) {
                        return Err(format!("a cleanup while the object runs: {entry}"));
                    }
                    unstarted.insert(id.clone(), entry.seq);
                }
                What::Sweep { ids, .. } => {
                    if let Some(id) = ids.iter().find(|id| present.contains(*id)) {
                        return Err(format!("a sweep frees for {id}, whose object exists: {entry}"));
                    }
                    undone.extend(ids.iter().map(|id| (id.clone(), entry.seq)));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Within an operation, the first calls of each cleanup phase come in the reverse of the frozen chain's order.
    pub fn reverse_cleanup_order(&self) -> Outcome {
        let mut chains: BTreeMap<Subject, Vec<ExtensionName>> = BTreeMap::new();
        let mut last: BTreeMap<(OperationId, Phase), usize> = BTreeMap::new();
        let mut seen: BTreeSet<(OperationId, Phase, ExtensionName)> = BTreeSet::new();
        for entry in self.entries() {
            match &entry.what {
                What::Commit(commit) => {
                    for write in &commit.writes {
                        let (subject, chain) = match write {
                            Write::PutSandbox(row) => (row.subject(), &row.chain),
                            Write::PutWorkspace(row) => (Subject::Workspace(row.key.clone()), &row.chain),
                            _ => continue,
                        };
                        chains.insert(subject, chain.iter().map(|link| link.name.clone()).collect());
                    }
                }
                // A new life begins its own round: whoever was called last may be called again.
                What::Crash { .. } => {
                    last.clear();
                    seen.clear();
                }
                What::HookBegin(hook) if hook.phase.is_reverse() => {
                    if !seen.insert((hook.operation.clone(), hook.phase, hook.extension.clone())) {
                        continue;
                    }
                    let place = chains
                        .get(&hook.subject)
                        .and_then(|chain| chain.iter().position(|name| *name == hook.extension))
                        .ok_or_else(|| format!("an extension that is not in the frozen chain is called: {entry}"))?;
                    if let Some(previous) = last.insert((hook.operation.clone(), hook.phase), place)
                        && previous <= place
                    {
                        return Err(format!("not in reverse order: {entry}"));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A cleanup begins only when the actions that it undoes are over, their blocking work included, and no two calls for
    /// one extension and subject overlap.
    pub fn no_overlap(&self) -> Outcome {
        let mut open: BTreeMap<u64, Hook> = BTreeMap::new();
        let mut blocked: BTreeSet<u64> = BTreeSet::new();
        let mut known: BTreeMap<u64, Hook> = BTreeMap::new();
        for entry in self.entries() {
            match &entry.what {
                What::HookBegin(hook) => {
                    let running = open.values().chain(blocked.iter().filter_map(|call| known.get(call)));
                    for other in running {
                        if other.subject == hook.subject && other.extension == hook.extension {
                            return Err(format!("{} (#{}) still runs: {entry}", other.phase, other.call));
                        }
                    }
                    open.insert(hook.call, hook.clone());
                    known.insert(hook.call, hook.clone());
                }
                What::HookEnd { call, .. } => {
                    open.remove(call);
                }
                What::BlockingBegin { call } => {
                    blocked.insert(*call);
                }
                What::BlockingEnd { call } => {
                    blocked.remove(call);
                }
                What::Crash { .. } => {
                    open.clear();
                    blocked.clear();
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whoever is called to clean up may have acted, and what it is told of the action is true. `Maybe` is told only
    /// after a crash, or of an action that could not be ended in time.
    pub fn ran_is_true(&self) -> Outcome {
        let entries = self.entries();
        for (index, entry) in entries.iter().enumerate() {
            let What::HookBegin(hook) = &entry.what else { continue };
            let Some(ran) = hook.ran else { continue };
            let before = &entries[..index];
            let ends = ends_of(before, hook);
            let crashed = before.iter().any(|entry| matches!(entry.what, What::Crash { .. }));
            let cut = ends.iter().any(|end| matches!(end, None | Some(End::Dropped)));
            match ran {
                Ran::Completed if !ends.contains(&Some(End::Succeeded)) => {
                    return Err(format!("told completed, but no action succeeded: {entry}"));
                }
                Ran::Failed if ends.is_empty() => {
                    return Err(format!("told failed, but no action was called: {entry}"));
                }
                Ran::Maybe if !crashed && !cut => {
                    return Err(format!("told maybe although nothing crashed and nothing was cut off: {entry}"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// With trusted marks nobody is cleaned up after who was never marked as started. Holds only where no marks were lost.
    pub fn nothing_unstarted_is_cleaned(&self) -> Outcome {
        let mut started: BTreeSet<(Subject, ExtensionName, Phase)> = BTreeSet::new();
        let mut subjects: BTreeMap<OperationId, Subject> = BTreeMap::new();
        for entry in self.entries() {
            match &entry.what {
                What::Commit(commit) => {
                    for write in &commit.writes {
                        if let Write::PutOperation(operation) = write {
                            subjects.insert(operation.id.clone(), operation.subject.clone());
                        }
                    }
                }
                What::Mark(mark) => {
                    if let MarkEvent::Step { step: StepKey::Hook { phase, extension }, .. } = &mark.event
                        && let Some(subject) = subjects.get(&mark.operation)
                    {
                        started.insert((subject.clone(), extension.clone(), *phase));
                    }
                }
                What::HookBegin(hook) if hook.phase.is_cleanup() => {
                    let acted = undone_by(hook.phase)
                        .iter()
                        .any(|phase| started.contains(&(hook.subject.clone(), hook.extension.clone(), *phase)));
                    if !acted {
                        return Err(format!("a cleanup for an extension that never started: {entry}"));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whoever is called is in the frozen chain, with the frozen config, and an observer only where nothing has effects.
    pub fn only_the_frozen_chain_is_called(&self) -> Outcome {
        let mut tags: BTreeMap<String, String> = BTreeMap::new();
        let mut chains: BTreeMap<Subject, FrozenChain> = BTreeMap::new();
        for entry in self.entries() {
            match &entry.what {
                What::Commit(commit) => {
                    for write in &commit.writes {
                        match write {
                            Write::PutConfig { digest, document } => {
                                let tag = document.get("tag").and_then(|tag| tag.as_str()).unwrap_or_default();
                                tags.insert(digest.clone(), tag.to_owned());
                            }
                            Write::PutSandbox(row) => drop(chains.insert(row.subject(), row.chain.clone())),
                            Write::PutWorkspace(row) => {
                                // A released extension leaves the chain in the commit that ends its release.
                                chains.insert(Subject::Workspace(row.key.clone()), row.chain.clone());
                            }
                            _ => {}
                        }
                    }
                }
                What::HookBegin(hook) => {
                    let chain = chains.get(&hook.subject).map(Vec::as_slice).unwrap_or_default();
                    let Some(link) = chain.iter().find(|link| link.name == hook.extension) else {
                        return Err(format!("an extension that is not in the frozen chain is called: {entry}"));
                    };
                    if tags.get(&link.config) != Some(&hook.tag) {
                        return Err(format!(
                            "called with the config {:?}, which is not the frozen one: {entry}",
                            hook.tag
                        ));
                    }
                    if link.observe && has_effects(hook.phase) {
                        return Err(format!("an observer takes part in effects: {entry}"));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// At most one operation of a subject is open at a time, by the commits. A delete may join the create that it ends.
    pub fn one_operation_at_a_time(&self) -> Outcome {
        let mut open: BTreeMap<Subject, OperationId> = BTreeMap::new();
        for entry in self.entries() {
            let What::Commit(commit) = &entry.what else { continue };
            for write in &commit.writes {
                let Write::PutOperation(operation) = write else { continue };
                match (&operation.outcome, open.get(&operation.subject)) {
                    (Some(OperationOutcome::Succeeded | OperationOutcome::Failed(_)), Some(running))
                        if *running == operation.id =>
                    {
                        open.remove(&operation.subject);
                    }
                    (None, Some(running)) if *running != operation.id => {
                        return Err(format!("{} is still open on {}: {entry}", running, operation.subject));
                    }
                    (None, _) => {
                        open.insert(operation.subject.clone(), operation.id.clone());
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// A sandbox id whose delete began is never created or started again.
    pub fn never_recreated(&self) -> Outcome {
        let mut deleted: BTreeSet<SandboxId> = BTreeSet::new();
        for entry in self.entries() {
            if let What::CallBegin { kind, sandbox: Some(id), .. } = &entry.what {
                match kind {
                    Call::Delete => {
                        deleted.insert(id.clone());
                    }
                    Call::Create | Call::Start if deleted.contains(id) => {
                        return Err(format!("a deleted id is made again: {entry}"));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

fn has_effects(phase: Phase) -> bool {
    !matches!(
        phase,
        Phase::ValidateRequest | Phase::PreparePlan | Phase::ValidatePlan | Phase::ApproveStop | Phase::Reconcile
    )
}

/// How the actions that this cleanup undoes ended; none for one that was still open.
fn ends_of(before: &[Entry], cleanup: &Hook) -> Vec<Option<End>> {
    let calls = before.iter().filter_map(|entry| match &entry.what {
        What::HookBegin(hook)
            if hook.subject == cleanup.subject
                && hook.extension == cleanup.extension
                && undone_by(cleanup.phase).contains(&hook.phase) =>
        {
            Some(hook.call)
        }
        _ => None,
    });
    calls
        .map(|call| {
            before.iter().find_map(|entry| match &entry.what {
                What::HookEnd { call: ended, end } if *ended == call => Some(end.clone()),
                _ => None,
            })
        })
        .collect()
}
