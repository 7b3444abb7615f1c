//! What an entry can say.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chiton_lifecycle::journal::{Commit, Mark, MarkEvent, Subject, Write};
use chiton_model::{
    ExtensionName, GatewayId, OperationId, OperationKind, Phase, Ran, SandboxId, SandboxPhase, StoreEpoch,
};

use crate::driver::Call;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its place in the global order.
    pub seq: usize,
    /// Virtual time since the world began.
    pub at: Duration,
    /// The life of the gateway in which it happened.
    pub generation: u64,
    /// What it was.
    pub what: What,
}

/// A hook call.
#[derive(Clone, Debug, PartialEq)]
pub struct Hook {
    /// Names the call; its end carries the same number.
    pub call: u64,
    /// Whose hook.
    pub extension: ExtensionName,
    /// Which.
    pub phase: Phase,
    /// About what.
    pub subject: Subject,
    /// In which operation.
    pub operation: OperationId,
    /// Which attempt.
    pub attempt: u32,
    /// What a cleanup was told of its action.
    pub ran: Option<Ran>,
    /// The reason that the hook was told, as a word.
    pub reason: Option<String>,
    /// The tag in the config that the instance was built with.
    pub tag: String,
}

/// How a hook call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It returned success.
    Succeeded,
    /// It returned an error.
    Failed(String),
    /// It panicked.
    Panicked,
    /// Its future was dropped.
    Dropped,
}

/// A change of a platform object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It exists.
    Created,
    /// It was half made.
    HalfMade,
    /// It runs.
    Started,
    /// It was stopped.
    Stopped,
    /// It ended by itself.
    Exited(i32),
    /// It is gone.
    Deleted,
    /// Somebody removed it behind the gateway's back.
    Lost,
}

/// A store as a process found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Tells stores apart: a copy is another one, a restored one the same.
    pub store: u64,
    /// Whose it is.
    pub gateway: GatewayId,
    /// Its life.
    pub epoch: StoreEpoch,
    /// Its rows: phase and the life in which they were made.
    pub rows: BTreeMap<SandboxId, (SandboxPhase, StoreEpoch)>,
    /// Operations without an outcome.
    pub open: BTreeMap<OperationId, (Subject, OperationKind)>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// A hook without effects looked at a request or plan.
    Look {
        /// Whose hook.
        extension: ExtensionName,
        /// Which.
        phase: Phase,
    },
    /// A hook began.
    HookBegin(Hook),
    /// A hook's future ended.
    HookEnd {
        /// Which call.
        call: u64,
        /// How.
        end: End,
    },
    /// A hook handed out blocking work.
    BlockingBegin {
        /// Which call's.
        call: u64,
    },
    /// A hook's blocking work ended.
    BlockingEnd {
        /// Which call's.
        call: u64,
    },
    /// An extension's effect took hold.
    Acquire {
        /// Whose.
        extension: ExtensionName,
        /// For whom.
        subject: Subject,
        /// The idempotency key.
        key: String,
        /// The hook that made it.
        call: u64,
    },
    /// An extension undid an effect.
    Release {
        /// Whose.
        extension: ExtensionName,
        /// For whom.
        subject: Subject,
        /// The idempotency key.
        key: String,
        /// The hook that undid it; none for a sweep.
        call: Option<u64>,
    },
    /// An extension was told to free what it holds for these.
    Sweep {
        /// Whose hook.
        extension: ExtensionName,
        /// For whom.
        ids: Vec<SandboxId>,
    },
    /// A driver call began.
    CallBegin {
        /// Names the call.
        call: u64,
        /// The driver.
        driver: String,
        /// Which call.
        kind: Call,
        /// About which sandbox.
        sandbox: Option<SandboxId>,
        /// In which operation, where the call says.
        operation: Option<OperationId>,
    },
    /// A driver call ended for its caller.
    CallEnd {
        /// Which call.
        call: u64,
        /// How, in words.
        outcome: String,
    },
    /// A platform object changed.
    Effect {
        /// The driver.
        driver: String,
        /// Whose object.
        sandbox: SandboxId,
        /// How.
        effect: Effect,
    },
    /// A commit became durable.
    Commit(Arc<Commit>),
    /// A commit failed; nothing was stored.
    CommitFailed(String),
    /// A mark was written.
    Mark(Mark),
    /// The gateway died.
    Crash {
        /// The machine went with it.
        reboot: bool,
    },
    /// A new life of the gateway began.
    Start,
    /// It opened its store.
    Opened(Arc<Opened>),
    /// Its store began a new life.
    Renewed(StoreEpoch),
    /// Somebody broke a contract.
    Violation(String),
    /// For the reader.
    Note(String),
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>5} {:>12.6}s g{} ", self.seq, self.at.as_secs_f64(), self.generation)?;
        match &self.what {
            What::Look { extension, phase } => write!(f, "look {extension} {phase}"),
            What::HookBegin(hook) => {
                write!(f, "hook #{} {} {} {} {}", hook.call, hook.extension, hook.phase, hook.subject, hook.operation)?;
                write!(f, " attempt {}", hook.attempt)?;
                if let Some(ran) = hook.ran {
                    write!(f, " ran {ran}")?;
                }
                if let Some(reason) = &hook.reason {
                    write!(f, " ({reason})")?;
                }
                Ok(())
            }
            What::HookEnd { call, end } => write!(f, "hook #{call} ended: {end:?}"),
            What::BlockingBegin { call } => write!(f, "hook #{call} blocks"),
            What::BlockingEnd { call } => write!(f, "hook #{call} blocks no more"),
            What::Acquire { extension, key, call, .. } => write!(f, "ACQUIRE {extension} {key} (#{call})"),
            What::Release { extension, key, .. } => write!(f, "RELEASE {extension} {key}"),
            What::Sweep { extension, ids } => write!(f, "sweep {extension} {ids:?}"),
            What::CallBegin { call, driver, kind, sandbox, .. } => {
                write!(f, "driver #{call} {driver} {kind:?}")?;
                sandbox.as_ref().map_or(Ok(()), |id| write!(f, " {id}"))
            }
            What::CallEnd { call, outcome } => write!(f, "driver #{call} ended: {outcome}"),
            What::Effect { driver, sandbox, effect } => write!(f, "EFFECT {driver} {sandbox} {effect:?}"),
            What::Commit(commit) => {
                write!(f, "COMMIT {}", commit.number)?;
                commit.writes.iter().try_for_each(|change| write_short(f, change))
            }
            What::CommitFailed(why) => write!(f, "commit failed: {why}"),
            What::Mark(mark) => write_mark(f, mark),
            What::Crash { reboot } => f.write_str(if *reboot { "POWER LOSS" } else { "CRASH" }),
            What::Start => f.write_str("START"),
            What::Opened(opened) => {
                write!(
                    f,
                    "store {} of {} epoch {} rows {}",
                    opened.store,
                    opened.gateway,
                    opened.epoch,
                    opened.rows.len()
                )
            }
            What::Renewed(epoch) => write!(f, "NEW EPOCH {epoch}"),
            What::Violation(text) => write!(f, "VIOLATION {text}"),
            What::Note(text) => write!(f, "note {text}"),
        }
    }
}

