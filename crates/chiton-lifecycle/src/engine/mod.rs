//! The engine: runs operations on sandboxes and workspaces, one at a time per subject.
//!
//! Reading order: `prepare` (request to sealed plan), `admit` (who may run now), `run` and `hooks` (one step), then one
//! file per operation, `cleanup` and `obligations` (paying debts), `recovery` (after a crash), and the background work.

mod admit;
mod background;
mod book;
mod calls;
mod chain;
mod cleanup;
mod create;
mod delete;
mod discharge;
mod durable;
mod each;
mod exit;
mod forget;
mod hooks;
mod inner;
mod mailbox;
mod obligations;
mod observe;
mod orphans;
mod outcome;
mod parts;
mod permits;
mod pieces;
mod prepare;
mod query;
mod reach;
mod reconcile;
mod recovery;
mod requests;
mod run;
mod start;
mod states;
mod stop;
mod sweep;
mod unwind;
mod volumes;
mod workspace;

use std::sync::Arc;

pub use admit::CancelCause;
pub use each::Gathered;
pub use orphans::{Orphan, OrphanVerdict};
pub use parts::{Accepted, CreateRequest, EngineConfig, EngineParts, ExtensionConfig, Missing, Request, StartupError};
pub use prepare::Preview;
pub use query::{ExtensionInfo, SandboxPage, SandboxView, Selector};
pub use reach::Unreachable;
pub use sweep::SweepReport;
pub use volumes::VolumeView;

/// The engine. Clones share one state.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<inner::Inner>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("store", &self.inner.journal.info()).finish_non_exhaustive()
    }
}
