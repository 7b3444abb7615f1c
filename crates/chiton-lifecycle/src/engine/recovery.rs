//! After a crash: the journal alone decides how each open operation goes on (rules 2, 12 and 15).

use std::sync::Arc;
use std::time::Duration;

use chiton_driver::ObservedStatus;
use chiton_model::condition::kinds;
use chiton_model::{
    CreateFailure, Error, OperationId, OperationKind, Phase, SandboxId, SandboxPhase, StartReason, StopReason,
};

use super::admit::{Admission, Ticket};
use super::chain::fences;
use super::hooks::within;
use super::inner::{Inner, engine_principal, store_error};
use super::run::Run;
use super::{Engine, StartupError};
use crate::crash::{CommitKind, Deed, crash_point};
use crate::journal::{
    DriverCall, Mark, MarkEvent, OpenOperation, OperationOutcome, OperationRecord, SandboxQuery, SandboxRecord,
    StepKey, StepStatus, Subject, Write,
};

/// How long an interrupted start's agent may take to call, at least.
const AGENT_RETURNS: Duration = Duration::from_secs(10);
/// How long fences may take before it is told that they are waited for.
const FENCE_QUIET: Duration = Duration::from_secs(1);

impl Engine {
    /// Takes up what an earlier process left, and begins the background work. Called once, before anything else. When it
    /// returns, every interrupted operation runs again on its subject; it does not wait for their ends.
    pub async fn recover(&self) -> Result<(), StartupError> {
        let inner = &self.inner;
        let one = |error: Error| StartupError(vec![error]);
        let obligations = inner.journal.obligations().await.map_err(|error| one(store_error(error)))?;
        inner.book.load(obligations, &inner.world);
        let silent = inner.check_epoch().await.map_err(one)?;
        inner.adopt().await.map_err(one)?;
        let open = inner.journal.open_operations().await.map_err(|error| one(store_error(error)))?;
        let live = inner
            .journal
            .sandboxes(&SandboxQuery { all: true, ..SandboxQuery::default() })
            .await
            .map_err(|error| one(store_error(error)))?;
        inner.check_pieces(&live, &silent).await?;
        inner.hold_workspaces().await.map_err(one)?;
        // Before the operations go on: what one of them closes stays closed.
        for sandbox in &live {
            inner.reopen(sandbox).await;
        }
        for operation in open {
            inner.resume(operation).await.map_err(one)?;
        }
        for sandbox in live {
            inner.restart_again(sandbox);
        }
        inner.begin_background();
        Ok(())
    }
}

impl Inner {
    /// Puts an interrupted operation back on its subject.
    pub(super) async fn resume(self: &Arc<Self>, open: OpenOperation) -> Result<(), Error> {
        let OpenOperation { operation, marks } = open;
        if self.held.lock().contains_key(&operation.subject) {
            // Nothing touches it until its operator decides; the operation stays open.
            self.waiting.lock().insert(operation.subject.clone(), OpenOperation { operation, marks });
            return Ok(());
        }
        let admitted = self.table.admit(&operation.subject, operation.kind, operation.id.clone()).await?;
        let Admission::Go(ticket) = admitted else {
            return Err(Error::internal(format!("two operations are open on {}", operation.subject)));
        };
        ticket.intended();
        match operation.subject.clone() {
            Subject::Sandbox(id) => self.resume_sandbox(ticket, operation, marks, &id).await,
            Subject::Workspace(key) => {
                let inner = Arc::clone(self);
                self.world
                    .executor
                    .spawn(Box::pin(async move { inner.resume_workspace(ticket, operation, marks, key).await }));
                Ok(())
            }
        }
    }

    async fn resume_sandbox(
        self: &Arc<Self>,
        ticket: Ticket,
        operation: OperationRecord,
        marks: Option<Vec<Mark>>,
        id: &SandboxId,
    ) -> Result<(), Error> {
        let record = self.journal.sandbox(id).await.map_err(store_error)?;
        let Some(sandbox) = record else {
            return self.close(operation).await;
        };
        if matches!(operation.kind, OperationKind::Reconcile | OperationKind::Cleanup) {
            // Runs again when its time comes.
            return self.close(operation).await;
        }
        let mut run = self.run(ticket, operation, sandbox, String::new()).await?;
        run.steps.recovered = true;
        let step = marks.as_deref().and_then(|marks| last_begun(marks, &run.op.id));
        let step = step.map_or_else(|| "unknown".to_owned(), ToString::to_string);
        tracing::info!(operation = %run.op.id, kind = %run.op.kind, sandbox = %id, step, "an interrupted operation goes on");
        run.replay(marks);
        self.world.executor.spawn(Box::pin(run.resume()));
        Ok(())
    }

