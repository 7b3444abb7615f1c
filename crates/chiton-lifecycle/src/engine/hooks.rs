//! One hook: permit, mark, deadline, cancellation, panic, retry, and the certainty that it is over (rules 6, 6a, 8, 16).

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use chiton_model::{Error, ExtensionName, OperationId, OperationKind, Phase};
use futures::channel::oneshot;
use futures::future::{AbortHandle, Abortable, BoxFuture, Either, select};
use futures::{FutureExt as _, pin_mut};

use super::admit::OpCancel;
use super::chain::Link;
use super::inner::Inner;
use super::permits::Permit;
use super::states::States;
use crate::crash::{Deed, crash_point};
use crate::extension::{Alive, Descriptor, Extension, Fence, HookCore, StateSink, StepError, StepResult};
use crate::journal::{JournalError, Mark, MarkEvent, OperationRecord, StepKey, StepStatus, StepTiming, Subject};
use crate::runtime::{CancelToken, Clock, LifecycleEvent};

/// How long a cancelled hook may go on before it is dropped.
const GRACE: Duration = Duration::from_secs(1);
/// How long dropping it may take before it counts as still running: on a busy machine its thread waits for its turn.
const DROP_GRACE: Duration = Duration::from_secs(2);
/// How long a fence outside of this process may take before the hook counts as still running.
const FENCE_GRACE: Duration = Duration::from_secs(1);
/// Counts hook calls. One count for all engines of this process: two calls with one number could not be told apart outside.
static CALLS: AtomicU64 = AtomicU64::new(1);
/// The engine's own backoff between attempts of a retryable step.
const FIRST_RETRY: Duration = Duration::from_millis(100);

/// How a hook did not succeed.
#[derive(Debug)]
pub(super) enum HookFailure {
    /// It was never called.
    NotStarted(String),
    /// It was called, failed, and is over.
    Failed(StepError),
    /// It was called, and nothing could end it. Set when it is over at last.
    StillRunning(String),
}

impl HookFailure {
    pub(super) fn message(&self) -> String {
        match self {
            Self::NotStarted(message) | Self::StillRunning(message) => message.clone(),
            Self::Failed(error) => error.to_string(),
        }
    }
}

/// Steps of one operation: what ran, how far, how long.
pub(super) struct Steps {
    pub(super) inner: Arc<Inner>,
    pub(super) operation: OperationId,
    pub(super) kind: OperationKind,
    pub(super) subject: Subject,
    pub(super) states: Arc<States>,
    pub(super) cancel: Arc<OpCancel>,
    pub(super) status: BTreeMap<StepKey, StepStatus>,
    pub(super) timings: Vec<StepTiming>,
    pub(super) begun: Duration,
    /// The operation continues one that a crash interrupted.
    pub(super) recovered: bool,
    /// The hook that runs is a reconcile that may have effects.
    pub(super) may_repair: bool,
}

/// What one call of a hook came to.
enum Called<T> {
    Over(StepResult<T>),
    TimedOut,
    Cancelled,
    Stuck(CancelToken),
}

impl Steps {
    pub(super) fn new(inner: Arc<Inner>, op: &OperationRecord, states: Arc<States>, cancel: Arc<OpCancel>) -> Self {
        let begun = inner.world.clock.since_boot();
        Self {
            inner,
            operation: op.id.clone(),
            kind: op.kind,
            subject: op.subject.clone(),
            states,
            cancel,
            status: BTreeMap::new(),
            timings: Vec::new(),
            begun,
            recovered: false,
            may_repair: false,
        }
    }

    /// Writes a step's progress to the mark log, before the thing it speaks of.
    pub(super) fn mark(&mut self, step: &StepKey, status: StepStatus) -> Result<(), JournalError> {
        let event = MarkEvent::Step { step: step.clone(), status };
        self.inner.journal.mark(self.kind, &Mark { operation: self.operation.clone(), event })?;
        self.status.insert(step.clone(), status);
        Ok(())
    }

    /// Notes how a call ended that is over. Best effort: without the mark the step counts as Maybe after a crash, which is
    /// the safe side; this process knows better.
    pub(super) fn note(&mut self, step: &StepKey, status: StepStatus) {
        if let Err(error) = self.mark(step, status) {
            tracing::warn!(%step, ?status, %error, "a mark could not be written");
            self.status.insert(step.clone(), status);
        }
    }

