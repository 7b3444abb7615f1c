//! The main process ended by itself.

use std::sync::Arc;

use chiton_model::condition::kinds;
use chiton_model::{ConditionStatus, Error, OperationKind, Phase, SandboxId, SandboxPhase, StopReason};

use super::admit::Admission;
use super::cleanup::Why;
use super::hooks::within;
use super::inner::{Inner, engine_principal, store_error};
use super::obligations::backoff;
use super::outcome::Reported;
use super::run::{Run, operation};
use crate::journal::{OperationOutcome, Subject};

impl Inner {
    /// Takes in an exit, on a task of its own. An exit while another operation runs is that operation's input.
    pub(super) fn begin_exit(self: &Arc<Self>, id: SandboxId, attempt: String, reported: Reported) {
        let inner = Arc::clone(self);
        self.world.executor.spawn(Box::pin(async move {
            let mut tries = 0;
            while let Err(error) = inner.exit(&id, &attempt, reported.clone()).await {
                // The driver tells it once: it is not forgotten because the store failed.
                tracing::warn!(sandbox = %id, %error, "an exit could not be taken in; trying again");
                within(&*inner.world.clock, backoff(&inner.world, tries), inner.stop.cancelled()).await;
                if inner.stop.is_cancelled() {
                    return;
                }
                tries += 1;
            }
        }));
    }

    async fn exit(self: &Arc<Self>, id: &SandboxId, attempt: &str, reported: Reported) -> Result<(), Error> {
        let subject = Subject::Sandbox(id.clone());
        let Admission::Go(ticket) = self.table.admit(&subject, OperationKind::Exit, self.world.operation_id()).await?
        else {
            return Ok(());
        };
        let Some(mut sandbox) = self.journal.sandbox(id).await.map_err(store_error)? else { return Ok(()) };
        // Late news of an earlier start is no news.
        let news = sandbox.phase == SandboxPhase::Ready
            && sandbox.attempt == attempt
            && self.check_held(&sandbox).is_ok()
            && (reported.sure || self.has_exited(&self.driver(&sandbox.driver)?, id).await);
        if !news {
            // Whoever looked in this moment saw an operation that was none.
            drop(ticket);
            self.changed(&sandbox);
            return Ok(());
        }
        let mut op = operation(self, &ticket, OperationKind::Exit, &engine_principal());
        op.stop_reason = Some(StopReason::ProcessExited);
        sandbox.phase = SandboxPhase::Stopping;
        sandbox.exit = Some(reported.exit);
        sandbox.updated_at = self.world.clock.now();
        let run = self.run(ticket, op, sandbox, String::new()).await?;
        self.intend(&run.op, &run.sandbox, Vec::new()).await?;
        run.ticket.intended();
        run.exit().await;
        Ok(())
    }
}

impl Run {
    /// Everything after C1.
    pub(super) async fn exit(mut self) {
        if let Err(error) = self.stop_confirmed().await {
            self.condition(
                kinds::STOP_UNCONFIRMED,
                ConditionStatus::True,
                "DriverFailed",
                format!("the driver did not confirm the end: {error}"),
            );
            self.steps.cancel.seal();
            self.sandbox.phase = SandboxPhase::Completed;
            return self.finish(OperationOutcome::Failed(error), false).await;
        }
        let debts = self.open_debts(Phase::AfterStop);
        self.pay(debts, &Why::Stopped(StopReason::ProcessExited)).await;
        self.steps.cancel.seal();
        self.sandbox.phase = SandboxPhase::Completed;
        self.sandbox.conditions.retain(|condition| condition.kind != kinds::STOP_UNCONFIRMED);
        self.exited = None;
        self.finish(OperationOutcome::Succeeded, false).await;
    }
}
