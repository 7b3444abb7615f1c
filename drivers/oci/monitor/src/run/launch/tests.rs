use std::io::ErrorKind;
use std::process::{Command, Stdio};

use super::{verify, verify_process};

#[test]
fn a_process_without_a_filter_or_with_a_shared_namespace_is_refused() {
    // Sleeps for as long as its input stays open.
    let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let error = verify_process(pid).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert_eq!(error.to_string(), "no system call filter holds for the container's init: Seccomp is \"0\"");
    let error = verify(pid, false).unwrap_err();
    assert_eq!(error.to_string(), "the container shares the host's user namespace");
    drop(child.stdin.take());
    child.wait().unwrap();
    assert!(verify_process(pid).is_err(), "what is not there is not confined");
}
