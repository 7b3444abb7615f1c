//! A network namespace of a gateway's own, kept for all its lives by a process that ends with the test.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::PROGRAM;

/// Who keeps the namespace.
pub(super) struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Holder {
    /// Makes a namespace with a loopback interface and nothing else.
    pub(super) fn new() -> Self {
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && echo made && exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a network namespace");
        let output = child.stdout.take().expect("its output");
        let holder = Self(child);
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).expect("a line");
        assert_eq!(line, "made\n", "it has no loopback interface");
        holder
    }

    /// The gateway's program in the namespace; it stays one process.
    pub(super) fn program(&self) -> Vec<PathBuf> {
        let network = format!("--net=/proc/{}/ns/net", self.0.id());
        ["nsenter", &network, "--", PROGRAM].into_iter().map(PathBuf::from).collect()
    }
}
