//! Drivers served to gateways of other processes: ours at the other end, and one that knows only the contract.
//!
//! - `ours`: a gateway of ours over a served driver, with the agent on a way of two sockets
//! - `stock`: a driver with a chain and a journal of its own, driven as a gateway without a second chance drives it
//! - `kills`: the same, killed in the middle over and over
//! - `conform`: every built-in driver, held against the contract
//! - `peer`: the calls and rows of such a gateway

mod conform;
mod kills;
mod ours;
mod peer;
pub(crate) mod process;
mod stock;
