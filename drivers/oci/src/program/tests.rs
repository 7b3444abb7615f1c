//! Programs that end, fail, say too much, or do not end.

use std::io;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{KEPT, run};

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
    let begin = Instant::now();
    let ended = run(&mut shell("sleep 5 & echo told"), LONG).unwrap();
    assert!(ended.status.success() && ended.output() == "told\n");
    assert!(begin.elapsed() < Duration::from_secs(4));
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let error = run(Command::new("/no/such/program").stdin(Stdio::null()), LONG).unwrap_err();
    assert!(error.kind() == io::ErrorKind::NotFound && error.to_string().contains("/no/such/program"), "{error}");
}
