//! The command line against a scripted gateway: what it prints, asks and exits with.
#![forbid(unsafe_code)]

mod answers;
mod conform;
mod copies;
mod drivers;
mod execs;
mod faults;
mod scripted;
mod terminal;
