//! Paying debts: every cleanup is attempted once in its operation; what fails is listed and retried (rules 3 and 4).

use std::sync::Arc;

use chiton_model::condition::kinds;
use chiton_model::{ConditionStatus, CreateFailure, Phase, Ran, StopReason};

use super::chain::Link;
use super::obligations::{give_up, show_pending};
use super::run::{Call, Run};
use crate::journal::{Debt, Obligation, ObligationReason, ObligationStatus, StepKey, StepStatus};

/// What a cleanup hook is told besides what ran.
#[derive(Clone)]
pub(super) enum Why {
    Stopped(StopReason),
    Failed(Arc<CreateFailure>),
    Deleted,
}

impl Why {
    pub(super) fn call(&self, ran: Ran) -> Call {
        match self {
            Self::Stopped(reason) => Call::AfterStop(ran, *reason),
            Self::Failed(failure) => Call::OnCreateFailed(ran, Arc::clone(failure)),
            Self::Deleted => Call::AfterDelete(ran),
        }
    }

    /// What an obligation remembers, so that a retry is told the same.
    pub(super) fn recall(obligation: &Obligation) -> Self {
        match (obligation.debt.phase, obligation.stop_reason, &obligation.failure) {
            (Phase::AfterStop, reason, _) => Self::Stopped(reason.unwrap_or(StopReason::Request)),
            (Phase::OnCreateFailed, _, Some(failure)) => Self::Failed(Arc::new(failure.clone())),
            (Phase::OnCreateFailed, _, None) => Self::Failed(Arc::new(CreateFailure {
                step: "unknown".to_owned(),
                extension: None,
                cause: "not recorded".to_owned(),
            })),
            _ => Self::Deleted,
        }
    }
}

/// How a payment ended.
pub(super) enum Paid {
    Yes,
    Owed(ObligationReason, String),
}

impl Run {
    /// Pays debts last to first, each once. What is not paid stays a debt and becomes an obligation.
    pub(super) async fn pay(&mut self, debts: Vec<Debt>, why: &Why) {
        for debt in debts.into_iter().rev() {
            let step = StepKey::hook(debt.phase, &debt.extension);
            if self.steps.recovered && self.steps.status.get(&step) == Some(&StepStatus::Completed) {
                // The mark of the payment outlived the crash. Of an action that may have been on its way it says less: it
                // may have taken hold since.
                if self.must_confirm(&debt) {
                    self.owe(debt, why, ObligationReason::Confirming, String::new());
                } else {
                    self.settle(&debt);
                }
                continue;
            }
            match self.pay_one(&debt, why).await {
                Paid::Yes => self.settle(&debt),
                Paid::Owed(reason, error) => self.owe(debt, why, reason, error),
            }
        }
    }

    pub(super) async fn pay_one(&mut self, debt: &Debt, why: &Why) -> Paid {
        if self.steps.still_running(&debt.extension) {
            return Paid::Owed(ObligationReason::HookStillRunning, "hook still running".to_owned());
        }
        let Some(link) = self.chain.iter().find(|link| *link.name() == debt.extension).cloned() else {
            return Paid::Owed(ObligationReason::CleanupFailed, "the extension is not compiled in".to_owned());
        };
        match self.call(&link, why.call(debt.ran)).await {
            Ok(_) if self.must_confirm(debt) => Paid::Owed(ObligationReason::Confirming, String::new()),
            Ok(_) => Paid::Yes,
            Err(failure) => Paid::Owed(ObligationReason::CleanupFailed, failure.message()),
        }
    }

    /// Whether one success is not enough: after a crash an effect may still be on its way (rule 6a), until one hook
    /// deadline has passed.
    fn must_confirm(&self, debt: &Debt) -> bool {
        let local = self.chain.iter().any(|link| *link.name() == debt.extension && link.descriptor.local_effects);
        let id = obligation_id(&self.sandbox.subject().to_string(), debt);
        let waiting = self.inner.book.confirming(&id, &self.inner.world).is_some_and(|left| !left.is_zero());
        waiting || (self.steps.recovered && debt.ran == Ran::Maybe && !local)
    }

    /// Whether the operator gave up whatever this extension owes.
    pub(super) fn is_abandoned(&self, debt: &Debt) -> bool {
        self.inner.registry.get(&debt.extension).is_none() && self.inner.policy(&debt.extension).abandon
    }

    /// Takes a debt off the record.
    pub(super) fn drop_debt(&mut self, debt: &Debt) {
        self.sandbox.debts.retain(|other| !(other.extension == debt.extension && other.phase == debt.phase));
    }

