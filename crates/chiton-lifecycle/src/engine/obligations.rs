//! Open obligations: retried with backoff until they succeed, across restarts, visibly (rule 4).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_lock::Mutex as AsyncMutex;
use chiton_model::{Error, OperationKind, Principal, SandboxPhase};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

use super::Engine;
use super::admit::Admission;
use super::cleanup::{Paid, Why};
use super::hooks::within;
use super::inner::{Inner, engine_principal, store_error};
use super::run::{Run, operation};
use crate::journal::{AuditRecord, Commit, Obligation, ObligationReason, ObligationStatus, Subject, Write};
use crate::runtime::{CancelToken, LifecycleEvent, World};

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_mins(5);
/// No hook has longer, as far as anyone would wait for one.
const LONGEST_CONFIRMING: Duration = Duration::from_hours(1);

/// 1 s doubling to 5 min, with up to a quarter of jitter so that a crowd spreads out.
pub(super) fn backoff(world: &World, attempt: u32) -> Duration {
    let base = FIRST.saturating_mul(2_u32.saturating_pow(attempt.min(16))).min(LONGEST);
    let [byte] = world.random::<1>();
    base.mul_f64(1.0 - f64::from(byte) / 1024.0)
}

/// A time on the wall clock.
pub(super) fn later(now: Timestamp, pause: Duration) -> Timestamp {
    SignedDuration::try_from(pause).ok().and_then(|pause| now.checked_add(pause).ok()).unwrap_or(Timestamp::MAX)
}

/// The audit record of an obligation that the operator's policy gave up.
pub(super) fn abandonment(obligation: &Obligation, world: &World) -> Option<Write> {
    (obligation.status == ObligationStatus::Abandoned).then(|| {
        Write::Audit(Box::new(AuditRecord {
            at: world.clock.now(),
            action: "obligation.abandon".to_owned(),
            subject: obligation.id.clone(),
            by: "policy".to_owned(),
            message: format!("extension {:?} is gone and its policy says abandon", obligation.debt.extension.as_str()),
        }))
    })
}

/// The open obligations in memory: the store's table, kept in step with every commit.
pub(super) struct Book {
    open: Mutex<BTreeMap<String, Open>>,
    wake: Mutex<CancelToken>,
    /// One retry round at a time.
    round: AsyncMutex<()>,
}

struct Open {
    obligation: Obligation,
    /// When it is due, by the clock since boot: what the record says is for people, and the wall clock may jump.
    due: Duration,
}

impl Open {
    fn new(obligation: Obligation, longest: Duration, world: &World) -> Self {
        let pause = obligation.next_attempt_at.duration_since(world.clock.now());
        let pause = Duration::try_from(pause).unwrap_or_default().min(longest);
        Self { obligation, due: world.clock.since_boot().saturating_add(pause) }
    }

    fn is_live(&self) -> bool {
        self.obligation.status == ObligationStatus::Open
    }
}

impl Default for Book {
    fn default() -> Self {
        Self { open: Mutex::default(), wake: Mutex::new(CancelToken::new()), round: AsyncMutex::new(()) }
    }
}

impl Book {
    /// Takes in what the store has. A date that is further off than any pause was set by another wall clock.
    pub(super) fn load(&self, obligations: Vec<Obligation>, world: &World) {
        let longest = |reason| if reason == ObligationReason::Confirming { LONGEST_CONFIRMING } else { LONGEST };
        let opened = obligations.into_iter().map(|obligation| {
            let longest = longest(obligation.reason);
            (obligation.id.clone(), Open::new(obligation, longest, world))
        });
        *self.open.lock() = opened.collect();
    }

    pub(super) fn has(&self, id: &str) -> bool {
        self.open.lock().contains_key(id)
    }

    /// What the hook of an obligation is to be told.
    pub(super) fn why(&self, id: &str) -> Option<Why> {
        self.open.lock().get(id).map(|open| Why::recall(&open.obligation))
    }

    pub(super) fn list(&self) -> Vec<Obligation> {
        self.open.lock().values().map(|open| open.obligation.clone()).collect()
    }

    pub(super) fn of(&self, subject: &Subject) -> Vec<Obligation> {
        self.list().into_iter().filter(|obligation| obligation.subject == *subject).collect()
    }

    /// Takes in what a commit stored.
    pub(super) fn settle(&self, paid: &[String], owed: &[Obligation], world: &World) {
        let mut open = self.open.lock();
        for id in paid {
            if open.remove(id).is_some() {
                let message = "paid".to_owned();
                world.audience.tell(LifecycleEvent::Obligation { id: id.clone(), open: false, message });
            }
        }
        for obligation in owed {
            let (id, message) = (obligation.id.clone(), obligation.last_error.clone());
            world.audience.tell(LifecycleEvent::Obligation { id, open: true, message });
            open.insert(obligation.id.clone(), Open::new(obligation.clone(), Duration::MAX, world));
        }
        drop(open);
        if !owed.is_empty() {
            self.wake();
        }
    }

