//! The gateway's hub, this crate, and a scripted supervisor at the other end of a TCP connection: everything but the
//! sandbox's walls is real.
#![forbid(unsafe_code)]

mod exec;
mod files;
mod gateway;
mod rig;
mod session;
mod ssh_server;
mod stock;
mod supervisor;
mod terminal;
mod trust;
