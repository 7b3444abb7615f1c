//! Plans: what will be created, who set which value, and what is known only later.
//!
//! Extensions need no bookkeeping code: the engine compares the plan before and after each of them, checks every changed
//! path against the driver's field rules and attributes it. Writing the standing value is not a write.

mod build;
mod diff;
mod explain;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod rules;
mod seal;
mod sealed;
#[cfg(test)]
mod tests;

pub use explain::{Explained, explain};
pub use sealed::{PlanView, PlanWrite, SealedPlan, Slot, SlotOwner, Writer};

pub(crate) use build::PlanBuilder;
pub use seal::digest_json;