    pub(super) fn begin(&self, step: &StepKey) -> Duration {
        let sandbox = self.subject.sandbox().cloned();
        self.inner.world.audience.tell(LifecycleEvent::StepStarted {
            operation: self.operation.clone(),
            sandbox,
            step: step.clone(),
        });
        self.inner.world.clock.since_boot()
    }

    pub(super) fn end(&mut self, step: &StepKey, begin: Duration, error: Option<String>) {
        let took = self.inner.world.clock.since_boot().saturating_sub(begin);
        self.timings.push(StepTiming {
            step: step.clone(),
            begin_us: micros(begin.saturating_sub(self.begun)),
            took_us: micros(took),
            error: error.clone(),
        });
        let sandbox = self.subject.sandbox().cloned();
        self.inner.world.audience.tell(LifecycleEvent::StepEnded {
            operation: self.operation.clone(),
            sandbox,
            step: step.clone(),
            took,
            error,
        });
    }

    /// Runs a hook with effects. `deaf`: an operation's cancellation does not reach it (cleanup must run).
    pub(super) async fn hook<T, F>(
        &mut self,
        link: &Arc<Link>,
        phase: Phase,
        deaf: bool,
        make: F,
    ) -> Result<T, HookFailure>
    where
        T: Send + 'static,
        F: Fn(Arc<dyn Extension>, HookCore) -> BoxFuture<'static, StepResult<T>> + Send + Sync,
    {
        let step = StepKey::hook(phase, link.name());
        if self.still_running(link.name()) {
            // One extension never runs twice at once for one subject: not an action beside a hook that nothing could
            // end, and above all not a cleanup.
            return Err(HookFailure::NotStarted("an earlier hook of it is still running".to_owned()));
        }
        let deadline = self.inner.policy(link.name()).deadline;
        let clock = Arc::clone(&self.inner.world.clock);
        let permits = self.inner.permits_of(link.name(), link.descriptor.concurrency);
        let Some(permit) = within(&*clock, deadline, permits.acquire()).await else {
            let name = link.name().as_str();
            return Err(HookFailure::NotStarted(format!(
                "no hook of extension {name:?} became free within {deadline:?}"
            )));
        };
        if let Err(error) = self.mark(&step, StepStatus::Started) {
            return Err(HookFailure::NotStarted(format!("its mark could not be written: {error}")));
        }
        let begin = self.begin(&step);
        let ends_at = begin + deadline;
        let token = if deaf { CancelToken::new() } else { self.cancel.token.clone() };
        let mut attempt = 1;
        let failure = loop {
            let call = HookCall {
                inner: &self.inner,
                link,
                phase,
                subject: &self.subject,
                operation: &self.operation,
                states: &self.states,
                attempt,
                ends_at,
                may_repair: self.may_repair,
                cancel: &token,
            };
            crash_point!(self.inner.world.points, Before, Some(self.kind), Deed::Hook(phase));
            let called = call.run(&make).await;
            crash_point!(self.inner.world.points, After, Some(self.kind), Deed::Hook(phase));
            match called {
                Called::Over(Ok(value)) => {
                    // A completed step whose mark cannot be written is a step of which nobody will know that it completed.
                    if let Err(error) = self.mark(&step, StepStatus::Completed) {
                        break HookFailure::Failed(StepError::fatal(format!("its mark could not be written: {error}")));
                    }
                    self.end(&step, begin, None);
                    return Ok(value);
                }
                Called::Over(Err(StepError::Retryable { message, after })) => {
                    let pause = after.unwrap_or_else(|| FIRST_RETRY * 2_u32.saturating_pow(attempt.min(10) - 1));
                    if clock.since_boot() + pause >= ends_at || token.is_cancelled() {
                        break HookFailure::Failed(StepError::Retryable { message, after });
                    }
                    attempt += 1;
                    within(&*clock, pause, token.cancelled()).await;
                }
                Called::Over(Err(error)) => break HookFailure::Failed(error),
                Called::TimedOut => {
                    break HookFailure::Failed(StepError::fatal(format!("its deadline of {deadline:?} passed")));
                }
                Called::Cancelled => {
                    let why = self.cancel.cause().map_or("cancelled", super::admit::CancelCause::as_str);
                    break HookFailure::Failed(StepError::fatal(format!("cancelled: {why}")));
                }
                Called::Stuck(over) => {
                    self.watch_stuck(link.name(), over, permit);
                    self.end(&step, begin, Some("hook still running".to_owned()));
                    return Err(HookFailure::StillRunning(format!(
                        "its deadline of {deadline:?} passed and it is still running"
                    )));
                }
            }
        };
        self.note(&step, StepStatus::Failed);
        self.end(&step, begin, Some(failure.message()));
        Err(failure)
    }

