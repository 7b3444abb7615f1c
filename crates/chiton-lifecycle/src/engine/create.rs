//! Create.

use std::sync::Arc;
use std::time::Duration;

use chiton_driver::{CallError, Observed, ObservedStatus};
use chiton_model::condition::kinds;
use chiton_model::{
    Condition, ConditionStatus, CreateFailure, Error, ErrorKind, ExtensionName, OperationKind, Phase, SandboxId,
    SandboxName, SandboxPhase, StartReason,
};
use futures::future::{BoxFuture, Either, select};
use futures::pin_mut;
use serde_json::json;

use super::admit::{Admission, Ticket};
use super::inner::{Inner, store_error};
use super::outcome::Reported;
use super::prepare::Prepared;
use super::requests::{Claim, Claimed};
use super::run::{Call, Run, mint_token, operation};
use super::{Accepted, CreateRequest, Engine, Request};
use crate::crash::{CommitKind, Deed, crash_point};
use crate::journal::{
    Check, Commit, Debt, DriverCall, JournalError, OperationOutcome, SandboxRecord, Subject, WorkspaceKey, Write,
};

impl Engine {
    /// Creates a sandbox. Answers once the intent is durable; the work goes on whatever becomes of the caller.
    pub async fn create(&self, request: Request, create: CreateRequest) -> Result<Accepted, Error> {
        let inner = Arc::clone(&self.inner);
        self.inner.owned(async move { inner.create(request, create).await }).await
    }
}

impl Inner {
    async fn create(self: &Arc<Self>, request: Request, create: CreateRequest) -> Result<Accepted, Error> {
        self.check_open()?;
        let body = json!({ "name": create.name, "workspace": create.workspace, "spec": create.spec, "expect_plan": create.expect_plan });
        let claim = match self.claim(&request, "create", &body).await? {
            Claimed::Fresh(claim) => claim,
            Claimed::Repeat(accepted) => return Ok(*accepted),
        };
        let prepared = self.prepare(&request.principal, &create).await?;
        self.ensure_workspace(&create.workspace, &prepared, &request.principal).await?;
        let id = create.id.clone();
        let id = id.unwrap_or_else(|| SandboxId::generate(self.world.millis(), self.world.random()));
        let subject = Subject::Sandbox(id.clone());
        let taken = || Error::already_exists(format!("sandbox id {id} is in use")).cure("choose a fresh id");
        let ticket = match self.table.admit(&subject, OperationKind::Create, self.world.operation_id()).await? {
            Admission::Go(ticket) => ticket,
            Admission::Joined(_) | Admission::Unwinding(..) => return Err(taken()),
        };
        // Only an id that the caller chose can be that of another row.
        if create.id.is_some() && self.journal.sandbox(&id).await.map_err(store_error)?.is_some() {
            return Err(taken());
        }
        self.commit_create(ticket, request, create, prepared, id, &claim).await
    }

