//! The gateway: one process that composes the engine, its store, drivers, extensions, agent sessions and the API.
//!
//! - [`mod@compose`]: the whole system being put together, in one readable function
//! - [`mod@serve`]: its life, from listening to draining
//! - [`config`]: the operator's settings
//! - [`plugin`]: what a distribution plugs in; no kind of driver or extension is named in this crate
//! - [`api`], `http`, `listen`: what callers reach
//! - [`sessions`]: the agents inside sandboxes
//! - [`world`], [`metrics`], `audit`: the engine's world, and what it tells
#![forbid(unsafe_code)]

pub mod api;
mod audit;
pub mod compose;
pub mod config;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod http;
mod listen;
pub mod metrics;
pub mod plugin;
mod processes;
pub mod serve;
pub mod sessions;
pub mod world;

pub use plugin::{
    AgentFolder, BuiltDriver, DriverContext, DriverKind, Finding, GuestContext, GuestKind, GuestServer, Listen, Plugins,
};
