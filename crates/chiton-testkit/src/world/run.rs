//! The scheduler: picks the next ready task at random, and moves time when there is none.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::{Kind, Notify, VirtualWorld};

/// The future that drives the world has this task id.
pub(super) const MAIN: u64 = 0;

/// How long a driving future may take before the world calls it hopeless. Longer than every back-off and expiry.
const PATIENCE: Duration = Duration::from_hours(7 * 24);

/// So many polls without time moving mean that tasks wake each other in a circle.
const CIRCLE: u64 = 500_000;

/// Why the world stopped before a future was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Halt {
    /// The gateway was killed.
    Crashed,
    /// Nothing is ready and no timer is set.
    Stuck(String),
    /// The time limit was reached.
    TimeUp,
}

enum Next {
    Poll(u64),
    Wake(Vec<Waker>),
    Halt(Halt),
}

impl VirtualWorld {
    /// Runs the world until the future is done. Panics when it cannot be: stuck, crashed, or not within a week.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        match self.try_block_on(future) {
            Ok(value) => value,
            Err(Halt::Crashed) => panic!("seed {}: the gateway was killed before the future was done", self.seed()),
            Err(Halt::Stuck(report)) => panic!("seed {}: {report}", self.seed()),
            Err(Halt::TimeUp) => {
                panic!("seed {}: the future was not done within {PATIENCE:?} of virtual time", self.seed())
            }
        }
    }

    /// Runs the world until the future is done, or says why it stopped.
    pub fn try_block_on<T>(&self, future: impl Future<Output = T>) -> Result<T, Halt> {
        let limit = self.elapsed().saturating_add(PATIENCE);
        let mut future = pin!(future);
        self.drive(limit, |world, cx| world.contain(Kind::Engine, || future.as_mut().poll(cx)).unwrap_or(Poll::Pending))
    }

    /// Runs the world for so long. Stops early only when the gateway is killed.
    pub fn advance(&self, by: Duration) -> Result<(), Halt> {
        let sleep = self.sleep(by);
        self.try_block_on(sleep)?;
        self.settle()
    }

    /// Runs the world until nothing is ready and no timer is set, or until the limit has passed.
    pub fn run_until_idle(&self, limit: Duration) -> Result<(), Halt> {
        let end = self.elapsed().saturating_add(limit);
        match self.drive::<()>(end, |_, _| Poll::Pending) {
            Ok(()) | Err(Halt::Stuck(_) | Halt::TimeUp) => Ok(()),
            Err(Halt::Crashed) => Err(Halt::Crashed),
        }
    }

    /// Runs what is ready, without moving time.
    pub fn settle(&self) -> Result<(), Halt> {
        self.run_until_idle(Duration::ZERO)
    }

    fn drive<T>(&self, limit: Duration, mut main: impl FnMut(&Self, &mut Context<'_>) -> Poll<T>) -> Result<T, Halt> {
        let waker = Waker::from(Arc::new(Notify { task: MAIN, world: Arc::downgrade(&self.0) }));
        {
            let mut state = self.0.state.lock();
            if !state.ready.contains(&MAIN) {
                state.ready.push(MAIN);
            }
        }
        let mut polls = 0;
        loop {
            match self.next(limit) {
                Next::Halt(halt) => return Err(halt),
                Next::Wake(wakers) => {
                    polls = 0;
                    wakers.into_iter().for_each(Waker::wake);
                }
                Next::Poll(MAIN) => {
                    if let Poll::Ready(value) = main(self, &mut Context::from_waker(&waker)) {
                        return Ok(value);
                    }
                }
                Next::Poll(task) => self.poll(task),
            }
            polls += 1;
            assert!(
                polls < CIRCLE,
                "seed {}: {CIRCLE} polls at {:?} and time did not move: tasks wake each other in a circle",
                self.seed(),
                self.elapsed()
            );
        }
    }

    fn next(&self, limit: Duration) -> Next {
        let mut guard = self.0.state.lock();
        let state = &mut *guard;
        if state.killed {
            return Next::Halt(Halt::Crashed);
        }
        if !state.ready.is_empty() {
            let index = state.scheduler.below(state.ready.len());
            let next = state.ready.swap_remove(index);
            if let Some(task) = state.tasks.get_mut(&next) {
                task.ready = false;
            }
            return Next::Poll(next);
        }
        let Some((&(time, _), _)) = state.timers.first_key_value() else {
            let count = |kind| state.tasks.values().filter(|task| task.kind == kind).count();
            return Next::Halt(Halt::Stuck(format!(
                "stuck at {:?}: nothing is ready and no timer is set; waiting: {} engine tasks, {} hooks, {} blocking, {} outside",
                state.now,
                count(Kind::Engine),
                count(Kind::Hook),
                count(Kind::Blocking),
                count(Kind::Outside)
            )));
        };
        if time > limit {
            state.now = state.now.max(limit);
            return Next::Halt(Halt::TimeUp);
        }
        state.now = state.now.max(time);
        let later = state.timers.split_off(&(time, u64::MAX));
        let due = std::mem::replace(&mut state.timers, later);
        Next::Wake(due.into_values().collect())
    }

    fn poll(&self, id: u64) {
        let (kind, mut future, waker) = {
            let mut state = self.0.state.lock();
            let Some(task) = state.tasks.get_mut(&id) else { return };
            let Some(future) = task.future.take() else { return };
            (task.kind, future, task.waker.clone())
        };
        let polled = self.contain(kind, || Pin::new(&mut future).poll(&mut Context::from_waker(&waker)));
        if matches!(polled, Some(Poll::Pending)) {
            if let Some(task) = self.0.state.lock().tasks.get_mut(&id) {
                task.future = Some(future);
                return;
            }
        } else {
            let task = self.0.state.lock().tasks.remove(&id);
            drop(task);
        }
        drop(future);
    }

    /// Polls; a panic of a hook is contained as an executor's threads would, any other is the test's.
    fn contain<T>(&self, kind: Kind, poll: impl FnOnce() -> Poll<T>) -> Option<Poll<T>> {
        match catch_unwind(AssertUnwindSafe(poll)) {
            Ok(polled) => Some(polled),
            Err(panic) if matches!(kind, Kind::Engine | Kind::Outside) => {
                eprintln!("seed {}: a task panicked at {:?}", self.seed(), self.elapsed());
                resume_unwind(panic)
            }
            Err(_) => {
                if kind == Kind::Hook {
                    self.0.state.lock().contained += 1;
                }
                None
            }
        }
    }
}