    async fn close(&self, mut operation: OperationRecord) -> Result<(), Error> {
        operation.ended_at = Some(self.world.clock.now());
        operation.outcome =
            Some(OperationOutcome::Failed(Error::unavailable("gateway", "the gateway ended while it ran")));
        let kind = operation.kind;
        let writes = vec![Write::PutOperation(Box::new(operation))];
        self.journal.write(CommitKind::Outcome, Some(kind), writes).await.map_err(store_error)
    }

    /// Makes a sandbox reachable again.
    pub(super) async fn reopen(&self, sandbox: &SandboxRecord) {
        if self.held.lock().contains_key(&sandbox.subject()) {
            return;
        }
        // What an operation was interrupted in is that operation's: it opens what it needs itself.
        let live = sandbox.phase == SandboxPhase::Ready;
        let agent = self.drivers.get(&sandbox.driver).is_some_and(|driver| driver.capabilities().agent);
        if live && agent {
            crash_point!(self.world.points, Before, None, Deed::AgentOpened);
            if let Err(error) = self.world.agents.open(&sandbox.driver, &sandbox.id).await {
                tracing::warn!(sandbox = %sandbox.id, %error, "its agent cannot connect");
            }
            crash_point!(self.world.points, After, None, Deed::AgentOpened);
        }
    }

    /// Starts a sandbox again that was stopped at shutdown.
    fn restart_again(self: &Arc<Self>, sandbox: SandboxRecord) {
        if sandbox.restart
            && sandbox.phase == SandboxPhase::Stopped
            && !self.held.lock().contains_key(&sandbox.subject())
        {
            let (inner, id) = (Arc::clone(self), sandbox.id);
            self.world.executor.spawn(Box::pin(async move { inner.restart_stopped(id).await }));
        }
    }

    /// Starts what the gateway itself stopped.
    async fn restart_stopped(self: &Arc<Self>, id: SandboxId) {
        if let Err(error) = self.restart(engine_principal(), id.clone()).await {
            tracing::error!(sandbox = %id, %error, "it was stopped at shutdown and could not be started again");
        }
    }
}

/// The step that an operation began last, as far as its marks tell.
fn last_begun<'a>(marks: &'a [Mark], operation: &OperationId) -> Option<&'a StepKey> {
    marks.iter().rev().filter(|mark| mark.operation == *operation).find_map(|mark| match &mark.event {
        MarkEvent::Step { step, .. } => Some(step),
        _ => None,
    })
}

impl Run {
    /// Takes in what is known of the interrupted operation's steps.
    pub(super) fn replay(&mut self, marks: Option<Vec<Mark>>) {
        let Some(marks) = marks else { return self.assume_all() };
        let own: Vec<Mark> = marks.into_iter().filter(|mark| mark.operation == self.op.id).collect();
        for mark in own {
            match mark.event {
                MarkEvent::Step { step, status } => {
                    let status = if status == StepStatus::Started { StepStatus::Maybe } else { status };
                    self.steps.status.insert(step, status);
                }
                MarkEvent::Slots { extension, values } => self.keep_slots(&extension, values),
                MarkEvent::State { extension, state } => self.steps.states.replay(&extension, state),
            }
        }
        self.refresh_plan();
    }

    /// Without marks every step from C1 on may have run.
    fn assume_all(&mut self) {
        let (phases, calls): (&[Phase], &[DriverCall]) = match self.op.kind {
            OperationKind::Create => (
                &[Phase::BeforeCreate, Phase::AfterCreate, Phase::BeforeStart, Phase::AfterReady],
                &[DriverCall::Create, DriverCall::Start],
            ),
            OperationKind::Start => (&[Phase::BeforeStart, Phase::AfterReady], &[DriverCall::Start]),
            _ => (&[], &[DriverCall::Stop, DriverCall::Delete]),
        };
        for entry in self.sandbox.chain.iter().filter(|entry| !entry.observe) {
            let link = self.chain.iter().find(|link| *link.name() == entry.name);
            let takes_part = |phase: Phase| link.is_none_or(|link| link.descriptor.takes_part(phase));
            for phase in phases.iter().filter(|phase| takes_part(**phase)) {
                self.steps.status.insert(StepKey::hook(*phase, &entry.name), StepStatus::Maybe);
            }
        }
        for call in calls {
            self.steps.status.insert(StepKey::Driver(*call), StepStatus::Maybe);
        }
    }

    /// Waits until nothing runs any more that the earlier process asked other processes for (rule 6a).
    async fn fence(&mut self) {
        let Some((names, mut fences)) = fences(&self.chain, &self.op.id) else { return };
        if within(&*self.inner.world.clock, FENCE_QUIET, &mut fences).await.is_some() {
            return;
        }
        let names = names.join(", ");
        tracing::warn!(operation = %self.op.id, extensions = names, "a hook that an earlier gateway began may still run");
        let message = format!("waiting until no hook of {names} runs any more that an earlier gateway began");
        self.passing(kinds::FENCE_PENDING, "HookMayRun", message);
        fences.await;
        self.passed(kinds::FENCE_PENDING);
    }

