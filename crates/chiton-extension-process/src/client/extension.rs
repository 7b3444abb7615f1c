//! An extension of the process under one config.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chiton_lifecycle::extension::{
    Approval, Draft, Extension, Fence, HeldPage, HookContext, ReconcileOutcome, RequestContext, SlotValues, StepError,
    StepResult, WorkspaceContext,
};
use chiton_lifecycle::plan::PlanView;
use chiton_model::{CreateFailure, Ran, SandboxId, StartReason, StopReason};
use futures::future::BoxFuture;
use jiff::Timestamp;
use parking_lot::Mutex;
use tonic::{Code, Response, Status};

use super::link::{Link, Unconfigured, told};
use super::process::{Process, Shared};
use super::run::{Begun, wrong_answer};
use crate::proto::run_result::Outcome;
use crate::proto::{
    CreateFailureView, ExtensionHealthResponse, HeldRequest, MergedPlan, PrepareHookRequest, ReleaseRequest,
    RunArguments, ValidateHookRequest, reconcile_view,
};
use crate::wire;

/// Between two attempts of a hook while its process is down.
const DOWN: Duration = Duration::from_millis(500);

/// A config, and what is known of it in the process.
pub(super) struct Instance {
    pub(super) digest: String,
    pub(super) document: String,
    /// Names this life of the gateway to the process. Every life builds its instances anew.
    pub(super) run: String,
    pub(super) ill: Mutex<Option<(Timestamp, String)>>,
    /// Steps that were sent and of which no definite answer came.
    pub(super) begun: Mutex<HashMap<u64, Begun>>,
}

impl Instance {
    pub(super) fn new(digest: String, document: String) -> Self {
        let run = format!("{:032x}", rand::random::<u128>());
        Self { digest, document, run, ill: Mutex::default(), begun: Mutex::default() }
    }

    pub(super) fn take_health(&self, state: &ExtensionHealthResponse) {
        if state.healthy {
            *self.ill.lock() = None;
            return;
        }
        let since = Some(state.since_unix_ms).filter(|since| *since != 0);
        let since = since.and_then(|since| Timestamp::from_millisecond(since).ok()).unwrap_or_else(Timestamp::now);
        *self.ill.lock() = Some((since, wire::said(&state.reason)));
    }

    /// It cannot work, as this side found out.
    pub(super) fn ail(&self, why: String) {
        self.ill.lock().get_or_insert_with(|| (Timestamp::now(), String::new())).1 = why;
    }
}

/// Suspects the process when a call is given up without an answer.
pub(super) struct Unanswered<'a>(Option<&'a Shared>);

impl<'a> Unanswered<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        Self(Some(shared))
    }

    pub(super) fn answered(mut self) {
        self.0 = None;
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if let Some(shared) = self.0 {
            shared.suspect();
        }
    }
}

pub(super) struct RemoteExtension {
    pub(super) process: Process,
    pub(super) instance: Arc<Instance>,
}

impl RemoteExtension {
    /// The connection and the process's name for this instance.
    pub(super) async fn reach(&self) -> StepResult<(Arc<Link>, String)> {
        let shared = &self.process.shared;
        let link = shared.link().map_err(|(since, why)| {
            let message = format!("its process has not been usable since {since}: {why}");
            // Not less and less often: it is back at once when its supervisor starts it again.
            StepError::Retryable { message, after: Some(DOWN) }
        })?;
        match link.instance(&self.instance).await {
            Ok(id) => Ok((link, id)),
            Err(why @ Unconfigured::Unasked(_)) => Err(StepError::retryable(why.to_string())),
            Err(why @ Unconfigured::Refused(_)) => Err(StepError::fatal(why.to_string())),
        }
    }

