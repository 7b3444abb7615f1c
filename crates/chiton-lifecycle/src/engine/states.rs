//! Extension states while an operation runs: saved to the mark log at once, to the database with the outcome.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use chiton_model::{ExtensionName, OperationId, OperationKind};
use parking_lot::Mutex;

use super::durable::Durable;
use super::inner::store_error;
use crate::crash::CommitKind;
use crate::extension::StateSink;
use crate::journal::{ExtensionState, JournalError, Mark, MarkEvent, OperationRecord, Subject, Write};

/// The states of one subject.
pub(super) struct States {
    journal: Arc<Durable>,
    operation: OperationId,
    kind: OperationKind,
    subject: Subject,
    now: Mutex<BTreeMap<ExtensionName, ExtensionState>>,
    /// What the database does not have yet.
    dirty: Mutex<BTreeMap<ExtensionName, Option<ExtensionState>>>,
}

impl States {
    /// States of a subject that has none yet.
    pub(super) fn fresh(journal: Arc<Durable>, op: &OperationRecord) -> Self {
        let (operation, kind, subject) = (op.id.clone(), op.kind, op.subject.clone());
        Self { journal, operation, kind, subject, now: Mutex::default(), dirty: Mutex::default() }
    }

    /// States of a subject as the database has them.
    pub(super) async fn load(journal: Arc<Durable>, op: &OperationRecord) -> Result<Self, chiton_model::Error> {
        let stored = journal.states_of(&op.subject).await.map_err(store_error)?;
        let states = Self::fresh(journal, op);
        states.now.lock().extend(stored);
        Ok(states)
    }

    /// Takes a state from the mark log of an interrupted operation.
    pub(super) fn replay(&self, extension: &ExtensionName, state: Option<ExtensionState>) {
        self.set(extension, state);
    }

    fn set(&self, extension: &ExtensionName, state: Option<ExtensionState>) {
        match &state {
            Some(state) => self.now.lock().insert(extension.clone(), state.clone()),
            None => self.now.lock().remove(extension),
        };
        self.dirty.lock().insert(extension.clone(), state);
    }

    /// The state of an extension.
    pub(super) fn get(&self, extension: &ExtensionName) -> Option<ExtensionState> {
        self.now.lock().get(extension).cloned()
    }

    /// What the outcome's commit must write.
    pub(super) fn writes(&self) -> Vec<Write> {
        self.dirty
            .lock()
            .iter()
            .map(|(extension, state)| match state {
                Some(state) => Write::PutState(self.subject.clone(), extension.clone(), state.clone()),
                None => Write::RemoveState(self.subject.clone(), extension.clone()),
            })
            .collect()
    }

    /// Removals of every state: the subject's last debt is closed.
    pub(super) fn removals(&self) -> Vec<Write> {
        let mut extensions: Vec<ExtensionName> = self.now.lock().keys().cloned().collect();
        extensions.extend(self.dirty.lock().keys().cloned());
        extensions.sort();
        extensions.dedup();
        extensions.into_iter().map(|extension| Write::RemoveState(self.subject.clone(), extension)).collect()
    }

    fn event(&self, extension: &ExtensionName, state: Option<&ExtensionState>) -> Mark {
        let event = MarkEvent::State { extension: extension.clone(), state: state.cloned() };
        Mark { operation: self.operation.clone(), event }
    }
}

#[async_trait]
impl StateSink for States {
    fn save(&self, extension: &ExtensionName, state: Option<ExtensionState>) -> Result<(), JournalError> {
        self.journal.mark(self.kind, &self.event(extension, state.as_ref()))?;
        self.set(extension, state);
        Ok(())
    }

    async fn save_durable(&self, extension: &ExtensionName, state: Option<ExtensionState>) -> Result<(), JournalError> {
        // The mark too: an older mark of this operation must not be replayed over what the database has.
        self.save(extension, state.clone())?;
        let write = match state {
            Some(state) => Write::PutState(self.subject.clone(), extension.clone(), state),
            None => Write::RemoveState(self.subject.clone(), extension.clone()),
        };
        self.journal.write(CommitKind::State, Some(self.kind), vec![write]).await
    }

    fn load(&self, extension: &ExtensionName) -> Option<ExtensionState> {
        self.get(extension)
    }

    async fn list(&self, extension: &ExtensionName) -> Result<Vec<(Subject, ExtensionState)>, JournalError> {
        self.journal.states_by(extension).await
    }
}
