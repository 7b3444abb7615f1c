//! The gateway's API over gRPC: authenticates, translates, and asks the engine. No decision is made here.

mod backup;
mod convert;
mod drivers;
mod files;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod images;
mod operate;
mod peer;
mod sandboxes;
mod service;
mod volumes;
mod watch;

pub use peer::Peer;
pub use service::Api;
pub(crate) use service::Configured;
