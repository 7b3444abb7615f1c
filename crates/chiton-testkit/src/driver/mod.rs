//! A platform of which every call can be told how to behave, and its driver.
//!
//! The platform stands outside of the gateway: its objects, its calls in flight and its news survive a crash, as a real
//! platform's do. What a call promises and what it does are two things here, because the hard cases of a lifecycle are
//! those in which they differ.

mod calls;
mod client;
mod plan;
mod platform;
mod script;
#[cfg(test)]
mod tests;
mod watch;

pub use client::ScriptedDriver;
pub use plan::{ScriptedDevice, ScriptedMount, ScriptedNetwork, ScriptedPlan, ScriptedResources, ScriptedSealed};
pub use platform::{ObjectView, ScriptedPlatform};
pub use script::{Behaviour, Call, DriverSpec};
