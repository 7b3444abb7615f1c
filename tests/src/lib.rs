//! What the end-to-end tests need beside the program itself.
//!
//! The tests run the real program with the real driver and make real sandboxes, because what can go wrong between
//! processes (a gateway that dies, a file that stays, a group of processes that nobody ends) shows nowhere else. One
//! part is not of the product: an extension that misbehaves on demand. It is compiled into a distribution of its own,
//! `chiton-test`, in the same way in which any derived build adds an extension.
//!
//! - [`fault`]: the extension
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod fault;
