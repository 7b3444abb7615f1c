//! The promises of every driver, kept by this one on a real podman service.

mod common;

use chiton_driver_suite::driver_suite;
use chiton_engine_bench::{EngineBench, engine_trials};
use common::PODMAN;

driver_suite!(EngineBench::new(PODMAN));
engine_trials!(PODMAN);
