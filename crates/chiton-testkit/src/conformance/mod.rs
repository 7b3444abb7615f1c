//! The kit with which an extension's author proves that it keeps the rules of `docs/extensions.md`.
//!
//! One line makes some hundred tests, each named by what is done to the extension and in which phase:
//!
//! ```ignore
//! use chiton_testkit::conformance::Bench;
//!
//! chiton_testkit::conformance!(my_extension::extension(), || Bench::in_folder(|folder| json!({ "folder": folder })));
//! ```
//!
//! The author's real extension runs under the real engine, in a world with a virtual clock, a scripted driver and a journal
//! in memory. A wrapper stands between engine and extension: it lets a call fail, hang, panic, be cancelled or be cut off by
//! a crash, before, inside and after the author's hook, watches what the hook does with its context, and looks at the
//! outside through the author's *effects hook* ([`Bench::held`]) after every poll and every piece of blocking work. In the
//! end everything is deleted, and whatever is held then is a finding.
//!
//! What it cannot see: a crash between two system calls of one piece of blocking work, threads that were given names of
//! their own, and effects that the effects hook does not list.

mod bench;
mod calm;
mod check;
mod faults;
mod finding;
mod keyed;
mod kit;
mod leaks;
mod macros;
mod outside;
mod pure;
mod rig;
mod stage;
mod state;
mod watch;
mod wrap;

pub use bench::Bench;
pub use check::{Check, Family};
pub use chiton_model::Phase;
pub use finding::{Finding, Rule};
pub use kit::Kit;

/// The guide's code, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../../../docs/extensions.md")]
pub struct Guide;
