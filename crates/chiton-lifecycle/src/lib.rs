//! The lifecycle engine: everything that happens around a driver's calls, and nothing else.
//!
//! A create through a chain of extensions is a small distributed transaction without a transaction manager: each step
//! may fail, hang or be cut off by a crash, and whoever may have acted must be able to clean up, once the thing they
//! acted for is gone. The engine makes that promise for every driver alike. It decides what runs next from the journal
//! alone, so that a restart continues exactly where a crash left off.
//!
//! It does no I/O: clock, journal, drivers, agents and tasks come in by trait, and tests run it under a virtual clock.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod activation;
pub mod crash;
pub mod engine;
pub mod extension;
pub mod journal;
pub mod plan;
pub mod policy;
pub mod runtime;

pub use engine::{
    Accepted, CancelCause, CreateRequest, Engine, EngineConfig, EngineParts, ExtensionConfig, ExtensionInfo, Gathered,
    Missing, Orphan, OrphanVerdict, Preview, Request, SandboxPage, SandboxView, Selector, StartupError, SweepReport,
    Unreachable, VolumeView,
};
