//! The engine's world on a real machine.

mod agents;
mod hub;
mod secrets;
mod tasks;

pub(crate) use agents::{AgentSessions, EngineExits, StoredTokens};
pub use hub::Hub;
pub(crate) use secrets::SecretStore;
pub(crate) use tasks::{HookThreads, MachineClock, MachineEntropy, MachineExecutor};
