//! Programs that end, fail, say too much, or do not end.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{KEPT, run, spawn_within};

const LONG: Duration = Duration::from_mins(1);

fn shell(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]).stdin(Stdio::null());
    command
}

#[test]
fn a_program_that_fails_says_why_and_what_it_printed_is_kept() {
    let ended = run(&mut shell("echo seen; echo \"bad\tnews\" >&2; exit 3"), LONG).unwrap();
    assert_eq!((ended.status.code(), ended.output().as_str()), (Some(3), "seen\n"));
    assert!(ended.complaint().starts_with("bad") && !ended.complaint().contains('\n'), "{:?}", ended.complaint());
}

#[test]
fn a_program_that_says_without_end_does_not_fill_the_memory_and_is_killed_in_time() {
    let begin = Instant::now();
    let error = run(&mut shell("exec yes"), Duration::from_millis(300)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(begin.elapsed() < LONG);
    // More than a pipe holds, and more than is kept.
    let ended = run(&mut shell("head -c 3000000 /dev/zero | tr '\\0' x; exit 0"), LONG).unwrap();
    assert!(ended.status.success());
    assert_eq!(ended.output().len(), KEPT);
}

#[test]
fn a_program_that_does_not_end_is_killed_and_reaped() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let error = run(&mut shell(&format!("echo $$ > {}; exec sleep 600", file.display())), Duration::from_secs(10));
    assert_eq!(error.unwrap_err().kind(), io::ErrorKind::TimedOut);
    let pid = std::fs::read_to_string(file).unwrap();
    assert!(!std::path::Path::new("/proc").join(pid.trim()).exists(), "process {} is still there", pid.trim());
}

#[test]
fn a_child_of_the_program_that_keeps_its_output_open_is_not_waited_for() {
    // The child ends when the other end of its input does, which is after all of this.
    let (held, input) = UnixStream::pair().unwrap();
    let mut command = shell("exec 3<&0; cat <&3 & echo told");
    let ended = run(command.stdin(Stdio::from(OwnedFd::from(input))), LONG).unwrap();
    assert!(ended.status.success() && ended.output() == "told\n");
    drop(held);
}

#[test]
fn a_program_that_somebody_still_writes_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("program");
    let mut written = std::fs::File::create(&path).unwrap();
    io::Write::write_all(&mut written, b"#!/bin/sh\nexit 7\n").unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let busy = Command::new(&path).spawn().expect_err("it is open for writing");
    assert_eq!(busy.kind(), io::ErrorKind::ExecutableFileBusy);
    let told = spawn_within(&mut Command::new(&path), Duration::from_millis(10)).expect_err("nor does that change");
    assert_eq!(told.kind(), io::ErrorKind::ExecutableFileBusy);
    let (sender, spawned) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(spawn_within(&mut Command::new(path), LONG)));
    spawned.recv_timeout(Duration::from_millis(200)).expect_err("it is waited for");
    drop(written);
    let mut child = spawned.recv_timeout(LONG).unwrap().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(7));
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let error = run(Command::new("/no/such/program").stdin(Stdio::null()), LONG).unwrap_err();
    assert!(error.kind() == io::ErrorKind::NotFound && error.to_string().contains("/no/such/program"), "{error}");
}
