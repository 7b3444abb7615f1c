//! The engine that the tests are about.

use std::time::Duration;

use chiton_driver_podman::Podman;
use chiton_engine_bench::Target;

pub(crate) const PODMAN: Target = Target {
    name: "podman",
    dialect: &Podman,
    socket: "ENGINES_PODMAN",
    // A request with one limit puts aside the engine's own, and its built-in ones need CAP_SYS_RESOURCE.
    ulimits: &[("nofile", 1024), ("nproc", 1024)],
    waived: |_| None,
    silent_about_memory: Some("before version 5, podman looks for its monitor's mark in a folder where it is not"),
    log_step: Duration::from_secs(1),
};
