//! What an ordinary user is told.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use chiton_driver::ComputeDriver;
use chiton_driver_oci::{OciDriver, OciOptions, doctor};
use chiton_model::{DriverId, ErrorKind, GatewayId};
use common::*;

fn options() -> OciOptions {
    OciOptions::new(
        DriverId::new("oci").unwrap(),
        GatewayId::new("g-user").unwrap(),
        "/tmp/chiton-oci-user/state".into(),
        "/tmp/chiton-oci-user/run".into(),
        b"agent",
    )
}

async fn told() {
    let driver = OciDriver::new(options());
    let plan = driver.default_plan(&request("host", &["true"])).await.unwrap().plan;
    let refused = driver.validate(&plan).await.unwrap_err();
    let uid = rustix::process::geteuid().as_raw();
    assert_eq!(refused.message, format!("the oci driver must run as root and this process runs as uid {uid}"));
    assert!(refused.cure.as_deref().unwrap().contains("as root"), "{refused:?}");
    assert!(matches!(refused.kind, ErrorKind::Unavailable { .. }));
    let id = sandbox_id();
    let created = driver.create(&fill(plan, &id)).await.unwrap_err();
    assert_eq!(created.error().message, refused.message);
    let findings = doctor(&options());
    let root = findings.iter().find(|finding| finding.what == "root").unwrap();
    assert!(!root.ok && root.cure.contains("sudo"), "{root:?}");
    assert!(!options().state_dir.exists(), "something was made");
}

#[tokio::test]
async fn an_ordinary_user_is_told_what_is_missing_and_nothing_is_made() {
    if !rustix::process::geteuid().is_root() {
        told().await;
        return;
    }
    // As root the same test runs again as nobody, from a copy that nobody may execute.
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = folder.path().join("user");
    fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let output = Command::new(&copy)
        .args(["--exact", "an_ordinary_user_is_told_what_is_missing_and_nothing_is_made"])
        .current_dir("/")
        .uid(65534)
        .gid(65534)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
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
