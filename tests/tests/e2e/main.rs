//! End-to-end tests: the real program, the real driver, real sandboxes.
//!
//! - `life`: what a user does with a sandbox, from create to delete
//! - `kill`: the gateway is killed in the midst of it
//! - `harness`: a gateway of a test's own, and the look at the machine afterwards
#![forbid(unsafe_code)]

mod harness;
mod kill;
mod life;
