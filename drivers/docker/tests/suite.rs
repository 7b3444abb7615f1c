//! The promises of every driver, kept by this one on a real dockerd.

use chiton_driver_docker::Docker;
use chiton_driver_suite::driver_suite;
use chiton_engine_bench::{EngineBench, Target};

const DOCKER: Target = Target { name: "docker", dialect: &Docker, socket: "ENGINES_DOCKER", waived: |_| None };

driver_suite!(EngineBench::new(DOCKER));
