//! One attempt of one step: the hook, its deadline, its cancellation, and the certainty that it is over.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use chiton_lifecycle::extension::{
    Approval, Extension, HookContext, ReconcileOutcome, RemoteHook, StepError, StepResult, WorkspaceContext,
};
use chiton_lifecycle::runtime::CancelToken;
use chiton_model::{CreateFailure, Phase, Ran, StartReason, StopReason};
use futures::FutureExt as _;
use futures::future::{AbortHandle, Abortable, BoxFuture};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio_stream::Stream;
use tonic::{Status, Streaming};

use super::ask::Asks;
use super::steps::Begun;
use crate::proto::run_hook_input::Input;
use crate::proto::run_hook_output::Output;
use crate::proto::run_result::Outcome;
use crate::proto::{
    CreateFailureView, ReconcileView, RunArguments, RunDone, RunHookInput, RunHookOutput, RunResult, SlotValuesView,
    reconcile_view,
};
use crate::wire;

/// How long a cancelled hook may go on before it is dropped.
const GRACE: Duration = Duration::from_secs(1);

/// A hook with its arguments.
pub(super) enum Call {
    Sandbox(Box<HookContext>, Told),
    Workspace(WorkspaceContext, Ran),
}

/// What a hook is told besides its context, as far as its phase has it.
pub(super) struct Told {
    start: Option<StartReason>,
    stop: Option<StopReason>,
    ran: Option<Ran>,
    failure: Option<CreateFailure>,
}

impl Told {
    pub(super) fn read(said: RunArguments) -> Result<Self, String> {
        let unknown = |field: &str, word: &str| format!("{field} {word:?} is not known");
        let ran = match said.ran.as_str() {
            "" => None,
            word => Some(Ran::parse(word).ok_or_else(|| unknown("ran", word))?),
        };
        let failure = said.failure.map(|CreateFailureView { step, extension, cause }| CreateFailure {
            step,
            extension: Some(extension).filter(|name| !name.is_empty()),
            cause,
        });
        let (start, stop) = (StartReason::parse(&said.reason), StopReason::parse(&said.reason));
        if !said.reason.is_empty() && start.is_none() && stop.is_none() {
            return Err(unknown("reason", &said.reason));
        }
        Ok(Self { start, stop, ran, failure })
    }

    pub(super) fn ran(&self) -> Result<Ran, String> {
        self.ran.ok_or_else(|| "a cleanup is not told what ran".to_owned())
    }

    fn start(&self) -> StepResult<StartReason> {
        self.start.ok_or_else(|| StepError::fatal("it was not told why the sandbox starts"))
    }

    fn stop(&self) -> StepResult<StopReason> {
        self.stop.ok_or_else(|| StepError::fatal("it was not told why the sandbox stops"))
    }
}

async fn call(extension: Arc<dyn Extension>, call: Call) -> StepResult<Outcome> {
    let done = Outcome::Done(RunDone {});
    let (cx, told) = match call {
        Call::Sandbox(cx, told) => (cx, told),
        Call::Workspace(cx, ran) => {
            if cx.phase() == Phase::EnsureWorkspace {
                extension.ensure_workspace(&cx).await?;
            } else {
                extension.release_workspace(&cx, ran).await?;
            }
            return Ok(done);
        }
    };
    let (cx, ran) = (&*cx, told.ran().map_err(StepError::Fatal));
    match cx.phase() {
        Phase::BeforeCreate => {
            let values = extension.before_create(cx).await?;
            return Ok(Outcome::Slots(SlotValuesView { values: values.into_iter().collect() }));
        }
        Phase::AfterCreate => extension.after_create(cx).await?,
        Phase::BeforeStart => extension.before_start(cx, told.start()?).await?,
        Phase::AfterReady => extension.after_ready(cx, told.start()?).await?,
        Phase::ApproveStop => match extension.approve_stop(cx, told.stop()?).await? {
            Approval::Approve => {}
            Approval::Veto(why) => return Ok(Outcome::Veto(why)),
        },
        Phase::BeforeStop => extension.before_stop(cx, told.stop()?).await?,
        Phase::AfterStop => extension.after_stop(cx, ran?, told.stop()?).await?,
        Phase::OnCreateFailed => {
            let failure = told.failure.ok_or_else(|| StepError::fatal("it was not told what failed"))?;
            extension.on_create_failed(cx, ran?, &failure).await?;
        }
        Phase::BeforeDelete => extension.before_delete(cx).await?,
        Phase::AfterDelete => extension.after_delete(cx, ran?).await?,
        Phase::Reconcile => {
            use reconcile_view::Outcome as Came;
            let (outcome, report) = match extension.reconcile(cx).await {
                ReconcileOutcome::InSync => (Came::InSync, String::new()),
                ReconcileOutcome::Drift(report) => (Came::Drift, report),
                ReconcileOutcome::Repaired(report) => (Came::Repaired, report),
                ReconcileOutcome::Failed(report) => (Came::Failed, report),
            };
            return Ok(Outcome::Reconcile(ReconcileView { outcome: outcome.into(), report }));
        }
        Phase::ValidateRequest
        | Phase::PreparePlan
        | Phase::ValidatePlan
        | Phase::Sweep
        | Phase::EnsureWorkspace
        | Phase::ReleaseWorkspace => return Err(StepError::fatal(format!("{} is not run as a step", cx.phase()))),
    }
    Ok(done)
}

