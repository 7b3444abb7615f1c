//! One call of the author's hook, watched: every poll, every piece of blocking work, everything it saves.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use chiton_lifecycle::extension::HookProbe;
use chiton_lifecycle::journal::Subject;
use chiton_lifecycle::runtime::Executor;
use chiton_model::Phase;
use futures::future::BoxFuture;
use serde_json::Value;

use super::Rule;
use super::rig::{Rig, TOO_LONG};
use crate::ledger::{Ledger, What};
use crate::world::Process;

/// One call.
pub(super) struct Watch {
    pub(super) rig: Rig,
    pub(super) ledger: Ledger,
    pub(super) process: Process,
    /// None for what is asked before there is a subject.
    pub(super) subject: Option<Subject>,
    pub(super) phase: Phase,
    pub(super) call: u64,
    /// The rule that is broken by any change in the world.
    pub(super) pure: Option<Rule>,
    /// The first blocking work takes too long.
    pub(super) slow: AtomicBool,
    /// The call was made to end otherwise than by returning.
    pub(super) disturbed: AtomicBool,
    /// Blocking work that is not done.
    pub(super) under_way: AtomicUsize,
    /// The author's hook runs in another process, in real time.
    pub(super) elsewhere: bool,
}

impl Watch {
    pub(super) fn look(&self) {
        self.rig.look(self.subject.as_ref(), self.phase, self.call, self.pure);
    }

    fn find(&self, rule: Rule, what: String) {
        self.rig.find(rule, what);
    }
}

/// The watch as the lifecycle's context takes it.
pub(super) struct Probe(pub(super) Arc<Watch>);

impl HookProbe for Probe {
    fn executor(&self, engine: Arc<dyn Executor>) -> Arc<dyn Executor> {
        Arc::new(Workers { engine, watch: Arc::clone(&self.0) })
    }

    fn shows_state(&self) -> bool {
        !self.0.rig.is_withheld(self.0.phase)
    }

    fn saved(&self, _payload: &Value) {
        if let Some(rule) = self.0.pure {
            self.0.find(rule, format!("{} saved state", self.0.phase));
        }
    }

    fn unread(&self, why: &str) {
        self.0.find(Rule::State, format!("{} could not read what was saved: {why}", self.0.phase));
    }
}

/// The engine's executor; blocking work is noted on both sides, so that a crash can come between it and its hook.
struct Workers {
    engine: Arc<dyn Executor>,
    watch: Arc<Watch>,
}

/// Work that a dead process leaves undone must not run in destructors either.
struct Work {
    work: Option<Box<dyn FnOnce() + Send>>,
    watch: Arc<Watch>,
}

impl Work {
    fn run(mut self) {
        let Some(work) = self.work.take() else { return };
        let watch = Arc::clone(&self.watch);
        watch.ledger.by(&watch.process, What::BlockingBegin { call: watch.call });
        if !watch.process.is_alive() {
            std::mem::forget(work);
            return;
        }
        let outcome = catch_unwind(AssertUnwindSafe(work));
        watch.look();
        watch.under_way.fetch_sub(1, Ordering::AcqRel);
        watch.ledger.by(&watch.process, What::BlockingEnd { call: watch.call });
        if let Err(panic) = outcome {
            watch.find(Rule::Calm, format!("blocking work of {} panicked: {}", watch.phase, message(&*panic)));
            resume_unwind(panic);
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Some(work) = self.work.take()
            && !self.watch.process.is_alive()
        {
            std::mem::forget(work);
        }
    }
}

impl Executor for Workers {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.engine.spawn(task);
    }

    fn spawn_hook(&self, task: BoxFuture<'static, ()>) {
        self.engine.spawn_hook(task);
    }

    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) {
        self.watch.under_way.fetch_add(1, Ordering::AcqRel);
        if self.watch.slow.swap(false, Ordering::AcqRel) {
            self.watch.disturbed.store(true, Ordering::Release);
            self.watch.rig.hit();
            self.watch.process.world().next_blocking_takes(TOO_LONG);
        }
        let work = Work { work: Some(work), watch: Arc::clone(&self.watch) };
        self.engine.spawn_blocking(Box::new(move || work.run()));
    }
}

