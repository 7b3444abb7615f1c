//! Time, entropy and tasks.

use std::time::Duration;

use chiton_lifecycle::runtime::{Clock, Entropy, Executor};
use futures::future::BoxFuture;
use jiff::Timestamp;
use tokio::runtime::{Builder, Handle, Runtime};

/// Threads for hooks. A hook that blocks one of them stalls other hooks at worst, never the engine or the API.
const HOOK_THREADS: usize = 8;

/// The machine's clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MachineClock;

impl Clock for MachineClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn since_boot(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// The kernel's entropy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MachineEntropy;

impl Entropy for MachineEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        use rand::TryRngCore as _;
        // The kernel's generator does not fail once the machine is up; ids and tokens must not be guessable, so there is
        // no fallback.
        rand::rngs::OsRng.try_fill_bytes(buffer).expect("the kernel gives entropy");
    }
}

/// The hooks' own threads. Ends them without waiting when dropped: a hook that hangs must not hang the shutdown.
pub(crate) struct HookThreads(Option<Runtime>);

impl HookThreads {
    pub(crate) fn start() -> std::io::Result<Self> {
        let runtime =
            Builder::new_multi_thread().worker_threads(HOOK_THREADS).thread_name("hook").enable_all().build()?;
        Ok(Self(Some(runtime)))
    }

    pub(crate) fn handle(&self) -> Handle {
        self.0.as_ref().expect("the runtime is there until drop").handle().clone()
    }
}

impl Drop for HookThreads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Tasks on the gateway's runtime, hooks on theirs.
#[derive(Clone, Debug)]
pub(crate) struct MachineExecutor {
    pub(crate) engine: Handle,
    pub(crate) hooks: Handle,
}

impl Executor for MachineExecutor {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.engine.spawn(task);
    }

    fn spawn_hook(&self, task: BoxFuture<'static, ()>) {
        self.hooks.spawn(task);
    }

    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) {
        self.hooks.spawn_blocking(work);
    }
}
