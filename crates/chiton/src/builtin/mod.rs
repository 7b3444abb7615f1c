//! The drivers that the program ships with, as a distribution registers them: one module for each kind, with its config.
//!
//! - [`oci()`]: containers run directly; `oci/` has its tables of images and of the bridge
//! - [`docker()`] and [`podman()`] (`engines`): containers of an engine
//! - [`external()`]: a process of its own behind a socket
//! - `checks`: collecting what is wrong with a config, and the checks that several kinds share
//! - `registries`: whom a kind may ask for images, and as whom
//! - `machine`: what is asked of this machine for defaults

mod checks;
mod engines;
mod external;
mod machine;
mod oci;
mod registries;

pub use engines::{docker, podman};
pub use external::external;
pub use oci::oci;
