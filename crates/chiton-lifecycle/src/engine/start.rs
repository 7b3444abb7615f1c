//! Start of a stopped or completed sandbox.

use std::sync::Arc;

use chiton_model::condition::{holds, kinds};
use chiton_model::{Error, OperationKind, Phase, Principal, SandboxId, SandboxPhase, StartReason};
use serde_json::json;

use super::admit::Admission;
use super::inner::Inner;
use super::requests::Claimed;
use super::run::{Call, Run, mint_token, operation};
use super::{Accepted, Engine, Request};
use crate::journal::{Debt, ObligationReason, OperationOutcome, SandboxRecord, Subject, Write};

impl Engine {
    /// Starts a stopped or completed sandbox. Does nothing to one that runs.
    pub async fn start(&self, request: Request, id: SandboxId) -> Result<Accepted, Error> {
        let inner = Arc::clone(&self.inner);
        self.inner.owned(async move { inner.start(request, id, StartReason::Request).await }).await
    }
}

impl Inner {
    pub(super) async fn start(
        self: &Arc<Self>,
        request: Request,
        id: SandboxId,
        reason: StartReason,
    ) -> Result<Accepted, Error> {
        self.check_open()?;
        let claim = match self.claim(&request, "start", &json!({ "sandbox": id })).await? {
            Claimed::Fresh(claim) => claim,
            Claimed::Repeat(accepted) => return Ok(*accepted),
        };
        let subject = Subject::Sandbox(id.clone());
        let ticket = match self.table.admit(&subject, OperationKind::Start, self.world.operation_id()).await? {
            Admission::Go(ticket) => ticket,
            Admission::Joined(operation) => {
                return self.answer(&claim, self.record(&id).await?, Some(operation)).await;
            }
            Admission::Unwinding(..) => return Err(Error::internal("a start met an unwinding create")),
        };
        let mut sandbox = self.record(&id).await?;
        self.check_held(&sandbox)?;
        match sandbox.phase {
            SandboxPhase::Ready => return self.answer(&claim, sandbox, None).await,
            SandboxPhase::Stopped | SandboxPhase::Completed => {}
            other => {
                return Err(Error::conflict(format!(
                    "sandbox {:?} is {other} and cannot be started",
                    sandbox.name.as_str()
                ))
                .cure("only a Stopped or Completed sandbox can be started"));
            }
        }
        if holds(&sandbox.conditions, kinds::STOP_UNCONFIRMED) {
            // What may still run keeps what it was given: an after_stop is not called before its end is confirmed.
            return Err(Error::conflict(format!(
                "the last stop of sandbox {:?} is not confirmed, it may still run",
                sandbox.name.as_str()
            ))
            .cure("stop it again, then start it"));
        }
        let mut op = operation(self, &ticket, OperationKind::Start, &request.principal);
        op.start_reason = Some(reason);
        let (token, hash) = self.start_token(&sandbox).await?;
        let mut run = self.run(ticket, op, sandbox.clone(), token).await?;
        run.settle_stops().await?;
        sandbox = run.sandbox.clone();
        sandbox.phase = SandboxPhase::Starting;
        sandbox.attempt = run.op.id.to_string();
        sandbox.token = hash;
        sandbox.restart = false;
        sandbox.updated_at = self.world.clock.now();
        let mut writes = claim.writes(self, Some(&run.op.id), &sandbox);
        // With the row: an obligation that outlived its debt would be paid under the running sandbox.
        let settled = std::mem::take(&mut run.paid);
        writes.extend(settled.iter().cloned().map(Write::RemoveObligation));
        writes.extend(run.steps.states.writes());
        self.intend(&run.op, &sandbox, writes).await?;
        run.ticket.intended();
        self.book.settle(&settled, &[], &self.world);
        run.sandbox = sandbox.clone();
        let accepted = Accepted { sandbox, operation: Some(run.op.id.clone()) };
        self.world.executor.spawn(Box::pin(run.start(reason)));
        Ok(accepted)
    }

