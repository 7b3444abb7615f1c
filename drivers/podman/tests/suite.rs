//! The promises of every driver, kept by this one on a real podman service.

use chiton_driver_podman::Podman;
use chiton_driver_suite::driver_suite;
use chiton_engine_bench::{EngineBench, Target};

const PODMAN: Target = Target { name: "podman", dialect: &Podman, socket: "ENGINES_PODMAN", waived: |_| None };

driver_suite!(EngineBench::new(PODMAN));
