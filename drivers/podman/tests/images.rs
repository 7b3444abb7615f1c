//! Images on a real engine and from a real registry.
#![allow(dead_code)] // What is shared with other tests has more than each of them uses.

#[path = "../../../crates/chiton-image/tests/images/build.rs"]
mod build;
#[macro_use]
#[path = "../../container-engine/tests/images/mod.rs"]
mod images;
#[path = "../../../crates/chiton-image/tests/images/served.rs"]
mod served;

use chiton_driver_podman::Podman;
use images::bench::Target;

image_cases!(Target { dialect: &Podman, socket: "ENGINES_PODMAN" });

mod rootless {
    use super::{Podman, Target, images};

    image_cases!(Target { dialect: &Podman, socket: "ENGINES_PODMAN_ROOTLESS" });
}
