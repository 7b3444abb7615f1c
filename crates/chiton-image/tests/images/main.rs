//! The store with real files: layers that the tests make, a real registry that they start, and real kills.

mod build;
mod common;
mod export;
mod gc;
mod hostile;
mod kill;
mod layers;
mod names;
mod registry;
mod served;
mod sources;
