//! Open obligations: retried with backoff until they succeed, across restarts, visibly (rule 4).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use chiton_model::condition::set;
use chiton_model::{Condition, ConditionStatus, Error, OperationKind, SandboxPhase};
use jiff::{SignedDuration, Timestamp};

use super::Engine;
use super::admit::Admission;
use super::cleanup::{Paid, Why};
use super::hooks::within;
use super::inner::{Inner, engine_principal, store_error};
use super::run::{Run, operation};
use crate::crash::CommitKind;
use crate::journal::{AuditRecord, Debt, Obligation, ObligationReason, ObligationStatus, Subject, Write};
use crate::runtime::{LifecycleEvent, World};

const FIRST: Duration = Duration::from_secs(1);
pub(super) const LONGEST: Duration = Duration::from_mins(5);

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

/// How long an obligation that was given up stays listed. Its audit record stays for good.
const KEEP_ABANDONED: Duration = Duration::from_hours(30 * 24);

pub(super) const ABANDON: &str = "obligation.abandon";

/// Who gives up the debts of an extension that is gone.
pub(super) const POLICY: &str = "policy";

/// The audit record of an obligation that was given up, by the operator's policy or by somebody's word.
pub(super) fn abandonment(obligation: &Obligation, by: &str, world: &World) -> Option<Write> {
    (obligation.status == ObligationStatus::Abandoned).then(|| {
        Write::Audit(Box::new(AuditRecord {
            at: world.clock.now(),
            action: ABANDON.to_owned(),
            subject: obligation.id.clone(),
            by: by.to_owned(),
            message: given_up_because(obligation),
        }))
    })
}

pub(super) fn given_up_because(obligation: &Obligation) -> String {
    let Debt { extension, phase, .. } = &obligation.debt;
    format!("extension {:?} owed {phase}, and it was given up: {}", extension.as_str(), obligation.last_error)
}

/// An obligation that nobody will pay: it stays listed for a while and holds nothing.
pub(super) fn give_up(obligation: Obligation, now: Timestamp) -> Obligation {
    let expires_at = Some(later(now, KEEP_ABANDONED));
    Obligation { status: ObligationStatus::Abandoned, expires_at, ..obligation }
}

/// An obligation as its sandbox's condition tells it: what, since when, why, what comes next, and the way out by its id.
fn told(obligation: &Obligation) -> String {
    let Debt { extension, phase, .. } = &obligation.debt;
    let extension = extension.as_str();
    let (since, attempts, error) = (obligation.opened_at, obligation.attempts, &obligation.last_error);
    let cure = format!("chiton obligations discharge {} --force", obligation.id);
    if obligation.status == ObligationStatus::Abandoned {
        let until = obligation.expires_at.map(|at| format!(" until {at:.0}")).unwrap_or_default();
        return format!(
            "extension {extension:?} owed {phase} since {since:.0} and was given up: {error}; listed{until}, or until {cure}"
        );
    }
    let why = match obligation.reason {
        ObligationReason::CleanupFailed | ObligationReason::HookStillRunning => {
            format!("attempt {attempts} failed: {error}")
        }
        ObligationReason::Confirming => {
            "it succeeded and is called once more, because what it undoes may have been on its way".to_owned()
        }
    };
    format!(
        "extension {extension:?} owes {phase} since {since:.0}: {why}; next attempt at {:.0}; if what it cleans up is certainly gone: {cure}",
        obligation.next_attempt_at
    )
}

/// Brings a sandbox's condition in line with what is listed of it. One that owes nothing has no such condition.
pub(super) fn show_pending(conditions: &mut Vec<Condition>, listed: &[Obligation], now: Timestamp) {
    const KIND: &str = "CleanupPending";
    if listed.is_empty() {
        conditions.retain(|condition| condition.kind != KIND);
        return;
    }
    let open = listed.iter().find(|obligation| obligation.status == ObligationStatus::Open);
    let reason = match open.map(|obligation| obligation.reason) {
        Some(ObligationReason::CleanupFailed) => "CleanupFailed",
        Some(ObligationReason::HookStillRunning) => "HookStillRunning",
        Some(ObligationReason::Confirming) => "Confirming",
        None => "Abandoned",
    };
    let message = listed.iter().map(told).collect::<Vec<_>>().join("; ");
    let (kind, reason) = (KIND.to_owned(), reason.to_owned());
    set(conditions, Condition { kind, status: ConditionStatus::True, reason, message, last_transition: now });
}

impl Inner {
    /// Retries what is due, for ever.
    pub(super) async fn pay_obligations(self: Arc<Self>) {
        while !self.stop.is_cancelled() {
            let armed = self.book.armed();
            // A copy, so that no two locks are ever held at once.
            let held: HashSet<Subject> = self.held.lock().keys().cloned().collect();
            let (due, next) = self.book.due(&self.world, &held);
            if due.is_empty() {
                let pause = next.unwrap_or(Duration::from_mins(1)).min(Duration::from_mins(1));
                within(&*self.world.clock, pause, armed.cancelled()).await;
                continue;
            }
            for obligation in due {
                self.book.enter(&obligation);
                let inner = Arc::clone(&self);
                self.world.executor.spawn(Box::pin(async move {
                    if let Err(error) = inner.retry(&obligation).await {
                        tracing::debug!(obligation = %obligation.id, %error, "not retried now");
                    }
                    if inner.book.due_now(&obligation.id, &inner.world).is_some() {
                        // A subject that is busy is looked at again soon, not at once.
                        within(&*inner.world.clock, FIRST, inner.stop.cancelled()).await;
                    }
                    inner.book.leave(&obligation.id);
                }));
            }
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
                let given_up = give_up(obligation.clone(), self.world.clock.now());
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
        self.tell_pending(still.as_ref());
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
        writes.extend(still.iter().filter_map(|obligation| abandonment(obligation, POLICY, &self.inner.world)));
        let operation = Some(OperationKind::Cleanup);
        self.inner.journal.write(CommitKind::Outcome, operation, writes).await.map_err(store_error)?;
        let owed: Vec<Obligation> = still.into_iter().collect();
        self.inner.book.settle(&self.paid, &owed, &self.inner.world);
        // Told only now: whoever looks then must not find it still running.
        self.ticket.release();
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
}
