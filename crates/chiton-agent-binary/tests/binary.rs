//! What is embedded is the agent, static and whole.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use chiton_agent_binary::{AGENT, SHA256};
use sha2::{Digest as _, Sha256};

#[path = "../build/explain.rs"]
mod explain;

#[test]
fn digest_is_that_of_the_bytes() {
    assert_eq!(hex::encode(Sha256::digest(AGENT)), SHA256);
}

#[test]
fn binary_asks_for_no_dynamic_linker() {
    assert_eq!(&AGENT[..4], b"\x7fELF");
    let number = |at: usize, size: usize| {
        AGENT[at..at + size].iter().rev().fold(0_usize, |value, byte| value << 8 | usize::from(*byte))
    };
    // ELF64: where the program headers are, how large and how many; type 3 is PT_INTERP.
    let (start, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    assert!(count > 0);
    assert!((0..count).all(|index| number(start + index * size, 4) != 3), "the binary names an interpreter");
}

#[test]
fn binary_runs_without_any_file_of_an_image() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("chiton-agent");
    fs::write(&file, AGENT).expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("executable");
    let output = Command::new(&file).arg("--version").env_clear().output().expect("it starts");
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("chiton-agent {}\n", env!("CARGO_PKG_VERSION")));
    // Known, and refuses to be started by hand.
    let monitor = Command::new(&file).args(["monitor", "s-1"]).env_clear().output().expect("it starts");
    assert!(String::from_utf8_lossy(&monitor.stderr).contains("started by the driver"));
    let refused = Command::new(&file).arg("nonsense").env_clear().output().expect("it starts");
    assert_eq!(refused.status.code(), Some(2));
    assert!(refused.stdout.is_empty());
}

#[test]
fn missing_static_library_is_named_with_its_packages() {
    let text = explain::failure("x86_64-unknown-linux-gnu", "/usr/bin/ld: cannot find -lc: No such file or directory");
    assert!(text.contains("libc6-dev") && text.contains("glibc-static"), "{text}");
    let other = explain::failure("x86_64-unknown-linux-gnu", "error[E0308]: mismatched types");
    assert!(!other.contains("libc6-dev"), "{other}");
}

#[test]
fn only_a_build_that_lacks_the_network_asks_for_it() {
    assert!(explain::needs_network("As a reminder, you're using offline mode (--offline)"));
    assert!(!explain::needs_network("error: linking with `cc` failed"));
}