    /// Whether a hook of the extension for this subject did not end when it should have.
    pub(super) fn still_running(&self, extension: &ExtensionName) -> bool {
        self.inner.still_running.lock().contains_key(&(self.subject.clone(), extension.clone()))
    }

    /// Remembers a hook that does not end; its permit stays taken and its cleanup waits until it does.
    fn watch_stuck(&self, extension: &ExtensionName, over: CancelToken, permit: Permit) {
        let key = (self.subject.clone(), extension.clone());
        self.inner.still_running.lock().insert(key.clone(), over.clone());
        let inner = Arc::clone(&self.inner);
        self.inner.world.executor.spawn(Box::pin(async move {
            over.cancelled().await;
            inner.still_running.lock().remove(&key);
            drop(permit);
            inner.book.wake();
        }));
    }
}

/// One call of one hook.
struct HookCall<'a> {
    inner: &'a Arc<Inner>,
    link: &'a Link,
    phase: Phase,
    subject: &'a Subject,
    operation: &'a OperationId,
    states: &'a Arc<States>,
    attempt: u32,
    ends_at: Duration,
    may_repair: bool,
    cancel: &'a CancelToken,
}

impl HookCall<'_> {
    async fn run<T, F>(&self, make: &F) -> Called<T>
    where
        T: Send + 'static,
        F: Fn(Arc<dyn Extension>, HookCore) -> BoxFuture<'static, StepResult<T>>,
    {
        let clock = &*self.inner.world.clock;
        let (over, cancel) = (CancelToken::new(), CancelToken::new());
        let alive = Alive::new(over.clone());
        let core = HookCore {
            extension: self.link.name().clone(),
            state_schema: self.link.descriptor.state_schema,
            subject: self.subject.clone(),
            call: CALLS.fetch_add(1, Ordering::Relaxed),
            phase: self.phase,
            operation: self.operation.clone(),
            attempt: self.attempt,
            ends_at: self.ends_at,
            may_repair: self.may_repair,
            cancel: cancel.clone(),
            sink: Arc::clone(self.states) as Arc<dyn StateSink>,
            clock: Arc::clone(&self.inner.world.clock),
            executor: Arc::clone(&self.inner.world.executor),
            alive: alive.clone(),
            saved: AtomicUsize::new(0),
        };
        let this = core.step();
        let extension = &self.link.extension;
        let hook = make(Arc::clone(extension), core);
        let (mut result, abort) = spawn_contained(self.inner, hook, alive, extension.only_waits());
        let left = self.ends_at.saturating_sub(clock.since_boot());
        let first = {
            let end = async {
                let (sleep, cancelled) = (clock.sleep(left), self.cancel.cancelled());
                pin_mut!(cancelled);
                matches!(select(sleep, cancelled).await, Either::Left(_))
            };
            pin_mut!(end);
            match select(&mut result, end).await {
                Either::Left((value, _)) => Ok(flatten(value)),
                Either::Right((timed_out, _)) => Err(timed_out),
            }
        };
        match first {
            Ok(value) => {
                // Blocking work that the hook did not wait for is still part of it.
                let left = self.ends_at.saturating_sub(clock.since_boot()) + GRACE;
                match within(clock, left, over.cancelled()).await {
                    Some(()) => Called::Over(value),
                    None => Called::Stuck(over),
                }
            }
            Err(timed_out) => {
                cancel.cancel();
                if within(clock, GRACE, &mut result).await.is_none() {
                    abort.abort();
                }
                let (over, grace) = match self.link.extension.fence(Fence::Step(this)) {
                    None => (over, DROP_GRACE),
                    Some(fence) => (self.fenced(over, fence), FENCE_GRACE),
                };
                if within(clock, grace, over.cancelled()).await.is_none() {
                    return Called::Stuck(over);
                }
                if timed_out { Called::TimedOut } else { Called::Cancelled }
            }
        }
    }
}

