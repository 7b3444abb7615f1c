//! The promises of every driver, kept by this one when it puts nothing into its sandboxes.

#[path = "common/bench.rs"]
mod bench;
mod common;

use bench::OciBench;
use chiton_driver_suite::driver_suite;

driver_suite!(OciBench::new(false));
