//! The engine that the tests are about.

use std::time::Duration;

use chiton_driver_docker::Docker;
use chiton_engine_bench::Target;

pub(crate) const DOCKER: Target = Target {
    name: "docker",
    dialect: &Docker,
    socket: "ENGINES_DOCKER",
    ulimits: &[],
    waived: |_| None,
    silent_about_memory: None,
    log_step: Duration::ZERO,
};