    /// A call without a step. Asked once more when the process did not know the instance.
    async fn ask<T, F>(&self, call: impl Fn(Arc<Link>, String) -> F + Send + Sync) -> StepResult<T>
    where
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        let unanswered = Unanswered::new(&self.process.shared);
        let (mut link, mut id) = self.reach().await?;
        let mut answer = call(Arc::clone(&link), id).await;
        if matches!(&answer, Err(status) if status.code() == Code::NotFound) {
            link.forget(&self.instance);
            (link, id) = self.reach().await?;
            answer = call(link, id).await;
        }
        unanswered.answered();
        answer.map(Response::into_inner).map_err(|status| status_error(&status))
    }

    async fn validate(&self, cx: &RequestContext, plan: Option<MergedPlan>) -> StepResult {
        let preview = wire::preview(cx);
        let answer = self.ask(|link, instance_id| {
            let (preview, plan) = (Some(preview.clone()), plan.clone());
            async move { link.client.clone().validate(ValidateHookRequest { instance_id, preview, plan }).await }
        });
        answer.await?.failure.map_or(Ok(()), |failure| Err(wire::read_failure(&failure)))
    }

    async fn plain(&self, cx: &HookContext, arguments: RunArguments) -> StepResult {
        match self.about_sandbox(cx, arguments).await? {
            Outcome::Done(_) => Ok(()),
            other => Err(wrong_answer(&other)),
        }
    }
}

/// What a status says when no step had begun, or none there was.
pub(super) fn status_error(status: &Status) -> StepError {
    match status.code() {
        Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::Unknown => {
            StepError::retryable(format!("its process did not answer: {}", told(status)))
        }
        _ => StepError::fatal(format!("its process refused the call: {}", told(status))),
    }
}

fn because(reason: &impl ToString) -> RunArguments {
    RunArguments { reason: reason.to_string(), ..RunArguments::default() }
}

#[async_trait]
impl Extension for RemoteExtension {
    fn unhealthy_since(&self) -> Option<(Timestamp, String)> {
        self.process.shared.link().err().or_else(|| self.instance.ill.lock().clone())
    }

    /// What may block is in the process.
    fn only_waits(&self) -> bool {
        true
    }

