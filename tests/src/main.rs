//! The gateway as the end-to-end tests run it: everything that ships, the template extension, and the misbehaving one.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    chiton::Distribution::new()
        .driver(chiton::oci())
        .driver(chiton_tests::links::kind())
        .extension(chiton_fleet_labels::extension())
        .extension(chiton_address_lease::extension())
        .extension(chiton_extension_noop::extension())
        .extension(chiton_tests::netns::extension())
        .extension(chiton_tests::fault::extension())
        .main()
}