    /// Goes on with an interrupted operation.
    pub(super) async fn resume(mut self) {
        self.fence().await;
        let interrupted = CreateFailure {
            step: "interrupted".to_owned(),
            extension: None,
            cause: "the gateway ended while it ran".to_owned(),
        };
        match self.op.kind {
            OperationKind::Create if self.is_adopted_and_runs().await => Box::pin(self.keep_adopted()).await,
            OperationKind::Create => self.unwind_create(interrupted).await,
            OperationKind::Start => Box::pin(self.resume_start(interrupted)).await,
            OperationKind::Stop => {
                let reason = self.op.stop_reason.unwrap_or(StopReason::Request);
                let (inner, id) = (Arc::clone(&self.inner), self.sandbox.id.clone());
                self.stop(reason, true).await;
                if reason == StopReason::GatewayShutdown {
                    inner.restart_stopped(id).await;
                }
            }
            OperationKind::Exit => self.exit().await,
            OperationKind::Delete => Box::pin(self.resume_delete()).await,
            OperationKind::Cleanup
            | OperationKind::Reconcile
            | OperationKind::EnsureWorkspace
            | OperationKind::ReleaseWorkspace => {
                tracing::error!(operation = %self.op.id, "an operation of another kind cannot go on here");
            }
        }
    }

    /// A create of an earlier life of the store, taken over by the operator's word, whose object runs. While the driver
    /// does not answer it is asked again: nobody deletes what may be somebody's.
    async fn is_adopted_and_runs(&self) -> bool {
        if self.op.epoch == self.inner.journal.info().epoch || self.op.deleted {
            return false;
        }
        let mut attempt = 0;
        loop {
            match self.inner.look(&self.driver, self.driver.get(&self.sandbox.id)).await {
                Ok(observed) => return observed.is_some_and(|object| object.status == ObservedStatus::Running),
                Err(error) => {
                    tracing::warn!(sandbox = %self.sandbox.id, %error, "an adopted create is looked at again");
                }
            }
            let pause = super::obligations::backoff(&self.inner.world, attempt);
            within(&*self.inner.world.clock, pause, self.inner.stop.cancelled()).await;
            if self.inner.stop.is_cancelled() {
                // The process ends: the operation stays open and recovery goes on from here.
                futures::future::pending::<()>().await;
            }
            attempt += 1;
        }
    }

    /// It stays as it is; nobody knows which of its steps ran, so every debt is owed.
    async fn keep_adopted(mut self) {
        if let Err(failure) = self.open_agent().await {
            tracing::warn!(sandbox = %self.sandbox.id, %failure, "the agent of an adopted sandbox cannot connect");
        }
        self.create_done().await;
    }

    /// A start goes on if the agent of this very attempt calls; else it is undone.
    async fn resume_start(mut self, interrupted: CreateFailure) {
        let reason = self.op.start_reason.unwrap_or(StartReason::Request);
        let begun = Duration::from_millis(self.op.started_boot_ms);
        let left = (begun + self.driver.deadlines().ready).saturating_sub(self.inner.world.clock.since_boot());
        let may_run = self.may_have(DriverCall::Start) && self.driver.capabilities().agent;
        if may_run && self.may_run_now().await && self.open_agent().await.is_ok() {
            let left = left.clamp(AGENT_RETURNS, self.driver.deadlines().ready);
            let message = format!("the gateway ended while it started; its agent may still call for {left:.0?}");
            self.passing(kinds::START_PENDING, "AgentMayCall", message);
            let agents = Arc::clone(&self.inner);
            let connected = agents.world.agents.connected(&self.sandbox.id, &self.sandbox.attempt);
            let connected = within(&*self.inner.world.clock, left, connected).await.is_some();
            self.passed(kinds::START_PENDING);
            if connected {
                return self.start_ready(reason).await;
            }
        }
        self.unwind_start(interrupted).await;
    }

    /// Whether waiting for the agent makes sense. On a local platform the start ended with its process, so what does not run
    /// now will not; on a remote one it may still be on its way.
    async fn may_run_now(&self) -> bool {
        let driver = Arc::clone(&self.driver);
        if driver.capabilities().locality != chiton_driver::Locality::Local {
            return true;
        }
        match self.inner.look(&driver, driver.get(&self.sandbox.id)).await {
            Ok(Some(observed)) => observed.status == chiton_driver::ObservedStatus::Running,
            Ok(None) => false,
            Err(_) => true,
        }
    }
}