    fn fence(&self, what: Fence) -> Option<BoxFuture<'static, ()>> {
        Some(self.fenced(what))
    }

    async fn validate_request(&self, cx: &RequestContext) -> StepResult {
        self.validate(cx, None).await
    }

    async fn prepare_plan(&self, cx: &RequestContext, draft: &mut Draft) -> StepResult {
        let (preview, plan_json) = (wire::preview(cx), draft.json().to_string());
        let answer = self.ask(|link, instance_id| {
            let (preview, plan_json) = (Some(preview.clone()), plan_json.clone());
            async move { link.client.clone().prepare(PrepareHookRequest { instance_id, preview, plan_json }).await }
        });
        let answer = answer.await?;
        match &answer.failure {
            Some(failure) => Err(wire::read_failure(failure)),
            None => wire::apply(answer, draft),
        }
    }

    async fn validate_plan(&self, cx: &RequestContext, plan: &PlanView) -> StepResult {
        let merged = MergedPlan { plan_json: plan.plan.to_string(), owners: wire::owners(&plan.owners) };
        self.validate(cx, Some(merged)).await
    }

    async fn before_create(&self, cx: &HookContext) -> StepResult<SlotValues> {
        match self.about_sandbox(cx, RunArguments::default()).await? {
            Outcome::Slots(slots) => Ok(slots.values.into_iter().collect()),
            Outcome::Done(_) => Ok(SlotValues::new()),
            other => Err(wrong_answer(&other)),
        }
    }

    async fn after_create(&self, cx: &HookContext) -> StepResult {
        self.plain(cx, RunArguments::default()).await
    }

    async fn before_start(&self, cx: &HookContext, reason: StartReason) -> StepResult {
        self.plain(cx, because(&reason)).await
    }

    async fn after_ready(&self, cx: &HookContext, reason: StartReason) -> StepResult {
        self.plain(cx, because(&reason)).await
    }

    async fn approve_stop(&self, cx: &HookContext, reason: StopReason) -> StepResult<Approval> {
        match self.about_sandbox(cx, because(&reason)).await? {
            Outcome::Done(_) => Ok(Approval::Approve),
            Outcome::Veto(why) => Ok(Approval::Veto(wire::said(&why))),
            other => Err(wrong_answer(&other)),
        }
    }

    async fn before_stop(&self, cx: &HookContext, reason: StopReason) -> StepResult {
        self.plain(cx, because(&reason)).await
    }

    async fn after_stop(&self, cx: &HookContext, ran: Ran, reason: StopReason) -> StepResult {
        self.plain(cx, RunArguments { ran: ran.to_string(), ..because(&reason) }).await
    }

    async fn on_create_failed(&self, cx: &HookContext, ran: Ran, failure: &CreateFailure) -> StepResult {
        let failure = Some(CreateFailureView {
            step: failure.step.clone(),
            extension: failure.extension.clone().unwrap_or_default(),
            cause: failure.cause.clone(),
        });
        self.plain(cx, RunArguments { ran: ran.to_string(), failure, ..RunArguments::default() }).await
    }

    async fn before_delete(&self, cx: &HookContext) -> StepResult {
        self.plain(cx, RunArguments::default()).await
    }

    async fn after_delete(&self, cx: &HookContext, ran: Ran) -> StepResult {
        self.plain(cx, RunArguments { ran: ran.to_string(), ..RunArguments::default() }).await
    }

    async fn reconcile(&self, cx: &HookContext) -> ReconcileOutcome {
        use reconcile_view::Outcome as Came;
        let view = match self.about_sandbox(cx, RunArguments::default()).await {
            Ok(Outcome::Reconcile(view)) => view,
            Ok(other) => return ReconcileOutcome::Failed(wrong_answer(&other).to_string()),
            Err(error) => return ReconcileOutcome::Failed(error.to_string()),
        };
        let report = wire::said(&view.report);
        match Came::try_from(view.outcome) {
            Ok(Came::InSync) => ReconcileOutcome::InSync,
            Ok(Came::Drift) => ReconcileOutcome::Drift(report),
            Ok(Came::Repaired) => ReconcileOutcome::Repaired(report),
            Ok(Came::Failed) => ReconcileOutcome::Failed(report),
            Err(_) => ReconcileOutcome::Failed("it answered with an outcome that is not known".to_owned()),
        }
    }

    async fn held(&self, page: Option<String>) -> StepResult<HeldPage> {
        let page = page.unwrap_or_default();
        let answer = self.ask(|link, instance_id| {
            let page = page.clone();
            async move { link.client.clone().held(HeldRequest { instance_id, page }).await }
        });
        let answer = answer.await?;
        if let Some(failure) = answer.failure {
            return Err(wire::read_failure(&failure));
        }
        let ids: Result<Vec<SandboxId>, _> = answer.ids.iter().map(SandboxId::new).collect();
        let ids = ids.map_err(|error| StepError::fatal(format!("it answered with an id that is none: {error}")))?;
        Ok(HeldPage { ids, next: Some(answer.next).filter(|next| !next.is_empty()) })
    }

    async fn release(&self, ids: &[SandboxId]) -> StepResult {
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        let answer = self.ask(|link, instance_id| {
            let ids = ids.clone();
            async move { link.client.clone().release(ReleaseRequest { instance_id, ids }).await }
        });
        answer.await?.failure.map_or(Ok(()), |failure| Err(wire::read_failure(&failure)))
    }

    async fn ensure_workspace(&self, cx: &WorkspaceContext) -> StepResult {
        self.about_workspace(cx, RunArguments::default()).await
    }

    async fn release_workspace(&self, cx: &WorkspaceContext, ran: Ran) -> StepResult {
        self.about_workspace(cx, RunArguments { ran: ran.to_string(), ..RunArguments::default() }).await
    }
}
