//! A derived build: the program as it ships, with an extension that fails on command and the template.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    chiton::Distribution::new()
        .driver(chiton::oci())
        .extension(chiton_fleet_labels::extension())
        .extension(chiton_address_lease::extension())
        .extension(chiton_extension_noop::extension())
        .extension(chiton_tests::fault::extension())
        .main()
}
