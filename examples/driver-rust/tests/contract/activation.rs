//! A socket that systemd hands over.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use chiton_compute_wire::v1::GetCapabilitiesRequest;

use crate::subject::Subject;

/// As systemd does it: the socket is descriptor 3, and the variables name this process (`sd_listen_fds(3)`).
const HAND_OVER: &str = r#"exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@""#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rust_driver_serves_a_socket_that_was_handed_over() {
    let mut subject = Subject::rust();
    subject.process.kill().unwrap();
    subject.process.wait().unwrap();
    std::fs::remove_file(subject.socket()).unwrap();
    let listener = UnixListener::bind(subject.socket()).unwrap();
    let plain = subject.another();
    let mut command = Command::new("sh");
    command.args(["-c", HAND_OVER, "sh"]).arg(plain.get_program());
    // Another path than that of the socket: it must not be bound.
    command.arg("--state").arg(subject.state()).arg("--socket").arg(subject.state().join("no.sock"));
    subject.process = command.stdin(OwnedFd::from(listener)).stderr(Stdio::null()).spawn().unwrap();
    let mut client = subject.client().await;
    let said = client.calls.get_capabilities(GetCapabilitiesRequest {}).await.unwrap().into_inner();
    assert_eq!(said.driver_name, "example-rust");
    assert!(!subject.state().join("no.sock").exists());
    // The file is systemd's, and stays.
    drop(client);
    let pid = rustix::process::Pid::from_raw(i32::try_from(subject.process.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(subject.process.wait().unwrap().success());
    assert!(subject.socket().exists());
}
