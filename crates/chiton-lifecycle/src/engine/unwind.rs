//! Unwinding: stop, their `after_stop`, delete until absence is confirmed, and only then `on_create_failed`.
//!
//! A lease is never released under a live backend: nothing of the last step runs before absence is confirmed.

use std::sync::Arc;
use std::time::Duration;

use chiton_driver::{CallError, Locality};
use chiton_model::condition::kinds;
use chiton_model::{CreateFailure, Error, Phase, SandboxPhase, StopReason};

use super::EngineConfig;
use super::admit::CancelCause;
use super::cleanup::Why;
use super::hooks::within;
use super::obligations::{backoff, later};
use super::run::Run;
use crate::journal::{DriverCall, OperationOutcome, StepKey, StepStatus};

/// How often an unconfirmed stop is tried before the delete makes it moot.
const STOP_ATTEMPTS: u32 = 3;

impl Run {
    /// Undoes a create, and stores why.
    pub(super) async fn unwind_create(mut self, failure: CreateFailure) {
        tracing::warn!(sandbox = %self.sandbox.id, %failure, "undoing a create");
        let failure = Arc::new(failure);
        // From here on the name is free: a create that wants it takes it over in its own commit.
        self.inner.released.lock().insert(self.sandbox.id.clone());
        if self.is_making() {
            // Whatever is at work for it now has as long as a call has: it may have been at it for longer already.
            self.making_began = self.inner.world.clock.since_boot();
        }
        let stops = self.owing(&[Phase::BeforeStart, Phase::AfterReady], Phase::AfterStop);
        let creates = self.owing(&[Phase::BeforeCreate, Phase::AfterCreate], Phase::OnCreateFailed);
        let why = Why::Stopped(StopReason::CreateFailed);
        let mut stopped = false;
        if self.may_have(DriverCall::Start) || !stops.is_empty() {
            stopped = !self.may_have(DriverCall::Create) || self.stop_confirmed().await.is_ok();
        }
        // What may still be started by a call that is on its way is not stopped for good before it is absent.
        stopped &= self.may_land(&[DriverCall::Create, DriverCall::Start]).is_none();
        if stopped {
            self.pay(stops.clone(), &why).await;
        }
        if self.may_have(DriverCall::Create) {
            self.delete_until_absent().await;
        }
        if !stopped {
            // What is absent does not run.
            self.pay(stops, &why).await;
        }
        self.pay(creates, &Why::Failed(Arc::clone(&failure))).await;
        let deleted = self.steps.cancel.seal() == Some(CancelCause::Deleted) || self.op.deleted;
        self.op.deleted = deleted;
        self.sandbox.phase = SandboxPhase::Error;
        self.sandbox.name_held = false;
        self.sandbox.expires_at = Some(later(self.inner.world.clock.now(), self.inner.config.keep_errors));
        self.sandbox.failure = Some((*failure).clone());
        let error = failure_error(&failure);
        self.finish(OperationOutcome::Failed(error), deleted).await;
    }

    /// Undoes a start: stopped again, with the cause in a condition.
    pub(super) async fn unwind_start(mut self, failure: CreateFailure) {
        tracing::warn!(sandbox = %self.sandbox.id, %failure, "undoing a start");
        let stops = self.owing(&[Phase::BeforeStart, Phase::AfterReady], Phase::AfterStop);
        self.sandbox
            .debts
            .extend(stops.iter().filter(|debt| !self.sandbox.debts.contains(debt)).cloned().collect::<Vec<_>>());
        let stopped = self.stop_for_good().await;
        self.passed(kinds::STOP_PENDING);
        if let Err(error) = stopped {
            // Not confirmed: nothing may be released yet. The next stop or delete goes on from here.
            let message = format!("the start failed ({failure}) and its stop is not confirmed: {error}");
            self.condition(kinds::STOP_UNCONFIRMED, chiton_model::ConditionStatus::True, "DriverFailed", message);
        } else {
            self.sandbox.conditions.retain(|condition| condition.kind != kinds::STOP_UNCONFIRMED);
            self.pay(stops, &Why::Stopped(StopReason::StartFailed)).await;
        }
        self.steps.cancel.seal();
        self.sandbox.phase = SandboxPhase::Stopped;
        self.condition(kinds::START_FAILED, chiton_model::ConditionStatus::True, "StartFailed", failure.to_string());
        let error = failure_error(&failure);
        self.finish(OperationOutcome::Failed(error), false).await;
    }

    /// Stops the object and returns when the driver confirms it. Tried a few times.
    pub(super) async fn stop_confirmed(&mut self) -> Result<(), Error> {
        let (driver, id, deadline) = (Arc::clone(&self.driver), self.sandbox.id.clone(), self.driver.deadlines().act);
        let mut attempt = 0;
        loop {
            let error = match self.check_backend().await {
                Ok(()) => match self.steps.driver(DriverCall::Stop, deadline, driver.stop(&id)).await {
                    Ok(()) => return Ok(()),
                    Err(error) => error.into_error(),
                },
                Err(error) => error,
            };
            attempt += 1;
            if attempt >= STOP_ATTEMPTS {
                return Err(error);
            }
            self.inner.world.clock.sleep(backoff(&self.inner.world, attempt)).await;
        }
    }

