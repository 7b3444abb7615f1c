//! The traits behind which the world hides.

use std::sync::Arc;
use std::time::Duration;

use chiton_driver::Observed;
use chiton_model::{DriverId, Error, ExtensionName, OperationId, Principal, SandboxId, WorkspaceName};
use futures::future::BoxFuture;
use jiff::Timestamp;

use crate::crash::Points;
use crate::journal::{SandboxRecord, StepKey};

/// Time.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock; for people and for expiry over restarts. May jump.
    fn now(&self) -> Timestamp;

    /// Time since boot, counting sleep (`CLOCK_BOOTTIME`); never jumps back within a boot.
    fn since_boot(&self) -> Duration;

    /// Resolves after the duration has passed on [`Clock::since_boot`].
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// Entropy for ids, tokens and jitter.
pub trait Entropy: Send + Sync + 'static {
    /// Fills the buffer; must be fit for secrets.
    fn fill(&self, buffer: &mut [u8]);
}

/// Tasks.
pub trait Executor: Send + Sync + 'static {
    /// Runs an operation or a background task of the engine.
    fn spawn(&self, task: BoxFuture<'static, ()>);

    /// Runs a hook, on threads that the engine's own tasks do not need: a hook that blocks its thread stalls no sandbox
    /// but its own.
    fn spawn_hook(&self, task: BoxFuture<'static, ()>);

    /// Runs blocking work of a hook.
    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>);
}

/// Sessions with the agents inside sandboxes.
pub trait Agents: Send + Sync + 'static {
    /// Makes it possible for this sandbox's agent to connect. Called before every start, and at start-up for every
    /// sandbox that may run. Idempotent.
    fn open<'a>(&'a self, driver: &'a DriverId, sandbox: &'a SandboxId) -> BoxFuture<'a, Result<(), Error>>;

    /// Resolves when the agent of that attempt is connected, or was since this was called, polled or not.
    fn connected(&self, sandbox: &SandboxId, attempt: &str) -> BoxFuture<'static, ()>;

    /// Ends the session and its listener. Idempotent.
    fn close<'a>(&'a self, sandbox: &'a SandboxId) -> BoxFuture<'a, ()>;
}

/// Values of the operator's secrets.
pub trait Secrets: Send + Sync + 'static {
    /// Whether this principal may use the reference in this workspace, and it exists. Reads no value.
    fn check(&self, reference: &str, principal: &Principal, workspace: &WorkspaceName) -> Result<(), Error>;

    /// The value, read anew.
    fn read<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<String, Error>>;
}

/// What the engine tells whoever listens. Delivery must not block.
#[derive(Clone, Debug)]
pub enum LifecycleEvent {
    /// A sandbox's record changed.
    Changed(Arc<SandboxRecord>),
    /// A sandbox's record is gone.
    Removed(SandboxId),
    /// A step of an operation began.
    StepStarted {
        /// The operation.
        operation: OperationId,
        /// The sandbox it is about, if it is about one.
        sandbox: Option<SandboxId>,
        /// The step.
        step: StepKey,
    },
    /// A step of an operation ended.
    StepEnded {
        /// The operation.
        operation: OperationId,
        /// The sandbox it is about, if it is about one.
        sandbox: Option<SandboxId>,
        /// The step.
        step: StepKey,
        /// How long it took.
        took: Duration,
        /// Empty on success, else what went wrong.
        error: Option<String>,
    },
    /// Slow work of a driver goes on.
    Progress {
        /// The sandbox.
        sandbox: SandboxId,
        /// What is being done.
        message: String,
    },
    /// A cleanup could not be paid, was paid late, or was closed by hand.
    Obligation {
        /// Its id.
        id: String,
        /// Who owes.
        extension: ExtensionName,
        /// Whether it is still listed: a cleanup was tried and did not pay it. Not: it was paid, closed or forgotten.
        open: bool,
        /// What happened.
        message: String,
    },
    /// Something that an operator must be able to find later.
    Audit {
        /// What was done, as one word.
        action: &'static str,
        /// What it was done to.
        subject: String,
        /// By whom: a principal, or `engine`.
        by: String,
        /// Why.
        message: String,
    },
    /// A driver reports an object that no record owns.
    Unowned(Box<Observed>),
}

/// Whoever listens to the engine.
pub trait Audience: Send + Sync + 'static {
    /// Takes an event. Must return at once.
    fn tell(&self, event: LifecycleEvent);
}

/// All of it.
#[derive(Clone)]
pub struct World {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Entropy.
    pub entropy: Arc<dyn Entropy>,
    /// Tasks.
    pub executor: Arc<dyn Executor>,
    /// Agent sessions.
    pub agents: Arc<dyn Agents>,
    /// Secrets.
    pub secrets: Arc<dyn Secrets>,
    /// Listeners.
    pub audience: Arc<dyn Audience>,
    /// Who watches where a crash may come.
    pub points: Points,
}

impl World {
    /// Milliseconds of the wall clock, for ids.
    pub(crate) fn millis(&self) -> u64 {
        u64::try_from(self.clock.now().as_millisecond()).unwrap_or(0)
    }

    /// Fresh random bytes.
    pub(crate) fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.entropy.fill(&mut bytes);
        bytes
    }

    /// A fresh operation id.
    pub(crate) fn operation_id(&self) -> OperationId {
        OperationId::generate(self.millis(), self.random())
    }
}