/// How far a watched hook came.
pub(super) enum Came<T> {
    /// It returned.
    Back(T),
    /// It waits at the place where it was to be stopped.
    Stopped,
}

/// The author's future. When the process is dead it is forgotten, not dropped: a crash runs no destructor.
pub(super) struct Kept<'a, T> {
    future: Option<BoxFuture<'a, T>>,
    watch: Arc<Watch>,
    waits: u32,
    stop_at: Option<u32>,
}

impl<'a, T> Kept<'a, T> {
    pub(super) fn new(future: BoxFuture<'a, T>, watch: Arc<Watch>, stop_at: Option<u32>) -> Self {
        Self { future: Some(future), watch, waits: 0, stop_at }
    }
}

impl<T> Future for Kept<'_, T> {
    type Output = Came<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Came<T>> {
        let this = &mut *self;
        let Some(future) = this.future.as_mut() else { return Poll::Pending };
        let polled = catch_unwind(AssertUnwindSafe(|| {
            if this.watch.elsewhere { patiently(future, cx) } else { future.as_mut().poll(cx) }
        }));
        this.watch.look();
        match polled {
            Ok(Poll::Ready(value)) => {
                this.future = None;
                Poll::Ready(Came::Back(value))
            }
            Ok(Poll::Pending) => {
                this.waits += 1;
                if this.stop_at.is_some_and(|at| this.waits > at) && !this.watch.disturbed.swap(true, Ordering::AcqRel)
                {
                    return Poll::Ready(Came::Stopped);
                }
                Poll::Pending
            }
            Err(panic) => {
                this.future = None;
                this.watch.find(Rule::Calm, format!("{} panicked: {}", this.watch.phase, message(&*panic)));
                resume_unwind(panic)
            }
        }
    }
}

impl<T> Drop for Kept<'_, T> {
    fn drop(&mut self) {
        let Some(future) = self.future.take() else { return };
        if !self.watch.process.is_alive() {
            std::mem::forget(future);
            return;
        }
        if !self.watch.disturbed.load(Ordering::Acquire) {
            let what = format!("{} did not return before its deadline", self.watch.phase);
            self.watch.find(Rule::Calm, what);
        }
        drop(future);
        self.watch.look();
    }
}

/// How long the world stands still for another process, which may have to wait for its turn on a busy machine. What is
/// not done by then waits for the world itself.
const STANDSTILL: Duration = Duration::from_secs(20);

/// Wakes both the thread that stands still and the task that it runs.
struct Both {
    thread: Thread,
    woken: AtomicBool,
    task: Waker,
}

impl Wake for Both {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
        self.task.wake_by_ref();
    }
}

/// Polls until it is ready: another process works in real time, and virtual time must not pass meanwhile.
pub(super) fn patiently<T>(future: &mut BoxFuture<'_, T>, cx: &mut Context<'_>) -> Poll<T> {
    let (thread, task) = (std::thread::current(), cx.waker().clone());
    let both = Arc::new(Both { thread, woken: AtomicBool::new(false), task });
    let waker = Waker::from(Arc::clone(&both));
    let until = Instant::now() + STANDSTILL;
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Poll::Ready(value);
        }
        while !both.woken.swap(false, Ordering::AcqRel) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Poll::Pending;
            }
            std::thread::park_timeout(left);
        }
    }
}

/// What a panic said.
pub(super) fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

/// How long a thread that is done may take to be gone: on a busy machine it waits for its turn.
const MOMENTS: Duration = Duration::from_secs(2);

/// How many threads were begun by this one, or by such a thread, and still run. A thread bears the name of the one that
/// began it unless it is given another, so the kit's threads have names of their own. What ends within moments counts as
/// ended: the threads of a scope are done a little before they are gone.
pub(super) fn threads_of_this_one() -> usize {
    let count = || {
        let own = std::fs::read_to_string("/proc/thread-self/comm").unwrap_or_default();
        let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        let same = tasks.filter(|task| std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name == own));
        same.count().saturating_sub(1)
    };
    let until = Instant::now() + MOMENTS;
    loop {
        let alive = count();
        if alive == 0 || Instant::now() >= until {
            return alive;
        }
        // The system tells nobody when another's thread ends.
        std::thread::park_timeout(Duration::from_millis(1));
    }
}