    /// Makes the worker look again.
    pub(super) fn wake(&self) {
        self.wake.lock().cancel();
    }

    fn armed(&self) -> CancelToken {
        let mut wake = self.wake.lock();
        if wake.is_cancelled() {
            *wake = CancelToken::new();
        }
        wake.clone()
    }

    /// An obligation that is to be tried now.
    fn due_now(&self, id: &str, world: &World) -> Option<Obligation> {
        let (open, now) = (self.open.lock(), world.clock.since_boot());
        open.get(id).filter(|open| open.is_live() && open.due <= now).map(|open| open.obligation.clone())
    }

    /// How long a cleanup that succeeded once still has to wait for the call that confirms it, if it has one to come.
    pub(super) fn confirming(&self, id: &str, world: &World) -> Option<Duration> {
        let open = self.open.lock();
        open.get(id)
            .filter(|open| open.obligation.reason == ObligationReason::Confirming)
            .map(|open| open.due.saturating_sub(world.clock.since_boot()))
    }

    /// What is due, and how long the next one has.
    fn due(&self, world: &World) -> (Vec<Obligation>, Option<Duration>) {
        let (open, now) = (self.open.lock(), world.clock.since_boot());
        let live = || open.values().filter(|open| open.is_live());
        let due = live().filter(|open| open.due <= now).map(|open| open.obligation.clone()).collect();
        let next = live().filter(|open| open.due > now).map(|open| open.due.saturating_sub(now)).min();
        (due, next)
    }
}

impl Inner {
    /// Retries what is due, for ever.
    pub(super) async fn pay_obligations(self: Arc<Self>) {
        while !self.stop.is_cancelled() {
            let armed = self.book.armed();
            let (due, next) = self.book.due(&self.world);
            if due.is_empty() {
                let pause = next.unwrap_or(Duration::from_mins(1)).min(Duration::from_mins(1));
                within(&*self.world.clock, pause, armed.cancelled()).await;
                continue;
            }
            let round = self.book.round.lock().await;
            for obligation in due {
                if let Err(error) = self.retry(&obligation).await {
                    tracing::debug!(obligation = %obligation.id, %error, "not retried now");
                }
            }
            drop(round);
            // A subject that is busy is looked at again soon, not at once.
            within(&*self.world.clock, FIRST, self.stop.cancelled()).await;
        }
    }

    /// One retry, as an operation of its own on its subject.
    async fn retry(self: &Arc<Self>, obligation: &Obligation) -> Result<(), Error> {
        let Some(id) = obligation.subject.sandbox().cloned() else { return self.retry_workspace(obligation).await };
        let operation_id = self.world.operation_id();
        let Admission::Go(ticket) = self.table.admit(&obligation.subject, OperationKind::Cleanup, operation_id).await?
        else {
            return Ok(());
        };
        // It may have been paid, or come up anew, while this waited.
        let Some(obligation) = &self.book.due_now(&obligation.id, &self.world) else { return Ok(()) };
        let sandbox = self.record(&id).await?;
        self.check_held(&sandbox)?;
        let op = operation(self, &ticket, OperationKind::Cleanup, &engine_principal());
        let mut run = self.run(ticket, op, sandbox, String::new()).await?;
        let why = Why::recall(obligation);
        match run.pay_one(&obligation.debt, &why).await {
            Paid::Yes => {
                run.settle(&obligation.debt);
                run.end_cleanup(None).await
            }
            Paid::Owed(..) if run.is_abandoned(&obligation.debt) => {
                run.drop_debt(&obligation.debt);
                let given_up = Obligation { status: ObligationStatus::Abandoned, ..obligation.clone() };
                run.end_cleanup(Some(given_up)).await
            }
            Paid::Owed(reason, error) => {
                let attempts = obligation.attempts + 1;
                let pause = backoff(&self.world, attempts - 1);
                let next = Obligation {
                    attempts,
                    reason,
                    last_error: error,
                    next_attempt_at: later(self.world.clock.now(), pause),
                    ..obligation.clone()
                };
                run.end_cleanup(Some(next)).await
            }
        }
    }
}