/// A step that was taken in and begins now.
pub(super) struct Attempt {
    pub(super) begun: Begun,
    pub(super) extension: Arc<dyn Extension>,
    pub(super) cancel: CancelToken,
    pub(super) over: CancelToken,
    pub(super) time_left: Duration,
    pub(super) asks: Arc<Asks>,
    pub(super) output: UnboundedSender<Result<RunHookOutput, Status>>,
}

impl Attempt {
    /// Runs the hook to its end, whatever that is, and answers.
    pub(super) async fn run(self, hook: Call) {
        let (abort, registration) = AbortHandle::new_pair();
        let contained = AssertUnwindSafe(call(Arc::clone(&self.extension), hook)).catch_unwind();
        let mut contained = Box::pin(Abortable::new(contained, registration));
        let ended = tokio::select! {
            ended = &mut contained => Some(ended),
            () = tokio::time::sleep(self.time_left) => None,
            () = self.cancel.cancelled() => None,
        };
        let ended = if let Some(ended) = ended {
            ended
        } else {
            self.cancel.cancel();
            if let Ok(ended) = tokio::time::timeout(GRACE, &mut contained).await {
                ended
            } else {
                // Dropped where it waits.
                abort.abort();
                contained.as_mut().await
            }
        };
        drop(contained);
        let result = match ended {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => Err(StepError::fatal(format!("it panicked: {}", said_by(&*panic)))),
            Err(_) => Err(StepError::fatal("it was cancelled, or its deadline passed, and it did not end by itself")),
        };
        // Blocking work that the hook did not wait for is still part of it.
        self.over.cancelled().await;
        self.asks.close();
        drop(self.begun);
        let outcome = result.unwrap_or_else(|error| Outcome::Failure(wire::failure(&error)));
        let result = Output::Result(RunResult { outcome: Some(outcome) });
        // The gateway may have gone.
        drop(self.output.send(Ok(RunHookOutput { output: Some(result) })));
    }
}

fn said_by(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

/// The answering half of a step's stream. Whoever polls it also takes in what the gateway says, so that a step needs no
/// task besides its hook's. Dropped when the gateway breaks off.
pub(super) struct Conversation {
    pub(super) input: Streaming<RunHookInput>,
    pub(super) listening: bool,
    pub(super) output: UnboundedReceiver<Result<RunHookOutput, Status>>,
    pub(super) asks: Arc<Asks>,
    pub(super) cancel: CancelToken,
    /// What was waited for before the answer began.
    pub(super) first: Option<Result<RunHookOutput, Status>>,
}

impl Conversation {
    fn listen(&mut self, cx: &mut Context<'_>) {
        while self.listening {
            match Pin::new(&mut self.input).poll_next(cx) {
                Poll::Pending => return,
                Poll::Ready(Some(Ok(RunHookInput { input }))) => match input {
                    Some(Input::Cancel(_)) => self.cancel.cancel(),
                    Some(Input::Saved(answer)) => self.asks.saved(&answer),
                    Some(Input::States(answer)) => self.asks.listed(answer),
                    // A second start, or something newer than this version.
                    Some(Input::Start(_)) | None => {}
                },
                Poll::Ready(Some(Err(_)) | None) => {
                    // It says nothing more; that alone does not end the step.
                    self.listening = false;
                    self.asks.close();
                }
            }
        }
    }
}

impl Stream for Conversation {
    type Item = Result<RunHookOutput, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(first));
        }
        this.listen(cx);
        this.output.poll_recv(cx)
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.cancel.cancel();
        self.asks.close();
    }
}

/// Calls without a subject: a panic is a failure, and a caller that goes away ends the call.
pub(super) async fn contained<T>(hook: BoxFuture<'_, StepResult<T>>) -> StepResult<T> {
    match AssertUnwindSafe(hook).catch_unwind().await {
        Ok(result) => result,
        Err(panic) => Err(StepError::fatal(format!("it panicked: {}", said_by(&*panic)))),
    }
}

/// Builds the context that the phase has.
pub(super) fn context(
    hook: RemoteHook,
    sandbox: Option<crate::proto::SandboxView>,
    workspace: Option<chiton_model::WorkspaceName>,
    driver: Arc<chiton_driver::Capabilities>,
    told: Told,
) -> Result<Call, String> {
    match (sandbox, workspace) {
        (Some(sandbox), None) => {
            Ok(Call::Sandbox(Box::new(hook.about_sandbox(wire::read_sandbox(sandbox, driver)?)), told))
        }
        (None, Some(workspace)) => {
            let ran = told.ran.unwrap_or(Ran::Maybe);
            Ok(Call::Workspace(hook.about_workspace(workspace, driver), ran))
        }
        _ => Err("the step is about neither a sandbox nor a workspace, or about both".to_owned()),
    }
}