impl HookCall<'_> {
    /// Set when the hook is over here and outside of this process.
    fn fenced(&self, over: CancelToken, fence: BoxFuture<'static, ()>) -> CancelToken {
        let certain = CancelToken::new();
        let set = certain.clone();
        self.inner.world.executor.spawn(Box::pin(async move {
            over.cancelled().await;
            fence.await;
            set.cancel();
        }));
        certain
    }
}

type Contained<T> = (oneshot::Receiver<StepResult<T>>, AbortHandle);

/// Puts a hook on the hooks' own threads, unless it blocks none; a panic becomes a failure.
fn spawn_contained<T: Send + 'static>(
    inner: &Inner,
    hook: BoxFuture<'static, StepResult<T>>,
    alive: Alive,
    only_waits: bool,
) -> Contained<T> {
    let (done, result) = oneshot::channel();
    let (abort, registration) = AbortHandle::new_pair();
    let task = Box::pin(async move {
        let ended = Abortable::new(AssertUnwindSafe(hook).catch_unwind(), registration).await;
        let value = match ended {
            Ok(Ok(value)) => value,
            Ok(Err(panic)) => Err(StepError::fatal(format!("it panicked: {}", panic_message(&*panic)))),
            Err(_aborted) => return,
        };
        // The hook's future is gone by now: only work that it left behind keeps it alive.
        drop(alive);
        drop(done.send(value));
    });
    let executor = &inner.world.executor;
    if only_waits {
        executor.spawn(task);
    } else {
        executor.spawn_hook(task);
    }
    (result, abort)
}

fn flatten<T>(received: Result<StepResult<T>, oneshot::Canceled>) -> StepResult<T> {
    received.unwrap_or_else(|_| Err(StepError::fatal("the task that ran it ended early")))
}

/// What a panic said.
pub(super) fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

/// The work's value, or none when the time passed first.
pub(super) async fn within<T>(clock: &dyn Clock, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    pin_mut!(work);
    // Ready at once is the common case and needs no timer.
    if let Some(value) = work.as_mut().now_or_never() {
        return Some(value);
    }
    match select(work, clock.sleep(limit)).await {
        Either::Left((value, _)) => Some(value),
        Either::Right(_) => None,
    }
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Inner {
    /// Runs a hook without effects: nothing is marked and nothing is owed.
    pub(super) async fn pure_hook<T: Send + 'static>(
        &self,
        name: &ExtensionName,
        descriptor: &Descriptor,
        phase: Phase,
        make: impl FnOnce(CancelToken) -> BoxFuture<'static, StepResult<T>>,
    ) -> Result<T, Error> {
        let clock = &*self.world.clock;
        let deadline = self.policy(name).deadline;
        let late =
            || Error::deadline(format!("extension {:?} did not answer {phase} within {deadline:?}", name.as_str()));
        let permits = self.permits_of(name, descriptor.concurrency);
        let permit = within(clock, deadline, permits.acquire()).await.ok_or_else(late)?;
        let (cancel, over) = (CancelToken::new(), CancelToken::new());
        let (result, abort) = spawn_contained(self, make(cancel.clone()), Alive::new(over.clone()), false);
        let ended = within(clock, deadline, result).await;
        let Some(value) = ended else {
            cancel.cancel();
            abort.abort();
            // A pure hook that blocks its thread keeps its permit, so that it cannot take every thread.
            self.world.executor.spawn(Box::pin(async move {
                over.cancelled().await;
                drop(permit);
            }));
            return Err(late());
        };
        flatten(value).map_err(|error| refusal(name, phase, &error))
    }
}

/// A hook's error before the commit, as an error condition.
pub(super) fn refusal(name: &ExtensionName, phase: Phase, error: &StepError) -> Error {
    let message = format!("extension {:?} refused in {phase}: {error}", name.as_str());
    match error {
        StepError::Retryable { .. } => Error::unavailable(name.as_str(), message).cure("try again later"),
        StepError::Exhausted { resource, .. } => Error::exhausted(resource, message),
        StepError::Fatal(_) => Error::refused(name.as_str(), message),
    }
}
