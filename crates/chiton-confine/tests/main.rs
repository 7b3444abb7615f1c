//! Profiles as data: what stands where, what compares as tighter, and what a compiled filter answers.

mod filter;
mod profile;
mod tighten;