    /// C1, then the worker.
    async fn commit_create(
        self: &Arc<Self>,
        ticket: Ticket,
        request: Request,
        create: CreateRequest,
        prepared: Prepared,
        id: SandboxId,
        claim: &Claim,
    ) -> Result<Accepted, Error> {
        let mut op = operation(self, &ticket, OperationKind::Create, &request.principal);
        op.start_reason = Some(StartReason::Create);
        let (token, hash) = mint_token(self);
        let now = self.world.clock.now();
        let name = if let Some(name) = create.name {
            name
        } else {
            // The id's tail is random: unique enough to be a name, and it shows which sandbox it is.
            let tail = &id.as_str()[id.as_str().len().saturating_sub(10)..];
            SandboxName::new(format!("sandbox-{}", tail.trim_start_matches('-')))?
        };
        let shortfall = prepared.driver.shortfall().map(|message| Condition {
            kind: kinds::PARTLY_ENFORCED.to_owned(),
            status: ConditionStatus::True,
            reason: "PlatformLacks".to_owned(),
            message,
            last_transition: now,
        });
        let sandbox = SandboxRecord {
            id,
            name,
            name_held: true,
            workspace: create.workspace,
            driver: prepared.driver.capabilities().id.clone(),
            backend: prepared.backend,
            epoch: op.epoch.clone(),
            commit: op.commit,
            created_by: op.id.clone(),
            principal: request.principal,
            spec: create.spec,
            phase: SandboxPhase::Provisioning,
            conditions: shortfall.into_iter().collect(),
            exit: None,
            failure: None,
            plan: prepared.plan,
            slots: std::collections::BTreeMap::new(),
            chain: prepared.chain,
            debts: Vec::new(),
            attempt: op.id.to_string(),
            token: hash,
            restart: false,
            created_at: now,
            updated_at: now,
            expires_at: None,
        };
        let mut writes: Vec<Write> =
            prepared.configs.into_iter().map(|(digest, document)| Write::PutConfig { digest, document }).collect();
        writes.push(Write::PutOperation(Box::new(op.clone())));
        writes.push(Write::PutSandbox(Box::new(sandbox.clone())));
        writes.extend(claim.writes(self, Some(&op.id), &sandbox));
        let accepted = Accepted { sandbox: sandbox.clone(), operation: Some(op.id.clone()) };
        let commit = Commit { number: op.commit, checks: checks(&sandbox), writes };
        // Nothing may fail between C1 and the worker.
        let run = self.run(ticket, op, sandbox, token).await?;
        self.store_create(&accepted.sandbox, commit).await?;
        run.ticket.intended();
        self.changed(&accepted.sandbox);
        self.world.executor.spawn(Box::pin(run.create()));
        Ok(accepted)
    }

    /// Stores C1. A name whose row only waits for cleanups is taken over in the same commit.
    async fn store_create(&self, sandbox: &SandboxRecord, mut commit: Commit) -> Result<(), Error> {
        loop {
            match self.journal.commit(CommitKind::Intent, Some(OperationKind::Create), commit.clone()).await {
                Ok(()) => return Ok(()),
                Err(JournalError::NameHeld { holder }) => {
                    let release = Write::ReleaseName(holder.clone());
                    if !self.released.lock().contains(&holder) || commit.writes.contains(&release) {
                        return Err(Error::already_exists(format!(
                            "sandbox {:?} exists already in workspace {:?}",
                            sandbox.name.as_str(),
                            sandbox.workspace.as_str()
                        ))
                        .cure("choose another name, or delete that sandbox first"));
                    }
                    commit.writes.insert(0, release);
                }
                Err(error) => return Err(store_error(error)),
            }
        }
    }
}

fn checks(sandbox: &SandboxRecord) -> Vec<Check> {
    let key = WorkspaceKey { workspace: sandbox.workspace.clone(), driver: sandbox.driver.clone() };
    vec![Check::NameFree(sandbox.workspace.clone(), sandbox.name.clone()), Check::WorkspaceReady(key)]
}

/// How long a driver is left alone between two looks at a sandbox that is on its way.
const SHORTEST_LOOK: Duration = Duration::from_millis(10);
const LONGEST_LOOK: Duration = Duration::from_millis(500);

/// A driver's failure as the cause of a failed create or start.
pub(super) fn driver_failure(step: DriverCall, error: &Error) -> CreateFailure {
    // What to do about it goes along: the failure is all that its reader ever sees of the error.
    let cause = error.cure.as_ref().map_or_else(|| error.to_string(), |cure| format!("{error}; {cure}"));
    CreateFailure { step: format!("driver {}", step.as_str()), extension: None, cause }
}

impl Run {
    /// Everything after C1.
    pub(super) async fn create(mut self) {
        match self.create_steps().await {
            Ok(()) => self.create_done().await,
            Err(failure) => self.unwind_create(failure).await,
        }
    }

