//! Tasks, time and entropy on one thread. Time moves only when no task can.

mod process;
mod run;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

pub use process::Process;
pub use run::Halt;

use crate::rng::Rng;

/// Sleeps that end later than this never end: a hang, not a plan.
const NEVER: Duration = Duration::from_hours(100 * 366 * 24);

/// The wall clock when a world begins: 2026-01-01T00:00:00Z.
const DAWN: i64 = 1_767_225_600;

/// Who a task belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The engine; a panic is a bug and ends the test.
    Engine,
    /// A hook; an executor contains its panics.
    Hook,
    /// Blocking work of a hook; an executor contains its panics.
    Blocking,
    /// Not of the gateway: it goes on when the gateway crashes.
    Outside,
}

struct Task {
    kind: Kind,
    /// It is in the list of those that can be polled.
    ready: bool,
    /// Absent while it is being polled.
    future: Option<BoxFuture<'static, ()>>,
    waker: Waker,
}

struct State {
    now: Duration,
    booted_at: Duration,
    boots: u64,
    skew: SignedDuration,
    generation: u64,
    killed: bool,
    tasks: BTreeMap<u64, Task>,
    next_task: u64,
    ready: Vec<u64>,
    timers: BTreeMap<(Duration, u64), Waker>,
    next_timer: u64,
    scheduler: Rng,
    entropy: Rng,
    blocking_takes: Option<Duration>,
    contained: u64,
}

struct Inner {
    seed: u64,
    state: Mutex<State>,
}

/// A deterministic world. Clones share it.
#[derive(Clone)]
pub struct VirtualWorld(Arc<Inner>);

impl std::fmt::Debug for VirtualWorld {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VirtualWorld").field("seed", &self.0.seed).field("now", &self.elapsed()).finish_non_exhaustive()
    }
}

struct Notify {
    task: u64,
    world: Weak<Inner>,
}

impl Wake for Notify {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let Some(world) = self.world.upgrade() else { return };
        let mut state = world.state.lock();
        let asleep = match state.tasks.get_mut(&self.task) {
            Some(task) => !std::mem::replace(&mut task.ready, true),
            None => self.task == run::MAIN && !state.ready.contains(&run::MAIN),
        };
        if asleep {
            state.ready.push(self.task);
        }
    }
}

