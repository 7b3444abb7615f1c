//! The journal as the engine writes to it: every write announces where a crash may come.
//!
//! Reads go through to the journal. Its own `commit` and `mark` cannot be reached from here by accident: they have the
//! names of the methods below and other arguments.

use std::ops::Deref;
use std::sync::Arc;

use chiton_model::{OperationKind, StoreEpoch};

use crate::crash::{CommitKind, Deed, MarkKind, Points, crash_point};
use crate::journal::{Commit, Journal, JournalError, Mark, Write};

/// The engine's journal.
pub(super) struct Durable {
    journal: Arc<dyn Journal>,
    points: Points,
}

impl Deref for Durable {
    type Target = dyn Journal;

    fn deref(&self) -> &Self::Target {
        &*self.journal
    }
}

impl Durable {
    pub(super) fn new(journal: Arc<dyn Journal>, points: Points) -> Self {
        Self { journal, points }
    }

    /// Makes changes durable under a fresh number.
    pub(super) async fn write(
        &self,
        kind: CommitKind,
        operation: Option<OperationKind>,
        writes: Vec<Write>,
    ) -> Result<(), JournalError> {
        self.commit(kind, operation, Commit { number: 0, checks: Vec::new(), writes }).await
    }

    /// Makes changes durable.
    pub(super) async fn commit(
        &self,
        kind: CommitKind,
        operation: Option<OperationKind>,
        commit: Commit,
    ) -> Result<(), JournalError> {
        crash_point!(self.points, Before, operation, Deed::Commit(kind));
        self.journal.commit(commit).await?;
        crash_point!(self.points, After, operation, Deed::Commit(kind));
        Ok(())
    }

    /// Appends a mark.
    pub(super) fn mark(&self, operation: OperationKind, mark: &Mark) -> Result<(), JournalError> {
        crash_point!(self.points, Before, Some(operation), Deed::Mark(MarkKind::of(&mark.event)));
        self.journal.mark(mark)?;
        crash_point!(self.points, After, Some(operation), Deed::Mark(MarkKind::of(&mark.event)));
        Ok(())
    }

    /// Begins a new life of the store.
    pub(super) async fn renew_epoch(&self) -> Result<StoreEpoch, JournalError> {
        crash_point!(self.points, Before, None, Deed::Commit(CommitKind::Epoch));
        let epoch = self.journal.renew_epoch().await?;
        crash_point!(self.points, After, None, Deed::Commit(CommitKind::Epoch));
        Ok(epoch)
    }
}
