//! A compute driver behind a socket that keeps every rule of the contract, and breaks one when it is told to.
//!
//! The conformance kit is held against it: nothing may be found in the driver as it is, and each [`Fault`] must be found
//! by the case that is about it. It is also a driver for tests and measurements that need no container: its sandboxes are
//! ordinary processes of this machine without any confinement, so it is nothing to run strangers' programs with.
//!
//! - [`Platform`]: the sandboxes and their processes; outlives servers, as a platform does
//! - [`Server`]: serves it on a socket until dropped, and may be started again on the same platform
//! - [`Script`], [`Fault`]: how it is to behave
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod check;
mod fault;
mod inspect;
mod platform;
mod run;
mod saved;
mod serve;
mod service;
mod stock;
mod view;
mod watch;

pub use fault::{Fault, Faults};
pub use platform::Platform;
pub use serve::{Script, Server};
