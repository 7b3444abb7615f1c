//! The gateway: one process that composes the engine, its store, drivers, extensions, agent sessions and the API.
#![forbid(unsafe_code)]

pub mod config;
pub mod sessions;
