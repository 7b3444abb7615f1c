//! What this driver puts into sandboxes beside their image, on a real engine.

mod common;

use chiton_engine_bench::injection_trials;
use common::PODMAN;

injection_trials!(PODMAN);
