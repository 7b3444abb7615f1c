//! The promises of every driver, kept by this one on a real dockerd.

mod common;

use chiton_driver_suite::driver_suite;
use chiton_engine_bench::{EngineBench, engine_trials};
use common::DOCKER;

driver_suite!(EngineBench::new(DOCKER));
engine_trials!(DOCKER);