    async fn create_steps(&mut self) -> Result<(), CreateFailure> {
        let deadlines = self.driver.deadlines();
        let driver = Arc::clone(&self.driver);
        let (id, plan) = (self.sandbox.id.clone(), self.sandbox.plan.plan.clone());
        self.check_cancel()?;
        self.steps
            .driver(DriverCall::Prepare, deadlines.prepare, driver.prepare(&id, &plan))
            .await
            .map_err(|error| driver_failure(DriverCall::Prepare, error.error()))?;
        self.effects(|| Call::BeforeCreate).await?;
        self.refresh_plan();
        let two_phase = driver.capabilities().two_phase_start();
        if !two_phase {
            self.effects(|| Call::BeforeStart(StartReason::Create)).await?;
        }
        self.check_cancel()?;
        let call = self.driver_call().await.map_err(|error| driver_failure(DriverCall::Create, &error))?;
        if !two_phase {
            self.open_agent().await?;
        }
        self.making_began = self.inner.world.clock.since_boot();
        self.steps
            .driver(DriverCall::Create, deadlines.act, driver.create(&call))
            .await
            .map_err(|error| driver_failure(DriverCall::Create, error.error()))?;
        self.answered = true;
        self.effects(|| Call::AfterCreate).await?;
        if two_phase {
            self.effects(|| Call::BeforeStart(StartReason::Create)).await?;
        }
        self.check_cancel()?;
        if two_phase {
            // The driver makes the place where the agent dials together with the object.
            self.open_agent().await?;
        }
        let connected = self.expect_agent();
        self.start_object(&call).await?;
        self.wait_ready(connected).await?;
        self.effects(|| Call::AfterReady(StartReason::Create)).await
    }

    /// Lets the agent connect.
    pub(super) async fn open_agent(&mut self) -> Result<(), CreateFailure> {
        if !self.driver.capabilities().agent {
            return Ok(());
        }
        let (world, operation) = (&self.inner.world, Some(self.op.kind));
        crash_point!(world.points, Before, operation, Deed::AgentOpened);
        world.agents.open(&self.sandbox.driver, &self.sandbox.id).await.map_err(|error| CreateFailure {
            step: "agent".to_owned(),
            extension: None,
            cause: error.to_string(),
        })?;
        crash_point!(world.points, After, operation, Deed::AgentOpened);
        Ok(())
    }

