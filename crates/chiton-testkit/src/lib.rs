//! A deterministic world in which the lifecycle engine can be crashed at any point.
//!
//! A promise such as "after any crash every effect is owned, undone or listed" is only worth its test, and such a test
//! needs to own time, scheduling, the disk and both neighbours of the engine. Everything here runs on one thread under a
//! virtual clock; one seed decides every choice, so a failure is replayed by its seed. What the engine did is not counted
//! but read from one ledger, in which the journal, the drivers and the extensions write in one global order.
//!
//! - [`VirtualWorld`]: tasks, time and entropy; [`Process`] is one life of the gateway in it.
//! - [`Ledger`]: what happened, and the checks over it.
//! - [`MemoryJournal`]: a strict journal whose disk survives crashes.
//! - [`ScriptedPlatform`]: a platform whose every call behaves as scripted, and its driver.
//! - [`ExtensionScript`]: extensions whose every hook behaves as scripted.
//! - [`ScriptedAgents`], [`ScriptedSecrets`], [`RecordingAudience`]: the rest of the world.
//! - [`Lab`]: all of it around one engine.
//! - [`conformance!`]: the kit with which authors prove that their extensions keep the rules.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod agents;
mod audience;
pub mod conformance;
mod driver;
mod extension;
mod journal;
mod lab;
mod ledger;
mod rng;
mod secrets;
mod signal;
mod world;

pub use agents::{AgentBehaviour, ScriptedAgents};
pub use audience::RecordingAudience;
pub use driver::{
    Behaviour, Call, DriverSpec, ObjectView, ScriptedDevice, ScriptedDriver, ScriptedMount, ScriptedNetwork,
    ScriptedPlan, ScriptedPlatform, ScriptedResources, ScriptedSealed,
};
pub use extension::{Act, ExtensionScript, Gate, ScriptedConfig, ScriptedExtension};
pub use journal::{Backup, JournalHandle, MarkLoss, MemoryJournal};
pub use lab::Lab;
pub use ledger::{Effect, End, Entry, Hook, Ledger, Opened, Truth, What};
pub use rng::Rng;
pub use secrets::ScriptedSecrets;
pub use signal::Signal;
pub use world::{Halt, Process, VirtualWorld};
