//! The gateway as the end-to-end tests run it: everything that ships, the template extension, and the misbehaving one.
//!
//! Two variables make it another build of the same gateway: `TEST_WITHOUT=fault` leaves the misbehaving extension out, and
//! `TEST_STATE_SCHEMA` is the version of the state that it saves, of which it reads no other. Two more are about crash
//! points, which `chiton_tests::points` explains.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let distribution = chiton::Distribution::new()
        .crash_points(chiton_tests::points::from_environment())
        .driver(chiton::oci())
        .driver(chiton::docker())
        .driver(chiton::podman())
        .driver(chiton::external())
        .driver(chiton_tests::links::kind())
        .guests(chiton::supervisors())
        .extension(chiton_fleet_labels::extension())
        .extension(chiton_address_lease::extension())
        .extension(chiton_extension_noop::extension())
        .extension(chiton_extension_scratch::extension())
        .extension(chiton_tests::netns::extension());
    if std::env::var("TEST_WITHOUT").is_ok_and(|name| name == "fault") {
        return distribution.main();
    }
    let schema = std::env::var("TEST_STATE_SCHEMA").ok().and_then(|text| text.parse().ok());
    distribution.extension(chiton_tests::fault::extension_of(schema.unwrap_or(1))).main()
}