    /// As [`Run::stop_confirmed`], and again until a start that may still be on its way can no longer land. A delete does
    /// not wait for that: what is absent cannot be started.
    async fn stop_for_good(&mut self) -> Result<(), Error> {
        let mut attempt = 0;
        loop {
            self.stop_confirmed().await?;
            let Some(left) = self.may_land(&[DriverCall::Start]) else { return Ok(()) };
            let message = format!("it does not run; its start may still land for {left:.0?}");
            self.passing(kinds::STOP_PENDING, "StartMayLand", message);
            // Short, so that a delete is soon seen.
            let pause = backoff(&self.inner.world, attempt).min(left).min(Duration::from_secs(10));
            let (stop, cancel) = (self.inner.stop.clone(), Arc::clone(&self.steps.cancel));
            if cancel.cause() == Some(CancelCause::Deleted) {
                return Err(Error::unavailable("driver", "a start whose answer never came may still land"));
            }
            if stop.is_cancelled() {
                // The process ends: the operation stays open and recovery goes on from here.
                futures::future::pending::<()>().await;
            }
            within(&*self.inner.world.clock, pause, stop.cancelled()).await;
            attempt += 1;
        }
    }

    /// How long one of these calls may still take hold although its answer never came, or came too early. Only a remote
    /// platform works on by itself; a local one ends what is at work first (rule 5a).
    fn may_land(&self, calls: &[DriverCall]) -> Option<Duration> {
        let unknown = |call: &DriverCall| matches!(self.status(*call), Some(StepStatus::Started | StepStatus::Maybe));
        let lands = calls.iter().any(unknown) || calls.contains(&DriverCall::Create) && self.is_making();
        if self.driver.capabilities().locality == Locality::Local || !lands {
            return None;
        }
        let late = self.inner.config.late_effects;
        // The call's own time is part of it, unless the operator has said that the platform is never as slow.
        let window = if late < EngineConfig::LATE_EFFECTS { late } else { self.driver.deadlines().act.max(late) };
        let age = self.inner.world.clock.since_boot().saturating_sub(self.making_began);
        window.checked_sub(age).filter(|left| !left.is_zero())
    }

    fn status(&self, call: DriverCall) -> Option<StepStatus> {
        self.steps.status.get(&StepKey::Driver(call)).copied()
    }

    /// Whether a create that was answered may still be carried out: until the sandbox was ready, or was not by the driver's
    /// own word. A wait that was broken off says neither, and after a crash nobody knows how a call ended.
    fn is_making(&self) -> bool {
        let ended = |call| self.status(call) == Some(StepStatus::Completed);
        let answered = self.answered || self.steps.recovered && ended(DriverCall::Create);
        answered && !ended(DriverCall::Ready) && self.driver.capabilities().locality == Locality::Deferred
    }

    /// Deletes the object until the driver confirms that it is absent, however long that takes.
    pub(super) async fn delete_until_absent(&mut self) {
        let (driver, id, deadline) = (Arc::clone(&self.driver), self.sandbox.id.clone(), self.driver.deadlines().act);
        let mut attempt = 0;
        loop {
            let mut longest = Duration::MAX;
            match self.absent_once(&driver, &id, deadline).await {
                // A remote platform may finish a create whose answer never came, after it said that there is nothing
                // (rule 5a).
                Ok(()) => match self.may_land(&[DriverCall::Create]) {
                    None => break,
                    Some(left) => {
                        // Not beyond the moment at which it is certain.
                        longest = left;
                        tracing::info!(sandbox = %id, ?left, "its create may still land; deleting again until it cannot");
                        let message = format!("nothing of it is there; its create may still land for {left:.0?}");
                        self.passing(kinds::DELETE_PENDING, "CreateMayLand", message);
                    }
                },
                Err(error) => {
                    tracing::warn!(sandbox = %id, %error, attempt, "absence is not confirmed; deleting again");
                    self.passing(kinds::DELETE_PENDING, "AbsenceUnconfirmed", format!("deleting again: {error}"));
                }
            }
            attempt += 1;
            let pause = backoff(&self.inner.world, attempt).min(longest);
            within(&*self.inner.world.clock, pause, self.inner.stop.cancelled()).await;
            if self.inner.stop.is_cancelled() {
                // The process ends: the operation stays open and recovery goes on from here.
                futures::future::pending::<()>().await;
            }
        }
        self.passed(kinds::DELETE_PENDING);
    }

    async fn absent_once(
        &mut self,
        driver: &Arc<dyn chiton_driver::ComputeDriver>,
        id: &chiton_model::SandboxId,
        deadline: Duration,
    ) -> Result<(), Error> {
        self.check_backend().await?;
        self.steps.driver(DriverCall::Delete, deadline, driver.delete(id)).await.map_err(CallError::into_error)?;
        match self.inner.look(driver, driver.get(id)).await? {
            None => Ok(()),
            Some(observed) => {
                Err(Error::unavailable("driver", format!("the driver still reports it as {:?}", observed.status)))
            }
        }
    }

    /// An answer from another installation of the platform is no answer about this object.
    pub(super) async fn check_backend(&self) -> Result<(), Error> {
        let now = self.inner.backend(&self.sandbox.driver).await?;
        if now == self.sandbox.backend {
            return Ok(());
        }
        Err(Error::unavailable(
            self.sandbox.driver.as_str(),
            format!(
                "driver {:?} now talks to {now}, the sandbox was made on {}",
                self.sandbox.driver.as_str(),
                self.sandbox.backend
            ),
        )
        .cure("point the driver at the installation that holds the sandbox"))
    }
}

/// A failed step as the operation's error.
fn failure_error(failure: &CreateFailure) -> Error {
    match &failure.extension {
        Some(extension) => Error::refused(extension, failure.to_string()),
        None => Error::new(chiton_model::ErrorKind::Internal, failure.to_string()),
    }
}
