//! What the end-to-end tests share: a gateway of their own, the command line, and a look at what is left.
#![forbid(unsafe_code)]

pub mod fault;
pub mod gateway;
pub mod leftovers;

pub use gateway::{Gateway, Output};

/// Whether real sandboxes can be made; says by name what is skipped when not.
pub fn root_or_skip(test: &str) -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    eprintln!("SKIPPED {test}: real sandboxes need root");
    false
}
