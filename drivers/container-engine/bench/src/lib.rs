//! Holds the drivers of container engines against the driver suite, on real engines.
//!
//! What drivers do not offer (traces of a gateway, objects of somebody else, all that an inspection shows) is asked of the
//! engine by a client of its own, which shares nothing with the drivers'.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod api;
mod bench;
mod foreign;
mod life;
mod macros;
mod restart;
pub mod supervisor;
mod traces;
pub mod trials;

pub use api::{Answer, Api};
pub use bench::{EngineBench, Target};
pub use macros::judged;
pub use restart::{Without, survives_the_engines_restart};
