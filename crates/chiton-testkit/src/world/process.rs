//! One life of the gateway: what it does after it was killed has no effect.

use std::time::Duration;

use chiton_lifecycle::runtime::{Clock, Entropy, Executor};
use futures::future::BoxFuture;
use jiff::Timestamp;

use super::{Kind, VirtualWorld};

/// A life of the gateway, from its start to its end or crash. Its clock, entropy and tasks are the world's.
#[derive(Clone, Debug)]
pub struct Process {
    world: VirtualWorld,
    generation: u64,
}

impl Process {
    pub(super) fn new(world: VirtualWorld, generation: u64) -> Self {
        Self { world, generation }
    }

    /// The world it lives in.
    pub fn world(&self) -> &VirtualWorld {
        &self.world
    }

    /// 0 for the first life, one more after every crash.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether it still lives.
    pub fn is_alive(&self) -> bool {
        self.world.is_alive(self.generation)
    }

    /// Returns at once in a living process and never in a dead one.
    pub async fn live(&self) {
        if !self.is_alive() {
            std::future::pending::<()>().await;
        }
    }

    fn spawn_as(&self, kind: Kind, task: BoxFuture<'static, ()>) {
        if self.is_alive() {
            self.world.spawn(kind, task);
        }
    }
}

impl Clock for Process {
    fn now(&self) -> Timestamp {
        self.world.wall()
    }

    fn since_boot(&self) -> Duration {
        self.world.since_boot()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.world.sleep(duration)
    }
}

impl Entropy for Process {
    fn fill(&self, buffer: &mut [u8]) {
        self.world.fill(buffer);
    }
}

impl Executor for Process {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.spawn_as(Kind::Engine, task);
    }

    fn spawn_hook(&self, task: BoxFuture<'static, ()>) {
        self.spawn_as(Kind::Hook, task);
    }

    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) {
        let delay = self.world.sleep(self.world.take_blocking_delay());
        self.spawn_as(
            Kind::Blocking,
            Box::pin(async move {
                delay.await;
                work();
            }),
        );
    }
}
