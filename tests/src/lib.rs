//! What the end-to-end tests need beside the program itself.
//!
//! The tests run the real program with the real driver and make real sandboxes, because what can go wrong between
//! processes (a gateway that dies, a file that stays, a group of processes that nobody ends) shows nowhere else. One
//! part is not of the product: an extension that misbehaves on demand. It is compiled into a distribution of its own,
//! `chiton-test`, in the same way in which any derived build adds an extension.
//!
//! - [`fault`]: an extension that misbehaves on demand
//! - [`netns`]: an extension with an effect in the kernel
//! - [`links`]: a driver with real effects at next to no cost
//! - [`points`]: dying at a crash point
//! - [`engines`]: docker and podman as they see themselves
//! - [`recovery`]: a gateway that comes back to much
//! - [`crash`]: a gateway that is killed over and over, and the look at the machine between
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod crash;
pub mod engines;
pub mod fault;
pub mod liar;
pub mod links;
pub mod netns;
pub mod points;
pub mod recovery;