    /// The token of a start and the hash that the store keeps. Where a start cannot bring a new one, none is made: what the
    /// sandbox has from its create goes on counting, now for this start.
    async fn start_token(&self, sandbox: &SandboxRecord) -> Result<(String, String), Error> {
        let driver = self.driver(&sandbox.driver)?;
        if !driver.capabilities().agent || sandbox.token.is_empty() {
            return Ok(mint_token(self));
        }
        let renewed = self.look(&driver, async { Ok(driver.renews_credentials().await) }).await?;
        if !renewed {
            return Ok((String::new(), sandbox.token.clone()));
        }
        Ok(mint_token(self))
    }

    /// A restart after the gateway stopped it at its own shutdown.
    pub(super) async fn restart(self: &Arc<Self>, principal: Principal, id: SandboxId) -> Result<Accepted, Error> {
        self.start(Request { principal, request_id: None }, id, StartReason::GatewayRestart).await
    }
}

impl Run {
    /// Everything after C1.
    async fn start(mut self, reason: StartReason) {
        if let Err(failure) = self.start_steps(reason).await {
            return self.unwind_start(failure).await;
        }
        self.start_ready(reason).await;
    }

    /// From ready on: also where recovery goes on when the agent of this start connected.
    pub(super) async fn start_ready(mut self, reason: StartReason) {
        // A failing after_ready never stops a running sandbox.
        if let Err(failure) = self.effects(|| Call::AfterReady(reason)).await {
            if self.steps.cancel.cause().is_some() {
                return self.unwind_start(failure).await;
            }
            self.condition(
                kinds::EXTENSION_DEGRADED,
                chiton_model::ConditionStatus::True,
                "HookFailed",
                failure.to_string(),
            );
        }
        if self.steps.cancel.seal().is_some() {
            let failure = chiton_model::CreateFailure {
                step: "cancelled".to_owned(),
                extension: None,
                cause: "somebody asked for it".to_owned(),
            };
            return self.unwind_start(failure).await;
        }
        self.sandbox.phase = SandboxPhase::Ready;
        self.sandbox.exit = None;
        self.sandbox.conditions.retain(|condition| condition.kind != kinds::START_FAILED);
        let debts = self.owing(&[Phase::BeforeStart, Phase::AfterReady], Phase::AfterStop);
        self.sandbox.debts.extend(debts);
        self.finish(OperationOutcome::Succeeded, false).await;
    }

    async fn start_steps(&mut self, reason: StartReason) -> Result<(), chiton_model::CreateFailure> {
        self.effects(|| Call::BeforeStart(reason)).await?;
        self.check_cancel()?;
        let call = self
            .driver_call()
            .await
            .map_err(|error| super::create::driver_failure(crate::journal::DriverCall::Start, &error))?;
        self.open_agent().await?;
        let connected = self.expect_agent();
        self.start_object(&call).await?;
        self.wait_ready(connected).await
    }

    /// Settles what an earlier stop still owes; a new start may not begin before.
    ///
    /// It is a cleanup of its own: in the start's own marks, an `after_stop` that is done would be this start's.
    async fn settle_stops(&mut self) -> Result<(), Error> {
        let debts = self.open_debts(Phase::AfterStop);
        if debts.is_empty() {
            return Ok(());
        }
        self.steps.operation = self.inner.world.operation_id();
        let settled = self.settle_each(debts).await;
        self.steps.operation = self.op.id.clone();
        self.steps.status.clear();
        self.steps.timings.clear();
        self.op.marks = self.inner.journal.mark_position();
        settled
    }

    async fn settle_each(&mut self, debts: Vec<Debt>) -> Result<(), Error> {
        for debt in debts.into_iter().rev() {
            let id = super::cleanup::obligation_id(&self.sandbox.subject().to_string(), &debt);
            let why =
                self.inner.book.why(&id).unwrap_or(super::cleanup::Why::Stopped(chiton_model::StopReason::Request));
            match self.pay_one(&debt, &why).await {
                // Not waited for: what takes hold late is what this start acquires under the same key.
                super::cleanup::Paid::Yes | super::cleanup::Paid::Owed(ObligationReason::Confirming, _) => {
                    self.settle(&debt);
                }
                super::cleanup::Paid::Owed(_, error) => {
                    return Err(Error::conflict(format!(
                        "extension {:?} still owes {} from the last stop (obligation {id}): {error}",
                        debt.extension.as_str(),
                        debt.phase
                    ))
                    .cure(format!(
                        "wait for its retry, or close it by hand: chiton obligations discharge {id} --force"
                    )));
                }
            }
        }
        Ok(())
    }
}
