//! What a sandboxed process may ask of the kernel, as data: a [`Seccomp`] profile of system calls and a [`Landlock`]
//! profile of paths. Profiles are written into plans, compared ([`Seccomp::at_least_as_tight`]), tightened and never
//! loosened ([`Seccomp::deny`], [`Landlock::writable`]), compiled and applied to the calling process.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod apply;
mod check;
mod compile;
mod error;
mod paths;
mod seccomp;
mod standard;
mod table;

pub use apply::{Confinement, Enforced, Held, apply, enforceable};
pub use check::{Alternative, Check};
pub use compile::{Arch, Program};
pub use error::{ApplyError, ProfileError};
pub use paths::{Landlock, PathRule, Right, Scope, TcpRule};
pub use seccomp::{Errno, Family, Seccomp, known_syscall, syscalls, why_refused};