    /// Resolves when the agent of this start connects. Asked for before the start: an agent whose main process ends at once
    /// may have come and gone when the start returns, and was ready all the same.
    pub(super) fn expect_agent(&self) -> BoxFuture<'static, ()> {
        self.inner.world.agents.connected(&self.sandbox.id, &self.sandbox.attempt)
    }

    pub(super) async fn start_object(&mut self, call: &chiton_driver::StartCall) -> Result<(), CreateFailure> {
        let (driver, deadline) = (Arc::clone(&self.driver), self.driver.deadlines().act);
        self.making_began = self.inner.world.clock.since_boot();
        self.steps
            .driver(DriverCall::Start, deadline, driver.start(call))
            .await
            .map_err(|error| driver_failure(DriverCall::Start, error.error()))
    }

    /// Waits until driver and agent are ready. A main process that ends before its agent came ends the wait. Where there is no
    /// agent it ran all the same, because its start succeeded: its end is then taken in after this operation.
    pub(super) async fn wait_ready(&mut self, connected: BoxFuture<'static, ()>) -> Result<(), CreateFailure> {
        let limit = self.driver.deadlines().ready;
        let agent = self.driver.capabilities().agent;
        let (driver, id) = (Arc::clone(&self.driver), self.sandbox.id.clone());
        let (inner, platform) = (Arc::clone(&self.inner), Arc::clone(&self.driver));
        let clock = Arc::clone(&self.inner.world.clock);
        let ready = async move {
            if agent {
                connected.await;
                return Ok(None);
            }
            // Without an agent, ready is the driver's word; until then one that starts in its own time calls it created.
            let mut pause = SHORTEST_LOOK;
            loop {
                match driver.get(&id).await {
                    Ok(Some(Observed { status: ObservedStatus::Running, .. })) => return Ok(None),
                    // What ended with a code has run; what ended without one may never have.
                    Ok(Some(Observed { status: ObservedStatus::Exited(exit), attempt, .. })) if exit.code.is_some() => {
                        return Ok(Some(Reported { exit, sure: attempt.is_some() }));
                    }
                    Ok(Some(Observed { status: ObservedStatus::Exited(exit), .. })) => {
                        let text = format!("it ended before it was ready: {}", exit.reason);
                        return Err(CallError::Failed(Error::internal(text)));
                    }
                    Ok(Some(Observed { status: ObservedStatus::Created, .. })) => clock.sleep(pause).await,
                    Ok(Some(Observed { status: ObservedStatus::Broken(why), .. })) => {
                        return Err(CallError::Failed(Error::internal(why)));
                    }
                    // Nothing was seen of it: whether it becomes ready after all is not known.
                    Ok(None) => return Err(CallError::Unknown(Error::internal("the driver does not know it"))),
                    Err(error) => return Err(CallError::Unknown(error.into_error())),
                }
                pause = (pause * 2).min(LONGEST_LOOK);
            }
        };
        let cancel = self.steps.cancel.token.clone();
        let (news, sandbox) = (&self.ticket.news, &self.sandbox);
        // An exit of this start, the only news that matters here, ends the wait.
        let exited = async {
            loop {
                let (driver, observed) = news.next().await;
                if driver != sandbox.driver {
                    inner.stranger(&driver, &sandbox.id);
                    continue;
                }
                let Some(reported) = super::outcome::exit_of(observed, &sandbox.attempt) else { continue };
                if reported.sure || inner.has_exited(&platform, &sandbox.id).await {
                    return reported;
                }
            }
        };
        let waiting = async {
            pin_mut!(ready, exited);
            let ended = async {
                match select(ready, exited).await {
                    Either::Left((ready, _)) => ready,
                    Either::Right((reported, _)) if !agent && reported.exit.code.is_some() => Ok(Some(reported)),
                    Either::Right((Reported { exit, .. }, _)) => {
                        let code =
                            exit.code.map_or_else(|| "an unknown code".to_owned(), |code| format!("code {code}"));
                        Err(CallError::Failed(Error::new(
                            ErrorKind::Internal,
                            format!(
                                "the main process ended with {code} ({}) before the sandbox was ready",
                                exit.reason
                            ),
                        )))
                    }
                }
            };
            let cancelled = cancel.cancelled();
            pin_mut!(ended, cancelled);
            match select(ended, cancelled).await {
                Either::Left((ended, _)) => ended,
                // Whether it becomes ready after all is not known.
                Either::Right(_) => Err(CallError::Unknown(Error::conflict("cancelled"))),
            }
        };
        let answer = self.steps.driver(DriverCall::Ready, limit, waiting).await;
        let ended = answer.map_err(|error| match error {
            CallError::Unknown(error) if error.kind == ErrorKind::Deadline => {
                let what = if agent { "the agent did not connect" } else { "the driver did not call it ready" };
                driver_failure(DriverCall::Ready, &Error::deadline(format!("{what} within {limit:?}")))
            }
            other => driver_failure(DriverCall::Ready, other.error()),
        })?;
        self.exited = ended.or(self.exited.take());
        Ok(())
    }

    /// C2 of a create that succeeded, unless somebody asked for its end before it was decided.
    pub(super) async fn create_done(mut self) {
        if self.steps.cancel.seal().is_some() {
            let failure = CreateFailure {
                step: "deleted".to_owned(),
                extension: None,
                cause: "somebody asked for it".to_owned(),
            };
            return self.unwind_create(failure).await;
        }
        self.sandbox.phase = SandboxPhase::Ready;
        let mut debts = self.owing(&[Phase::BeforeCreate, Phase::AfterCreate], Phase::AfterDelete);
        debts.extend(self.owing(&[Phase::BeforeStart, Phase::AfterReady], Phase::AfterStop));
        self.sandbox.debts = debts;
        self.finish(OperationOutcome::Succeeded, false).await;
    }

    /// The debts that the chain owes for what it did in these phases, in chain order.
    pub(super) fn owing(&self, phases: &[Phase], cleanup: Phase) -> Vec<Debt> {
        // Of an extension that is not there nobody knows in which phases it took part: what it may owe is listed.
        let cleans = |name: &ExtensionName| {
            self.chain.iter().find(|link| link.name() == name).is_none_or(|link| link.descriptor.takes_part(cleanup))
        };
        self.sandbox
            .chain
            .iter()
            .filter(|entry| !entry.observe && cleans(&entry.name))
            .filter_map(|entry| {
                self.ran(&entry.name, phases).map(|ran| Debt { extension: entry.name.clone(), phase: cleanup, ran })
            })
            .collect()
    }
}
