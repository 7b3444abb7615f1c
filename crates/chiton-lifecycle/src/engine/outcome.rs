//! C1 and C2: how an operation becomes durable, and how it ends.

use std::sync::Arc;
use std::time::Duration;

use chiton_driver::{Observed, ObservedStatus};
use chiton_model::{Error, ExitStatus, SandboxPhase};

use super::hooks::micros;
use super::inner::{Inner, store_error};
use super::run::Run;
use crate::crash::{CommitKind, Deed, crash_point};
use crate::journal::{Commit, OperationOutcome, OperationRecord, SandboxRecord, Write};

impl Run {
    /// Takes in what the driver reported meanwhile about this start's main process.
    fn read_news(&mut self) {
        while let Some((driver, observed)) = self.ticket.news.take() {
            if driver != self.sandbox.driver {
                self.inner.stranger(&driver, &self.sandbox.id);
                continue;
            }
            if let Some(exit) = exit_of(observed, &self.sandbox.attempt) {
                self.exited = Some(exit);
            }
        }
    }

    /// C2: the outcome, with everything that the operation learned. Returns the record as stored, or none when the row is
    /// gone.
    pub(super) async fn finish(mut self, outcome: OperationOutcome, remove: bool) {
        let now = self.inner.world.clock.now();
        // What the operator gave up is listed, and nothing waits for it.
        let settled = self.sandbox.debts.is_empty();
        let gone = remove && settled;
        self.sandbox.updated_at = now;
        self.tell_pending(None);
        if remove && !settled {
            self.sandbox.phase = SandboxPhase::Deleted;
            self.sandbox.name_held = false;
        }
        self.op.ended_at = Some(now);
        self.op.outcome = Some(outcome);
        self.op.total_us = micros(self.inner.world.clock.since_boot().saturating_sub(self.steps.begun));
        self.op.steps = std::mem::take(&mut self.steps.timings);
        let mut writes = vec![Write::PutOperation(Box::new(self.op.clone()))];
        if gone {
            writes.push(Write::RemoveSandbox(self.sandbox.id.clone()));
        } else {
            let last_debt = self.sandbox.debts.is_empty()
                && matches!(self.sandbox.phase, SandboxPhase::Error | SandboxPhase::Deleted);
            writes.extend(if last_debt { self.steps.states.removals() } else { self.steps.states.writes() });
            writes.push(Write::PutSandbox(Box::new(self.sandbox.clone())));
        }
        writes.extend(self.paid.iter().cloned().map(Write::RemoveObligation));
        writes.extend(self.owed.iter().cloned().map(|obligation| Write::PutObligation(Box::new(obligation))));
        writes.extend(self.owed.iter().filter_map(|obligation| {
            super::obligations::abandonment(obligation, super::obligations::POLICY, &self.inner.world)
        }));
        let cancel = Arc::clone(&self.steps.cancel);
        let recording = cancel.record.lock().await;
        self.inner.commit_outcome(&self.op, writes).await;
        drop(recording);
        self.inner.released.lock().remove(&self.sandbox.id);
        self.inner.book.settle(&self.paid, &self.owed, &self.inner.world);
        if gone {
            self.close_agent().await;
            self.inner.world.audience.tell(crate::runtime::LifecycleEvent::Removed(self.sandbox.id.clone()));
        } else if !matches!(self.sandbox.phase, SandboxPhase::Ready) {
            self.close_agent().await;
        }
        // From here on news go to the engine; what came before was this operation's input, and an exit that it left over is
        // an operation of its own.
        self.ticket.release();
        if !gone {
            // Only now: whoever looks when told must not find the operation still running.
            self.inner.changed(&self.sandbox);
        }
        self.read_news();
        if let (SandboxPhase::Ready, Some(exit)) = (self.sandbox.phase, self.exited.take()) {
            self.inner.begin_exit(self.sandbox.id.clone(), self.sandbox.attempt.clone(), exit);
        }
    }

    /// Nobody dials in any more.
    async fn close_agent(&self) {
        let (world, operation) = (&self.inner.world, Some(self.op.kind));
        crash_point!(world.points, Before, operation, Deed::AgentClosed);
        world.agents.close(&self.sandbox.id).await;
        crash_point!(world.points, After, operation, Deed::AgentClosed);
    }
}

/// The exit that a report speaks of, if it speaks of one of this start.
pub(super) fn exit_of(observed: Observed, attempt: &str) -> Option<Reported> {
    let sure = observed.attempt.is_some();
    match observed.status {
        ObservedStatus::Exited(exit) if observed.attempt.as_deref().is_none_or(|other| other == attempt) => {
            Some(Reported { exit, sure })
        }
        _ => None,
    }
}

/// An exit that a driver reported.
#[derive(Clone, Debug)]
pub(super) struct Reported {
    pub(super) exit: ExitStatus,
    /// The driver says of which start. Else it may be late news of an earlier one, and is believed only after a look.
    pub(super) sure: bool,
}

impl Inner {
    /// An outcome that cannot be stored is retried: until it is stored the operation is open, and a restart would carry it
    /// on from its marks.
    pub(super) async fn commit_outcome(&self, operation: &OperationRecord, writes: Vec<Write>) {
        let mut pause = Duration::from_millis(100);
        loop {
            match self.journal.write(CommitKind::Outcome, Some(operation.kind), writes.clone()).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::error!(operation = %operation.id, %error, "the outcome could not be stored; trying again");
                    if self.stop.is_cancelled() {
                        return;
                    }
                }
            }
            self.world.clock.sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(30));
        }
    }

    /// C1 of an operation on an existing sandbox.
    pub(super) async fn intend(
        &self,
        op: &OperationRecord,
        sandbox: &SandboxRecord,
        more: Vec<Write>,
    ) -> Result<(), Error> {
        let mut writes = vec![Write::PutOperation(Box::new(op.clone())), Write::PutSandbox(Box::new(sandbox.clone()))];
        writes.extend(more);
        let commit = Commit { number: op.commit, checks: Vec::new(), writes };
        self.journal.commit(CommitKind::Intent, Some(op.kind), commit).await.map_err(store_error)?;
        self.changed(sandbox);
        Ok(())
    }
}
