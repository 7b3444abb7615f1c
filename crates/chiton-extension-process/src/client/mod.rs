//! The gateway's side: a process that an operator named by its socket, as an extension that could be compiled in.

mod extension;
mod fence;
mod link;
mod peer;
mod process;
mod run;
#[cfg(test)]
mod tests;
mod wire_service;

pub use process::{Options, Process};
