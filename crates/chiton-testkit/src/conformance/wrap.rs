//! The author's extension with the kit around it: calls go wrong as the rig says, and everything is watched.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use chiton_lifecycle::extension::{
    Approval, Draft, Extension, Fence, HeldPage, HookContext, HookCore, HookProbe, ReconcileOutcome, RequestContext,
    SlotValues, StepError, StepResult, WorkspaceContext,
};
use chiton_lifecycle::plan::PlanView;
use chiton_lifecycle::runtime::CancelToken;
use chiton_model::{CreateFailure, Phase, Ran, SandboxId, StartReason, StopReason};
use futures::future::BoxFuture;

use super::Rule;
use super::rig::{Fault, Ill, Moment, Rig};
use super::watch::{Came, Kept, Probe, Watch, patiently, threads_of_this_one};
use crate::extension::HookGuard;
use crate::ledger::{End, Hook, Ledger, What};
use crate::world::Process;

/// The wrapped extension in one process.
pub(super) struct Wrapped {
    pub(super) author: Arc<dyn Extension>,
    pub(super) rig: Rig,
    pub(super) ledger: Ledger,
    pub(super) process: Process,
    /// The config's `tag`, if it has one: the ledger compares it with the frozen config.
    pub(super) tag: String,
    /// The author's extension is in another process.
    pub(super) elsewhere: bool,
}

/// A context that can be seen through a probe.
trait Watched: Deref<Target = HookCore> + Send + Sync + Sized {
    fn through(&self, probe: Arc<dyn HookProbe>, cancel: CancelToken) -> Self;
}

impl Watched for HookContext {
    fn through(&self, probe: Arc<dyn HookProbe>, cancel: CancelToken) -> Self {
        self.probed(probe, cancel)
    }
}

impl Watched for WorkspaceContext {
    fn through(&self, probe: Arc<dyn HookProbe>, cancel: CancelToken) -> Self {
        self.probed(probe, cancel)
    }
}

#[derive(Default)]
struct Told {
    ran: Option<Ran>,
    reason: Option<String>,
}

fn because(reason: &impl ToString) -> Told {
    Told { ran: None, reason: Some(reason.to_string()) }
}

impl Wrapped {
    fn watch(&self, core: Option<&HookCore>, phase: Phase, call: u64, pure: Option<Rule>) -> Arc<Watch> {
        Arc::new(Watch {
            rig: self.rig.clone(),
            ledger: self.ledger.clone(),
            process: self.process.clone(),
            subject: core.map(|core| core.subject().clone()),
            phase,
            call,
            pure,
            slow: AtomicBool::new(false),
            disturbed: AtomicBool::new(false),
            under_way: AtomicUsize::new(0),
            elsewhere: self.elsewhere,
        })
    }

    /// Goes wrong as it is told; never answers success.
    async fn go_wrong(&self, ill: Ill, cancel: Option<&CancelToken>) -> StepError {
        self.rig.hit();
        match ill {
            Ill::Retry | Ill::Drop | Ill::Repeat => {
                StepError::Retryable { message: "the kit wants it again".to_owned(), after: None }
            }
            // Without the panic hook: what the kit does is no news.
            Ill::Panic => std::panic::resume_unwind(Box::new("the kit makes it panic")),
            Ill::Cancel => {
                self.rig.wait_for_cancel();
                if let Some(cancel) = cancel {
                    cancel.cancelled().await;
                }
                StepError::fatal("the kit saw it cancelled")
            }
            Ill::Crash | Ill::CrashLate => {
                if ill == Ill::CrashLate {
                    self.process.world().sleep(Duration::from_millis(1)).await;
                }
                self.process.world().kill();
                std::future::pending().await
            }
            Ill::TimeOut | Ill::SlowWork => std::future::pending().await,
            Ill::Fail => StepError::fatal("the kit makes it fail"),
        }
    }