    /// Takes a paid debt off the record.
    pub(super) fn settle(&mut self, debt: &Debt) {
        self.drop_debt(debt);
        let id = obligation_id(&self.sandbox.subject().to_string(), debt);
        if self.inner.book.has(&id) {
            self.paid.push(id);
        }
    }

    /// Keeps an unpaid debt on the record and lists it.
    fn owe(&mut self, debt: Debt, why: &Why, reason: ObligationReason, error: String) {
        let now = self.inner.world.clock.now();
        let abandoned = self.is_abandoned(&debt);
        let id = obligation_id(&self.sandbox.subject().to_string(), &debt);
        let next_attempt_at = match (reason, self.inner.book.confirming(&id, &self.inner.world)) {
            // Paying early does not put the confirmation off.
            (ObligationReason::Confirming, Some(left)) => super::obligations::later(now, left),
            (ObligationReason::Confirming, None) => {
                super::obligations::later(now, self.inner.policy(&debt.extension).deadline)
            }
            _ => super::obligations::later(now, super::obligations::backoff(&self.inner.world, 0)),
        };
        if abandoned {
            // Listed and audited, but nothing waits for it any more.
            self.drop_debt(&debt);
        } else if !self.sandbox.debts.contains(&debt) {
            self.sandbox.debts.push(debt.clone());
        }
        // One that is listed already stays as old as it is, and this was one more attempt.
        let listed = self.inner.book.get(&id).filter(|listed| listed.status == ObligationStatus::Open);
        let obligation = Obligation {
            id,
            subject: self.sandbox.subject(),
            name: self.sandbox.name.to_string(),
            debt,
            reason,
            status: ObligationStatus::Open,
            stop_reason: match why {
                Why::Stopped(reason) => Some(*reason),
                _ => None,
            },
            failure: match why {
                Why::Failed(failure) => Some((**failure).clone()),
                _ => None,
            },
            operation: self.op.id.clone(),
            opened_at: listed.as_ref().map_or(now, |listed| listed.opened_at),
            attempts: listed.map_or(0, |listed| listed.attempts).saturating_add(1),
            last_error: error,
            next_attempt_at,
            expires_at: None,
        };
        self.owed.push(if abandoned { give_up(obligation, now) } else { obligation });
    }

    /// The condition says what is listed of this sandbox once this operation's outcome is stored. `still`: what a retry
    /// leaves open.
    pub(super) fn tell_pending(&mut self, still: Option<&Obligation>) {
        let news: Vec<&Obligation> = self.owed.iter().chain(still).collect();
        let mut listed = self.inner.book.of(&self.sandbox.subject());
        listed.retain(|old| !self.paid.contains(&old.id) && !news.iter().any(|new| new.id == old.id));
        listed.extend(news.into_iter().cloned());
        show_pending(&mut self.sandbox.conditions, &listed, self.inner.world.clock.now());
    }

    /// The debts of one kind that are on the record, in chain order: a cleanup that failed put its debt at the end.
    pub(super) fn open_debts(&self, phase: Phase) -> Vec<Debt> {
        let place = |debt: &Debt| self.sandbox.chain.iter().position(|entry| entry.name == debt.extension);
        let mut debts: Vec<Debt> = self.sandbox.debts.iter().filter(|debt| debt.phase == phase).cloned().collect();
        debts.sort_by_key(place);
        debts
    }

    /// Runs a phase in which failures become conditions and nothing is owed.
    pub(super) async fn announce(&mut self, make: impl Fn() -> Call) {
        let phase = make().phase();
        let links: Vec<Arc<Link>> = self
            .chain
            .iter()
            .rev()
            .filter(|link| !link.entry.observe && link.descriptor.takes_part(phase))
            .cloned()
            .collect();
        for link in links {
            let done = self.steps.status.get(&StepKey::hook(phase, link.name())) == Some(&StepStatus::Completed);
            if self.steps.recovered && done {
                continue;
            }
            if let Err(failure) = self.call(&link, make()).await {
                let message = format!("extension {:?} failed in {phase}: {}", link.name().as_str(), failure.message());
                self.condition(kinds::EXTENSION_DEGRADED, ConditionStatus::True, "HookFailed", message);
            }
        }
    }
}

/// One debt has one obligation: the id says whose and which.
pub(super) fn obligation_id(subject: &str, debt: &Debt) -> String {
    format!("{subject}/{}/{}", debt.extension, debt.phase)
}
