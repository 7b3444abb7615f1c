//! The gateway as it ships. A derived build is such a file with more lines in the middle.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    chiton::Distribution::new()
        .driver(chiton::oci())
        .driver(chiton::docker())
        .driver(chiton::podman())
        .driver(chiton::external())
        .guests(chiton::supervisors())
        .extension(chiton_fleet_labels::extension())
        .extension(chiton_address_lease::extension())
        .main()
}
