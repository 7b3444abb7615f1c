//! Stop.

use std::sync::Arc;

use chiton_model::condition::{holds, kinds};
use chiton_model::{ConditionStatus, Error, OperationKind, Phase, SandboxId, SandboxPhase, StopReason};
use serde_json::json;

use super::admit::Admission;
use super::cleanup::Why;
use super::inner::Inner;
use super::outcome::exit_of;
use super::requests::Claimed;
use super::run::{Answer, Call, Run, operation};
use super::{Accepted, Engine, Request};
use crate::extension::Approval;
use crate::journal::{OperationOutcome, Subject};
use crate::policy::FailurePolicy;

impl Engine {
    /// Stops a sandbox and keeps its files. Does nothing to one that does not run.
    pub async fn stop(&self, request: Request, id: SandboxId) -> Result<Accepted, Error> {
        let inner = Arc::clone(&self.inner);
        self.inner.owned(async move { inner.stop(request, id, StopReason::Request).await }).await
    }
}

impl Inner {
    pub(super) async fn stop(
        self: &Arc<Self>,
        request: Request,
        id: SandboxId,
        reason: StopReason,
    ) -> Result<Accepted, Error> {
        if reason == StopReason::Request {
            self.check_open()?;
        }
        let claim = match self.claim(&request, "stop", &json!({ "sandbox": id })).await? {
            Claimed::Fresh(claim) => claim,
            Claimed::Repeat(accepted) => return Ok(*accepted),
        };
        let subject = Subject::Sandbox(id.clone());
        let ticket = match self.table.admit(&subject, OperationKind::Stop, self.world.operation_id()).await? {
            Admission::Go(ticket) => ticket,
            Admission::Joined(operation) => {
                return self.answer(&claim, self.record(&id).await?, Some(operation)).await;
            }
            Admission::Unwinding(..) => return Err(Error::internal("a stop met an unwinding create")),
        };
        let mut sandbox = self.record(&id).await?;
        self.check_held(&sandbox)?;
        match sandbox.phase {
            SandboxPhase::Stopped | SandboxPhase::Completed if !holds(&sandbox.conditions, kinds::STOP_UNCONFIRMED) => {
                return self.answer(&claim, sandbox, None).await;
            }
            SandboxPhase::Ready | SandboxPhase::Stopped | SandboxPhase::Completed => {}
            other => {
                return Err(Error::conflict(format!(
                    "sandbox {:?} is {other} and cannot be stopped",
                    sandbox.name.as_str()
                ))
                .cure("only a Ready sandbox can be stopped"));
            }
        }
        let mut op = operation(self, &ticket, OperationKind::Stop, &request.principal);
        op.stop_reason = Some(reason);
        let mut run = self.run(ticket, op, sandbox.clone(), String::new()).await?;
        if reason == StopReason::Request {
            run.approve(reason).await?;
        }
        sandbox.phase = SandboxPhase::Stopping;
        sandbox.restart = reason == StopReason::GatewayShutdown;
        sandbox.updated_at = self.world.clock.now();
        // Where the mark log stood before the approvals is still right: their marks are marks of no effect.
        self.intend(&run.op, &sandbox, claim.writes(self, Some(&run.op.id), &sandbox)).await?;
        run.ticket.intended();
        run.sandbox = sandbox.clone();
        let accepted = Accepted { sandbox, operation: Some(run.op.id.clone()) };
        self.world.executor.spawn(Box::pin(run.stop(reason, true)));
        Ok(accepted)
    }
}

impl Run {
    /// Asks the chain; the first veto of a required extension ends the operation.
    async fn approve(&mut self, reason: StopReason) -> Result<(), Error> {
        for link in self.chain.clone() {
            if !link.descriptor.takes_part(Phase::ApproveStop) {
                continue;
            }
            let required = !link.entry.observe && self.inner.policy(link.name()).failure == FailurePolicy::Required;
            let why = match self.call(&link, Call::ApproveStop(reason)).await {
                Ok(Answer::Approval(Approval::Veto(why))) => why,
                Ok(_) => continue,
                // An extension that cannot say yes has not said yes.
                Err(failure) => failure.message(),
            };
            if required {
                return Err(Error::refused(
                    link.name().as_str(),
                    format!("extension {:?} vetoes the stop: {why}", link.name().as_str()),
                )
                .cure("do what it asks for first; a delete cannot be vetoed"));
            }
            tracing::warn!(extension = %link.name(), %why, "a veto of an extension that is not required");
        }
        Ok(())
    }

    /// The exit of a stopped process is the stop's doing: it is kept, and begins no operation of its own. Not to know it
    /// is no reason to fail.
    async fn take_exit(&mut self) {
        self.exited = None;
        if let Ok(Some(observed)) = self.inner.look(&self.driver, self.driver.get(&self.sandbox.id)).await
            && let Some(reported) = exit_of(observed, &self.sandbox.attempt)
        {
            self.sandbox.exit = Some(reported.exit);
        }
    }

    /// Everything after C1. `announce`: `before_stop` was not called yet.
    pub(super) async fn stop(mut self, reason: StopReason, announce: bool) {
        if announce {
            self.announce(|| Call::BeforeStop(reason)).await;
        }
        if let Err(error) = self.stop_confirmed().await {
            self.condition(
                kinds::STOP_UNCONFIRMED,
                ConditionStatus::True,
                "DriverFailed",
                format!("the driver did not confirm the stop: {error}"),
            );
            self.steps.cancel.seal();
            // Nothing is released: what may still run keeps what it was given.
            self.sandbox.phase = SandboxPhase::Stopped;
            return self.finish(OperationOutcome::Failed(error), false).await;
        }
        self.take_exit().await;
        let debts = self.open_debts(Phase::AfterStop);
        self.pay(debts, &Why::Stopped(reason)).await;
        self.steps.cancel.seal();
        self.sandbox.phase = SandboxPhase::Stopped;
        self.sandbox.conditions.retain(|condition| condition.kind != kinds::STOP_UNCONFIRMED);
        self.finish(OperationOutcome::Succeeded, false).await;
    }
}
