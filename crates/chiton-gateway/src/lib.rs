//! The gateway: one process that composes the engine, its store, drivers, extensions, agent sessions and the API.
#![forbid(unsafe_code)]

pub mod api;
pub mod config;
pub mod metrics;
pub mod plugin;
pub mod sessions;
pub mod world;
