//! Limits of a sandbox's writable layer: by what means this machine can hold one, and the files that it takes.
//!
//! The layer of a sandbox without a limit is a plain folder. With one it is a file system of its own in a
//! sparse file, or, only when asked for, a file system in memory. What is here runs in the gateway; what is mounted is mounted by the launch child, in its own namespace.

mod geometry;
mod image;
mod means;

pub(crate) use geometry::Geometry;
pub(crate) use image::prepare;
pub(crate) use means::{DiskAbility, check, chosen};
