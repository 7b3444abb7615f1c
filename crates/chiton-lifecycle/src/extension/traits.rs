//! The trait.

use std::collections::BTreeMap;

use async_trait::async_trait;
use chiton_model::{CreateFailure, Ran, SandboxId, StartReason, StopReason};
use futures::future::BoxFuture;

use super::{Draft, Fence, HookContext, RequestContext, StepResult, WorkspaceContext};
use crate::plan::PlanView;

/// Values for the slots that an extension declared, by slot name.
pub type SlotValues = BTreeMap<String, String>;

/// An answer to a requested stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Approval {
    /// Go on.
    Approve,
    /// Do not; the reason is shown to the caller.
    Veto(String),
}

/// What a reconcile found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReconcileOutcome {
    /// Outside state is as saved.
    InSync,
    /// It is not, and was left so.
    Drift(String),
    /// It was not, and was mended. An error unless the operator's policy lets this extension mend.
    Repaired(String),
    /// It could not be looked at.
    Failed(String),
}

/// One page of what an extension holds outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeldPage {
    /// Sandboxes for which it holds something.
    pub ids: Vec<SandboxId>,
    /// Passed back for the next page; none after the last.
    pub next: Option<String>,
}

/// Code that takes part in the lifecycle of sandboxes, on every driver alike.
///
/// Rules that every method keeps: any hook may be called again after a crash; effects are keyed by
/// [`HookContext::idempotency_key`], never by the sandbox's name; cleanup works without saved state and when the action
/// never ran; no work is left running when the returned future ends.
#[async_trait]
#[allow(unused_variables)]
pub trait Extension: Send + Sync + 'static {
    /// Whether it can work now; a reason and the time since when make new creates that need it fail early.
    fn unhealthy_since(&self) -> Option<(jiff::Timestamp, String)> {
        None
    }

    /// For an extension whose hooks run outside of this process: resolves when nothing runs any more of what is named, and
    /// none of it can begin; waits as long as that takes. None, as it is in process: a hook is over when its future is
    /// dropped (lifecycle rule 6a).
    fn fence(&self, what: Fence) -> Option<BoxFuture<'static, ()>> {
        None
    }

    /// Whether its hooks with effects only ever wait for others and never block a thread. They then run among the engine's
    /// own tasks and save the way to the hooks' threads and back. No, unless the extension is sure of it.
    fn only_waits(&self) -> bool {
        false
    }

    /// Looks at a request. No effects.
    async fn validate_request(&self, cx: &RequestContext) -> StepResult {
        Ok(())
    }

    /// Writes plan fields and declares slots. Pure: the same request gives the same writes in any process.
    async fn prepare_plan(&self, cx: &RequestContext, draft: &mut Draft) -> StepResult {
        Ok(())
    }

    /// Looks at the merged plan. No effects.
    async fn validate_plan(&self, cx: &RequestContext, plan: &PlanView) -> StepResult {
        Ok(())
    }

    /// Allocates; returns exactly the slots that it declared. Undone by `on_create_failed` or `after_delete`.
    async fn before_create(&self, cx: &HookContext) -> StepResult<SlotValues> {
        Ok(SlotValues::new())
    }

    /// Acts on the created, unstarted object. Undone by `on_create_failed` or `after_delete`.
    async fn after_create(&self, cx: &HookContext) -> StepResult {
        Ok(())
    }

    /// Acts before a start. Undone by `after_stop`.
    async fn before_start(&self, cx: &HookContext, reason: StartReason) -> StepResult {
        Ok(())
    }

    /// Acts on a running sandbox. Undone by `after_stop`.
    async fn after_ready(&self, cx: &HookContext, reason: StartReason) -> StepResult {
        Ok(())
    }

    /// May veto a stop or suspend that somebody asked for. No effects.
    async fn approve_stop(&self, cx: &HookContext, reason: StopReason) -> StepResult<Approval> {
        Ok(Approval::Approve)
    }

    /// Acts before a stop. Owes nothing.
    async fn before_stop(&self, cx: &HookContext, reason: StopReason) -> StepResult {
        Ok(())
    }

    /// Cleanup of `before_start` and `after_ready`; the sandbox is confirmed stopped.
    async fn after_stop(&self, cx: &HookContext, ran: Ran, reason: StopReason) -> StepResult {
        Ok(())
    }

    /// Cleanup of `before_create` and `after_create` when the create failed; the object is confirmed absent.
    async fn on_create_failed(&self, cx: &HookContext, ran: Ran, failure: &CreateFailure) -> StepResult {
        Ok(())
    }

    /// Acts before a delete. Owes nothing.
    async fn before_delete(&self, cx: &HookContext) -> StepResult {
        Ok(())
    }

    /// Cleanup of `before_create` and `after_create` of a sandbox that was created; the object is confirmed absent.
    async fn after_delete(&self, cx: &HookContext, ran: Ran) -> StepResult {
        Ok(())
    }

    /// Compares outside state with saved state.
    async fn reconcile(&self, cx: &HookContext) -> ReconcileOutcome {
        ReconcileOutcome::InSync
    }

    /// Names the sandboxes for which it holds something outside, page by page.
    async fn held(&self, page: Option<String>) -> StepResult<HeldPage> {
        Ok(HeldPage::default())
    }

    /// Frees what it holds for sandboxes that are certainly gone.
    async fn release(&self, ids: &[SandboxId]) -> StepResult {
        Ok(())
    }

    /// Prepares a workspace, before its first sandbox on a driver. Undone by `release_workspace`.
    async fn ensure_workspace(&self, cx: &WorkspaceContext) -> StepResult {
        Ok(())
    }

    /// Cleanup of `ensure_workspace`.
    async fn release_workspace(&self, cx: &WorkspaceContext, ran: Ran) -> StepResult {
        Ok(())
    }
}
