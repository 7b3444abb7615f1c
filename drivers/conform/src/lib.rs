//! Holds compute drivers behind a socket against the contract, as a gateway that trusts nothing would.
//!
//! Everything is asked over the wire; nothing is assumed of the platform behind it. Each case has a stable name, a sentence,
//! the rule's source and a deadline. What a driver cannot do is declared, by the driver itself, by whoever runs the kit or
//! in a file; nothing is left out in silence. `docs/driver-conformance.md` explains every case.
//!
//! - [`run`], [`Options`]: the way in
//! - [`Report`]: what became of each case; as text, JSON and `JUnit` XML
//! - [`CASES`], [`Case`]: the cases of the wire; the other [`Group`] is `chiton-driver-suite`'s
//! - [`Declared`]: expected failures, read from a file
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod ask;
mod behaviour;
mod case;
mod cases;
mod declare;
mod options;
mod play;
mod raw;
mod report;
mod stage;
mod verdict;
mod watch;
mod wire;

pub use case::{CASES, Case, Effort, Group, select};
pub use declare::{DeclareError, Declared};
pub use options::{Limits, Options, Restart};
pub use play::run;
pub use report::{CaseResult, Report};
pub use verdict::{By, Finding, Outcome};