impl Run {
    /// One commit: the debt is off the record, or its obligation has a new date.
    async fn end_cleanup(mut self, still: Option<Obligation>) -> Result<(), Error> {
        self.steps.cancel.seal();
        let mut writes = Vec::new();
        self.clear_pending(still.is_some());
        let gone = self.sandbox.phase == SandboxPhase::Deleted && self.sandbox.debts.is_empty();
        if gone {
            writes.push(Write::RemoveSandbox(self.sandbox.id.clone()));
        } else {
            let last = self.sandbox.debts.is_empty() && self.sandbox.phase == SandboxPhase::Error;
            writes.extend(if last { self.steps.states.removals() } else { self.steps.states.writes() });
            writes.push(Write::PutSandbox(Box::new(self.sandbox.clone())));
        }
        writes.extend(self.paid.iter().cloned().map(Write::RemoveObligation));
        writes.extend(still.iter().cloned().map(|obligation| Write::PutObligation(Box::new(obligation))));
        writes.extend(still.iter().filter_map(|obligation| abandonment(obligation, &self.inner.world)));
        let commit = Commit { number: 0, checks: Vec::new(), writes };
        self.inner.journal.commit(commit).await.map_err(store_error)?;
        let owed: Vec<Obligation> = still.into_iter().collect();
        self.inner.book.settle(&self.paid, &owed, &self.inner.world);
        if gone {
            self.inner.world.audience.tell(LifecycleEvent::Removed(self.sandbox.id.clone()));
        } else {
            self.inner.changed(&self.sandbox);
        }
        Ok(())
    }
}

impl Engine {
    /// All obligations that are open or were given up.
    pub fn obligations(&self) -> Vec<Obligation> {
        self.inner.book.list()
    }

    /// The obligations of one subject.
    pub fn obligations_of(&self, subject: &Subject) -> Vec<Obligation> {
        self.inner.book.of(subject)
    }

    /// Closes an obligation by hand, unpaid. Leaves an audit record.
    pub async fn discharge(&self, principal: Principal, id: String, force: bool) -> Result<(), Error> {
        let inner = Arc::clone(&self.inner);
        self.inner.owned(async move { inner.discharge(&principal, &id, force).await }).await
    }
}

impl Inner {
    async fn discharge(self: &Arc<Self>, principal: &Principal, id: &str, force: bool) -> Result<(), Error> {
        let unknown =
            || Error::not_found(format!("there is no obligation {id:?}")).cure("chiton obligations list shows them");
        let obligation = self.book.list().into_iter().find(|obligation| obligation.id == id).ok_or_else(unknown)?;
        if !force {
            return Err(Error::refused("policy", format!("obligation {id:?} is not paid: {}", obligation.last_error))
                .cure("if what it would clean up is certainly gone, close it with --force; that is audited"));
        }
        let Admission::Go(_ticket) =
            self.table.admit(&obligation.subject, OperationKind::Cleanup, self.world.operation_id()).await?
        else {
            return Err(Error::conflict(format!("an operation is running on {}", obligation.subject))
                .cure("wait for it to end"));
        };
        let mut gone = None;
        let mut writes = vec![
            Write::RemoveObligation(id.to_owned()),
            Write::Audit(Box::new(AuditRecord {
                at: self.world.clock.now(),
                action: "obligation.discharge".to_owned(),
                subject: id.to_owned(),
                by: principal.subject.clone(),
                message: format!("closed unpaid; the last attempt said: {}", obligation.last_error),
            })),
        ];
        if let Some(sandbox) = obligation.subject.sandbox()
            && let Some(mut record) = self.journal.sandbox(sandbox).await.map_err(store_error)?
        {
            record
                .debts
                .retain(|debt| debt.extension != obligation.debt.extension || debt.phase != obligation.debt.phase);
            if record.debts.is_empty() && record.phase == SandboxPhase::Error {
                // A subject's last debt takes its states along.
                let states = self.journal.states_of(&obligation.subject).await.map_err(store_error)?;
                let remove = |(name, _)| Write::RemoveState(obligation.subject.clone(), name);
                writes.extend(states.into_iter().map(remove));
            }
            if record.phase == SandboxPhase::Deleted && record.debts.is_empty() {
                gone = Some(record.id.clone());
                writes.push(Write::RemoveSandbox(record.id.clone()));
            } else {
                writes.push(Write::PutSandbox(Box::new(record)));
            }
        }
        if let Subject::Workspace(key) = &obligation.subject
            && let Some(mut row) = self.workspace(key).await?
        {
            row.debts.retain(|debt| debt.extension != obligation.debt.extension);
            row.chain.retain(|entry| entry.name != obligation.debt.extension);
            let done = !row.ready && row.debts.is_empty();
            writes.push(if done { Write::RemoveWorkspace(key.clone()) } else { Write::PutWorkspace(Box::new(row)) });
        }
        self.journal.commit(Commit { number: 0, checks: Vec::new(), writes }).await.map_err(store_error)?;
        self.book.settle(&[id.to_owned()], &[], &self.world);
        if let Some(sandbox) = gone {
            self.world.audience.tell(LifecycleEvent::Removed(sandbox));
        }
        self.world.audience.tell(LifecycleEvent::Audit {
            action: "obligation.discharge",
            subject: id.to_owned(),
            by: principal.subject.clone(),
            message: "closed unpaid".to_owned(),
        });
        Ok(())
    }
}