impl VirtualWorld {
    /// A world whose every choice follows from the seed.
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let (scheduler, entropy) = (Rng::new(rng.draw()), Rng::new(rng.draw()));
        Self(Arc::new(Inner {
            seed,
            state: Mutex::new(State {
                now: Duration::ZERO,
                // A machine that serves has been up for a while.
                booted_at: Duration::ZERO,
                boots: 1,
                skew: SignedDuration::ZERO,
                generation: 0,
                killed: false,
                tasks: BTreeMap::new(),
                next_task: run::MAIN + 1,
                ready: Vec::new(),
                timers: BTreeMap::new(),
                next_timer: 0,
                scheduler,
                entropy,
                blocking_takes: None,
                contained: 0,
            }),
        }))
    }

    /// The seed, to print.
    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    /// Virtual time since the world began; never jumps.
    pub fn elapsed(&self) -> Duration {
        self.0.state.lock().now
    }

    /// The clock since boot; begins anew at a reboot.
    pub fn since_boot(&self) -> Duration {
        let state = self.0.state.lock();
        state.now.saturating_sub(state.booted_at)
    }

    /// The wall clock.
    pub fn wall(&self) -> Timestamp {
        let state = self.0.state.lock();
        let elapsed = SignedDuration::try_from(state.now).unwrap_or(SignedDuration::MAX);
        Timestamp::from_second(DAWN)
            .unwrap_or_default()
            .saturating_add(elapsed.saturating_add(state.skew))
            .unwrap_or_default()
    }

    /// Makes the wall clock jump, for good.
    pub fn jump_wall(&self, by: SignedDuration) {
        let mut state = self.0.state.lock();
        state.skew = state.skew.saturating_add(by);
    }

    /// The kernel's boot id.
    pub fn boot_id(&self) -> String {
        format!("boot-{}", self.0.state.lock().boots)
    }

    /// Fills a buffer from the world's entropy.
    pub fn fill(&self, buffer: &mut [u8]) {
        self.0.state.lock().entropy.fill(buffer);
    }

    /// Resolves after the duration, counted from this call.
    pub fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let deadline = self.elapsed().checked_add(duration).unwrap_or(Duration::MAX);
        self.sleep_until(deadline)
    }

    /// Resolves when [`VirtualWorld::elapsed`] reaches the time.
    pub fn sleep_until(&self, deadline: Duration) -> BoxFuture<'static, ()> {
        Box::pin(Sleep { world: self.clone(), deadline, timer: None })
    }

    /// Runs a task that is no part of the gateway: a platform's work, a remote service. It survives crashes.
    pub fn spawn_outside(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn(Kind::Outside, Box::pin(task));
    }

    /// The next blocking work takes this long before its effects are done. Blocking work cannot wait for virtual time by
    /// itself, because the one thread would wait with it.
    pub fn next_blocking_takes(&self, duration: Duration) {
        self.0.state.lock().blocking_takes = Some(duration);
    }

    /// How many panics of hooks reached the executor; the engine should have contained them.
    pub fn escaped_panics(&self) -> u64 {
        self.0.state.lock().contained
    }

    /// The present life of the gateway.
    pub fn process(&self) -> Process {
        Process::new(self.clone(), self.0.state.lock().generation)
    }

    /// Whether this life is the present one and was not killed.
    pub(crate) fn is_alive(&self, generation: u64) -> bool {
        let state = self.0.state.lock();
        state.generation == generation && !state.killed
    }

    /// Kills the gateway: from now on nothing that it does has an effect. Whoever runs the world must then call
    /// [`VirtualWorld::crash`].
    pub fn kill(&self) {
        self.0.state.lock().killed = true;
    }

    /// Whether the gateway was killed and not yet buried.
    pub fn is_killed(&self) -> bool {
        self.0.state.lock().killed
    }

    /// Drops all tasks of the gateway at once; a new process can begin after that.
    pub fn crash(&self) {
        self.kill();
        let dropped: Vec<Task> = {
            let mut state = self.0.state.lock();
            let dead: Vec<u64> =
                state.tasks.iter().filter(|(_, task)| task.kind != Kind::Outside).map(|(id, _)| *id).collect();
            let dropped = dead.iter().filter_map(|id| state.tasks.remove(id)).collect();
            state.ready.retain(|id| !dead.contains(id));
            state.blocking_takes = None;
            dropped
        };
        // Outside the lock, and while the process still counts as killed: what runs in a destructor has no effect.
        drop(dropped);
        let mut state = self.0.state.lock();
        state.generation += 1;
        state.killed = false;
    }

    /// The end of the world: every task goes, also those outside of the gateway. Tasks own the world that owns them, so
    /// without this nothing of it would ever be freed.
    pub(crate) fn end(&self) {
        self.crash();
        self.kill();
        let (tasks, timers) = {
            let mut state = self.0.state.lock();
            (std::mem::take(&mut state.tasks), std::mem::take(&mut state.timers))
        };
        drop(tasks);
        drop(timers);
    }

    /// A power loss: [`VirtualWorld::crash`], and the clock since boot begins anew under another boot id.
    pub fn reboot(&self) {
        self.crash();
        let mut state = self.0.state.lock();
        state.boots += 1;
        state.booted_at = state.now;
    }

    pub(crate) fn spawn(&self, kind: Kind, future: BoxFuture<'static, ()>) {
        let mut state = self.0.state.lock();
        let id = state.next_task;
        state.next_task += 1;
        let waker = Waker::from(Arc::new(Notify { task: id, world: Arc::downgrade(&self.0) }));
        state.tasks.insert(id, Task { kind, ready: true, future: Some(future), waker });
        state.ready.push(id);
    }

    pub(crate) fn take_blocking_delay(&self) -> Duration {
        self.0.state.lock().blocking_takes.take().unwrap_or_default()
    }
}

struct Sleep {
    world: VirtualWorld,
    deadline: Duration,
    timer: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut state = this.world.0.state.lock();
        if state.now >= this.deadline {
            return Poll::Ready(());
        }
        if this.deadline < NEVER {
            let timer = *this.timer.get_or_insert_with(|| {
                state.next_timer += 1;
                state.next_timer
            });
            state.timers.insert((this.deadline, timer), cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            // The waker is dropped after the lock is released: it may own a task.
            let waker = self.world.0.state.lock().timers.remove(&(self.deadline, timer));
            drop(waker);
        }
    }
}