fn write_mark(f: &mut fmt::Formatter<'_>, mark: &Mark) -> fmt::Result {
    match &mark.event {
        MarkEvent::Step { step, status } => write!(f, "mark {} {step}: {status:?}", mark.operation),
        MarkEvent::Slots { extension, values } => write!(f, "mark {} slots of {extension}: {values:?}", mark.operation),
        MarkEvent::State { extension, .. } => write!(f, "mark {} state of {extension}", mark.operation),
    }
}

fn write_short(f: &mut fmt::Formatter<'_>, change: &Write) -> fmt::Result {
    match change {
        Write::PutSandbox(row) => {
            let held = if row.name_held { "" } else { " nameless" };
            write!(f, " +sandbox {} {}{held} debts {}", row.id, row.phase, row.debts.len())
        }
        Write::RemoveSandbox(id) => write!(f, " -sandbox {id}"),
        Write::ReleaseName(id) => write!(f, " -name {id}"),
        Write::PutConfig { .. } => write!(f, " +config"),
        Write::PutOperation(operation) => {
            let how = match &operation.outcome {
                None => "open".to_owned(),
                Some(outcome) => format!("{outcome:?}"),
            };
            write!(f, " +operation {} {} {} {how}", operation.id, operation.kind, operation.subject)
        }
        Write::PutState(subject, extension, _) => write!(f, " +state {subject} {extension}"),
        Write::RemoveState(subject, extension) => write!(f, " -state {subject} {extension}"),
        Write::PutObligation(debt) => {
            write!(f, " +obligation {} {} {} {:?}", debt.id, debt.debt.extension, debt.debt.phase, debt.reason)
        }
        Write::RemoveObligation(id) => write!(f, " -obligation {id}"),
        Write::PutWorkspace(row) => write!(f, " +workspace {:?} ready {}", row.key, row.ready),
        Write::RemoveWorkspace(key) => write!(f, " -workspace {key:?}"),
        Write::PutRequest(request) => write!(f, " +request {}", request.key.request_id),
        Write::Audit(audit) => write!(f, " +audit {}", audit.action),
    }
}