    /// Calls the author's hook once, with a fault inside it or none.
    async fn once<C, T, F>(&self, cx: &C, call: u64, fault: Option<Fault>, make: &F) -> StepResult<T>
    where
        C: Watched,
        T: Send,
        F: for<'a> Fn(&'a dyn Extension, &'a C) -> BoxFuture<'a, StepResult<T>> + Send + Sync,
    {
        let core: &HookCore = cx;
        let phase = core.phase();
        let pure = match phase {
            Phase::ApproveStop => Some(Rule::Pure),
            Phase::Reconcile if !core.may_repair() => Some(Rule::Reconcile),
            _ => None,
        };
        let watch = self.watch(Some(core), phase, call, pure);
        let stop_at = match fault {
            Some(Fault { ill: Ill::SlowWork, .. }) => {
                watch.slow.store(true, Ordering::Release);
                None
            }
            Some(Fault { moment: Moment::Inside(n), .. }) => Some(n),
            _ => None,
        };
        // While the hook runs on by itself, it may see that it should end.
        let cancel = core.cancel().clone();
        let seen = cx.through(Arc::new(Probe(Arc::clone(&watch))), cancel.clone());
        let mut kept = Kept::new(make(&*self.author, &seen), Arc::clone(&watch), stop_at);
        let result = match (&mut kept).await {
            Came::Back(result) => result,
            Came::Stopped => {
                let ill = fault.map_or(Ill::Drop, |fault| fault.ill);
                if ill == Ill::Drop {
                    drop(kept);
                    if let Some(fence) = self.fence(Fence::Step(core.step())) {
                        fence.await;
                    }
                    return Err(self.go_wrong(ill, None).await);
                }
                return Err(self.go_wrong(ill, Some(&cancel)).await);
            }
        };
        self.process.live().await;
        let disturbed = watch.disturbed.load(Ordering::Acquire) || cancel.is_cancelled();
        match &result {
            Ok(_) if watch.under_way.load(Ordering::Acquire) > 0 => {
                self.rig.find(Rule::Detached, format!("{phase} returned and its blocking work goes on"));
            }
            Err(error) if !disturbed && !matches!(error, StepError::Retryable { .. }) => {
                self.rig.find(self.blame(phase), format!("{phase} failed: {error}"));
            }
            _ => {}
        }
        if self.rig.watches_threads(phase) {
            let threads = threads_of_this_one();
            if threads > 0 {
                self.rig.find(Rule::Detached, format!("{phase} returned and {threads} threads that it began go on"));
            }
        }
        result
    }

    /// Which rule a hook's own failure breaks, by what was done before.
    fn blame(&self, phase: Phase) -> Rule {
        if self.rig.is_withheld(phase) {
            Rule::Stateless
        } else if self.rig.was_hit() && phase.is_cleanup() {
            Rule::Nothing
        } else if self.rig.was_hit() {
            Rule::Again
        } else {
            Rule::Calm
        }
    }

    async fn act<C, T, F>(&self, cx: &C, call: u64, make: F) -> StepResult<T>
    where
        C: Watched,
        T: Send + PartialEq + Debug,
        F: for<'a> Fn(&'a dyn Extension, &'a C) -> BoxFuture<'a, StepResult<T>> + Send + Sync,
    {
        let core: &HookCore = cx;
        let phase = core.phase();
        let fault = self.rig.next(phase);
        if let Some(Fault { moment: Moment::Before, ill, .. }) = fault {
            return Err(self.go_wrong(ill, Some(core.cancel())).await);
        }
        let value = self.once(cx, call, fault, &make).await?;
        let Some(Fault { moment: Moment::After, ill, .. }) = fault else { return Ok(value) };
        if ill == Ill::SlowWork {
            return Ok(value);
        }
        if ill != Ill::Repeat {
            return Err(self.go_wrong(ill, Some(core.cancel())).await);
        }
        self.rig.hit();
        let before = self.rig.of(core.subject());
        let again = self.once(cx, call, None, &make).await?;
        if again != value {
            self.rig.find(Rule::Again, format!("{phase} answered {value:?}, and when it was called again {again:?}"));
        }
        let after = self.rig.of(core.subject());
        if after != before {
            let what = format!("after {phase} it holds {before:?}, and when it was called again {after:?}");
            self.rig.find(Rule::Again, what);
        }
        Ok(again)
    }

