//! What root is told of the machine.

mod common;

use chiton_driver_oci::{OciOptions, doctor, probe};
use chiton_model::{DriverId, GatewayId};
use common::*;

fn options() -> OciOptions {
    OciOptions::new(
        DriverId::new("oci").unwrap(),
        GatewayId::new("g-doctor").unwrap(),
        "/tmp/chiton-oci-doctor/state".into(),
        "/tmp/chiton-oci-doctor/run".into(),
        b"agent",
    )
}

#[test]
fn on_this_machine_the_doctor_finds_all_that_root_needs() {
    if !root("on_this_machine_the_doctor_finds_all_that_root_needs") {
        return;
    }
    let missing: Vec<_> = doctor(&options()).into_iter().filter(|finding| !finding.ok).collect();
    assert!(missing.is_empty(), "{missing:#?}");
    for finding in doctor(&options()) {
        assert!(finding.cure.is_empty() && !finding.detail.is_empty(), "{finding:?}");
    }
}

#[test]
fn on_this_machine_root_can_make_sandboxes() {
    if !root("on_this_machine_root_can_make_sandboxes") {
        return;
    }
    let found = probe().expect("the tests of this driver run here");
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(found, format!("containers of this kernel, Linux {}, as root", release.trim()));
}
