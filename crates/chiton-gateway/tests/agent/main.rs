//! The real agent as a child process against the real hub: what one end promises, seen from the other.

mod confine;
mod exec;
mod files;
mod init;
mod launch;
mod sandbox;
mod session;