    /// A hook with a context, written to the ledger as every hook is.
    async fn hook<C, T, F>(&self, cx: &C, told: Told, make: F) -> StepResult<T>
    where
        C: Watched,
        T: Send + PartialEq + Debug,
        F: for<'a> Fn(&'a dyn Extension, &'a C) -> BoxFuture<'a, StepResult<T>> + Send + Sync,
    {
        self.process.live().await;
        let core: &HookCore = cx;
        let call = self.ledger.next_call();
        let begun = What::HookBegin(Hook {
            call,
            extension: core.extension().clone(),
            phase: core.phase(),
            subject: core.subject().clone(),
            operation: core.operation().clone(),
            attempt: core.attempt(),
            ran: told.ran,
            reason: told.reason,
            tag: self.tag.clone(),
        });
        self.ledger.by(&self.process, begun);
        let mut guard = HookGuard::new(&self.ledger, &self.process, call);
        self.process.live().await;
        let result = self.act(cx, call, make).await;
        self.process.live().await;
        guard.end(match &result {
            Ok(_) => End::Succeeded,
            Err(error) => End::Failed(error.to_string()),
        });
        result
    }

    /// A call without a subject: nothing of the world may change by it, `release` apart.
    async fn bare<T, F>(&self, phase: Phase, pure: Option<Rule>, make: F) -> StepResult<T>
    where
        T: Send,
        F: FnOnce() -> BoxFuture<'static, StepResult<T>> + Send,
    {
        self.process.live().await;
        self.ledger.by(&self.process, What::Look { extension: self.rig.extension().clone(), phase });
        self.process.live().await;
        let fault = self.rig.next(phase);
        if let Some(Fault { moment: Moment::Before, ill, .. }) = fault {
            return Err(self.go_wrong(ill, None).await);
        }
        let watch = self.watch(None, phase, 0, pure);
        let mut kept = Kept::new(make(), Arc::clone(&watch), None);
        let Came::Back(result) = (&mut kept).await else { return Err(StepError::fatal("the kit stopped it")) };
        self.process.live().await;
        if let Err(error) = &result
            && !matches!(error, StepError::Retryable { .. })
        {
            self.rig.find(self.blame(phase), format!("{phase} failed: {error}"));
        }
        if self.rig.watches_threads(phase) && threads_of_this_one() > 0 {
            self.rig.find(Rule::Detached, format!("{phase} returned and threads that it began go on"));
        }
        match fault {
            Some(Fault { moment: Moment::After, ill, .. }) if result.is_ok() => Err(self.go_wrong(ill, None).await),
            _ => result,
        }
    }

    fn check_slots(&self, values: &SlotValues) {
        let (filled, declared): (BTreeSet<String>, _) = (values.keys().cloned().collect(), self.rig.declared());
        if filled != declared {
            let what = format!("prepare_plan declared slots {declared:?}, before_create filled {filled:?}");
            self.rig.find(Rule::Slots, what);
        }
    }
}

#[async_trait]
impl Extension for Wrapped {
    fn unhealthy_since(&self) -> Option<(jiff::Timestamp, String)> {
        self.author.unhealthy_since()
    }

    fn only_waits(&self) -> bool {
        self.author.only_waits()
    }

