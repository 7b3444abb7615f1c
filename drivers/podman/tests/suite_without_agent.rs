//! The promises of every driver, kept by this one on a real engine when it puts nothing into its sandboxes.

mod common;

use chiton_driver_suite::driver_suite;
use chiton_engine_bench::EngineBench;
use common::PODMAN;

driver_suite!(EngineBench::without_agent(PODMAN));
