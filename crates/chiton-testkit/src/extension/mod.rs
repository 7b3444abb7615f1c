//! Extensions of which every hook can be told how to behave.
//!
//! Each effect phase acquires one thing outside, under the idempotency key of its slot, and the cleanup phase that owes it
//! releases it: idempotent, without saved state, and also when nothing was acquired. That is the template which every real
//! extension follows, so what the engine promises to it, it promises to all.

mod gate;
mod hooks;
mod instance;
mod script;

pub use gate::Gate;
pub(crate) use instance::HookGuard;
pub use instance::ScriptedExtension;
pub use script::{Act, ExtensionScript, ScriptedConfig};