    fn fence(&self, what: Fence) -> Option<BoxFuture<'static, ()>> {
        let mut fence = self.author.fence(what)?;
        Some(Box::pin(std::future::poll_fn(move |cx| patiently(&mut fence, cx))))
    }

    async fn validate_request(&self, cx: &RequestContext) -> StepResult {
        let (author, cx) = (Arc::clone(&self.author), cx.clone());
        let make =
            move || -> BoxFuture<'static, StepResult> { Box::pin(async move { author.validate_request(&cx).await }) };
        self.bare(Phase::ValidateRequest, Some(Rule::Pure), make).await
    }

    async fn prepare_plan(&self, cx: &RequestContext, draft: &mut Draft) -> StepResult {
        let (author, cx, mut own) = (Arc::clone(&self.author), cx.clone(), draft.clone());
        let make = move || -> BoxFuture<'static, StepResult<Draft>> {
            Box::pin(async move { author.prepare_plan(&cx, &mut own).await.map(|()| own) })
        };
        let written = self.bare(Phase::PreparePlan, Some(Rule::Pure), make).await?;
        self.rig.declare(written.slots().map(|(name, _)| name.to_owned()).collect());
        *draft = written;
        Ok(())
    }

    async fn validate_plan(&self, cx: &RequestContext, plan: &PlanView) -> StepResult {
        let (author, cx, plan) = (Arc::clone(&self.author), cx.clone(), plan.clone());
        let make = move || -> BoxFuture<'static, StepResult> {
            Box::pin(async move { author.validate_plan(&cx, &plan).await })
        };
        self.bare(Phase::ValidatePlan, Some(Rule::Pure), make).await
    }

    async fn before_create(&self, cx: &HookContext) -> StepResult<SlotValues> {
        let values = self.hook(cx, Told::default(), |author, cx| author.before_create(cx)).await?;
        self.check_slots(&values);
        Ok(values)
    }

    async fn after_create(&self, cx: &HookContext) -> StepResult {
        self.hook(cx, Told::default(), |author, cx| author.after_create(cx)).await
    }

    async fn before_start(&self, cx: &HookContext, reason: StartReason) -> StepResult {
        self.hook(cx, because(&reason), move |author, cx| author.before_start(cx, reason)).await
    }

    async fn after_ready(&self, cx: &HookContext, reason: StartReason) -> StepResult {
        self.hook(cx, because(&reason), move |author, cx| author.after_ready(cx, reason)).await
    }

    async fn approve_stop(&self, cx: &HookContext, reason: StopReason) -> StepResult<Approval> {
        self.hook(cx, because(&reason), move |author, cx| author.approve_stop(cx, reason)).await
    }

    async fn before_stop(&self, cx: &HookContext, reason: StopReason) -> StepResult {
        self.hook(cx, because(&reason), move |author, cx| author.before_stop(cx, reason)).await
    }

    async fn after_stop(&self, cx: &HookContext, ran: Ran, reason: StopReason) -> StepResult {
        let seen = self.rig.told(ran);
        let told = Told { ran: Some(ran), reason: Some(reason.to_string()) };
        self.hook(cx, told, move |author, cx| author.after_stop(cx, seen, reason)).await
    }

    async fn on_create_failed(&self, cx: &HookContext, ran: Ran, failure: &CreateFailure) -> StepResult {
        let seen = self.rig.told(ran);
        let told = Told { ran: Some(ran), reason: Some(failure.step.clone()) };
        let failure = Arc::new(failure.clone());
        self.hook(cx, told, move |author, cx| {
            let failure = Arc::clone(&failure);
            Box::pin(async move { author.on_create_failed(cx, seen, &failure).await })
        })
        .await
    }

    async fn before_delete(&self, cx: &HookContext) -> StepResult {
        self.hook(cx, Told::default(), |author, cx| author.before_delete(cx)).await
    }

    async fn after_delete(&self, cx: &HookContext, ran: Ran) -> StepResult {
        let seen = self.rig.told(ran);
        let told = Told { ran: Some(ran), reason: None };
        self.hook(cx, told, move |author, cx| author.after_delete(cx, seen)).await
    }

    async fn reconcile(&self, cx: &HookContext) -> ReconcileOutcome {
        let outcome = self
            .hook(cx, Told::default(), |author, cx| Box::pin(async move { Ok(author.reconcile(cx).await) }))
            .await
            .unwrap_or_else(|error| ReconcileOutcome::Failed(error.to_string()));
        if matches!(outcome, ReconcileOutcome::Repaired(_)) && !cx.may_repair() {
            self.rig.find(Rule::Reconcile, format!("it answered {outcome:?} and may only look"));
        }
        outcome
    }

    async fn held(&self, page: Option<String>) -> StepResult<HeldPage> {
        let author = Arc::clone(&self.author);
        let make =
            move || -> BoxFuture<'static, StepResult<HeldPage>> { Box::pin(async move { author.held(page).await }) };
        self.bare(Phase::Sweep, Some(Rule::Sweep), make).await
    }

    async fn release(&self, ids: &[SandboxId]) -> StepResult {
        self.ledger.by(&self.process, What::Sweep { extension: self.rig.extension().clone(), ids: ids.to_vec() });
        let (author, ids) = (Arc::clone(&self.author), ids.to_vec());
        let make = move || -> BoxFuture<'static, StepResult> { Box::pin(async move { author.release(&ids).await }) };
        self.bare(Phase::Sweep, None, make).await
    }

    async fn ensure_workspace(&self, cx: &WorkspaceContext) -> StepResult {
        self.hook(cx, Told::default(), |author, cx| author.ensure_workspace(cx)).await
    }

    async fn release_workspace(&self, cx: &WorkspaceContext, ran: Ran) -> StepResult {
        let seen = self.rig.told(ran);
        let told = Told { ran: Some(ran), reason: None };
        self.hook(cx, told, move |author, cx| author.release_workspace(cx, seen)).await
    }
}
