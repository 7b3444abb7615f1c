//! What the engine needs of the world, by trait: time, entropy, tasks, agents, secrets and an audience. A test owns them all.

mod cancel;
mod world;

pub use cancel::CancelToken;
pub use world::{Agents, Audience, Clock, Entropy, Executor, LifecycleEvent, Secrets, World};
