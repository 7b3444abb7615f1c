//! What every compute driver promises, as one list of cases that any driver can be held against.
//!
//! The lifecycle engine relies on rules that no type can express: a deleted id is never made again, an unknown create is
//! found by its id, nothing of a sandbox outlives its deletion. Here these rules are cases, each run against a real
//! platform with a real shell in a real sandbox, and the same cases for every driver.
//!
//! - [`Bench`]: what a driver's author writes, once: how to make the driver, and how to look at its platform from outside.
//! - [`Case`], [`CASES`]: the cases; [`run`] runs one of them, [`Report`] is what became of it, as data.
//! - [`driver_suite!`]: one test for each case.
//! - [`Table`]: drivers × cases, for people.
//! - [`proxy`]: stands between a driver and an engine's socket and loses, delays, cuts and holds up as it is told.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod bench;
mod case;
mod cases;
mod door;
mod life;
mod list;
mod look;
mod macros;
mod stage;
mod table;
mod verdict;

pub mod proxy;

pub use bench::{AgentFolder, Bench, FaultyBench, Foreign, Named, Routes, Subject, absent, engine, text_of_files};
pub use case::{CASES, Case, run};
#[doc(hidden)]
pub use macros::assert_case;
pub use stage::Stage;
pub use table::{MakeBench, Table};
pub use verdict::{Failure, Outcome, Report, Stop, Verdict};
