//! Serves a driver to gateways of other processes, over `openshell.compute.v1`.
//!
//! What is served is never the bare driver: it is the lifecycle engine with a journal of its own around it, and the chain
//! of extensions that its configuration names, which may be empty. So a caller that gives no second chance loses nothing:
//! what a call began is finished or undone by itself, also after a crash, whatever the caller does.
//!
//! - [`serve`]: its life
//! - `service`: each call by the table of composed drivers
//! - `request`: the contract's sandbox as a request
//! - `show`: a record as the contract's sandbox
//! - `watch`: the news
//! - `credentials`: what callers hand over and nobody may store
//! - `served`: the base driver, with those credentials
//! - `relay`: an agent's way to the gateway that asked for it
//! - `gone`: ids that are never made again
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod credentials;
mod gone;
mod relay;
mod request;
mod serve;
mod served;
mod service;
mod show;
mod watch;

pub use serve::{Listen, ServeOptions, announce, serve};
