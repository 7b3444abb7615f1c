//! `sandbox exec`: codes, streams, signals.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;

use chiton_model::Error;
use chiton_proto::agent::v1 as agent;
use insta::assert_snapshot;
use rustix::process::{Pid, Signal, kill_process};

use crate::scripted::{Server, Then, ended, exit, started, stderr, stdout};

const EXEC: &[&str] = &["sandbox", "exec", "box", "--", "prog", "--json"];

#[test]
fn the_commands_code_is_the_programs() {
    let server = Server::start();
    for code in [0, 1, 2, 124, 125, 130, 137, 255] {
        server.execs(vec![started(), exit(code)], Then::End);
        let ran = server.run(EXEC);
        assert_eq!((ran.code, ran.err.as_str()), (Some(code), ""));
    }
}

#[test]
fn a_code_that_is_none_is_no_success() {
    let server = Server::start();
    for code in [256, 65_536, -1, -256] {
        server.execs(vec![started(), exit(code)], Then::End);
        assert_eq!(server.run(EXEC).code, Some(125), "{code}");
    }
}

#[test]
fn what_cannot_run_exits_as_in_a_shell_and_says_why() {
    let server = Server::start();
    let failed = |code, message: &str| ended(agent::ExecExit { code, message: message.into(), ..Default::default() });
    server.execs(vec![failed(127, "prog is not there")], Then::End);
    let ran = server.run(EXEC);
    assert_eq!((ran.code, ran.err.as_str()), (Some(127), "error: prog is not there [not_found]\n"));
    server.execs(vec![failed(126, "prog is a folder\u{1b}")], Then::End);
    let ran = server.run(EXEC);
    assert_eq!((ran.code, ran.err.as_str()), (Some(126), "error: prog is a folder\\u{1b} [invalid]\n"));
    server.execs(
        vec![started(), ended(agent::ExecExit { code: 137, signal: 9, timed_out: true, ..Default::default() })],
        Then::End,
    );
    let ran = server.run(EXEC);
    assert_eq!((ran.code, ran.err.as_str()), (Some(124), "error: the command was ended by --timeout [deadline]\n"));
}

#[test]
fn chitons_own_failures_exit_with_125() {
    let server = Server::start();
    server.fails::<agent::ExecOutput>("exec_sandbox", Error::not_found("no sandbox \"box\"").cure("create it"));
    let ran = server.run(EXEC);
    assert_eq!(ran.code, Some(125));
    assert_snapshot!(ran.err);
    server.execs(vec![started(), stdout(b"half")], Then::End);
    let ran = server.run(EXEC);
    assert_eq!((ran.code, ran.out.as_str()), (Some(125), "half"));
    assert!(ran.err.contains("the connection ended before the command did"), "{}", ran.err);
    // Arguments that the parser refuses are wrong usage, as everywhere.
    for arguments in [&["sandbox", "exec", "box"][..], &["--gateway", "unix:/x", "sandbox", "exec", "--nonsense"]] {
        assert_eq!(server.run(arguments).code, Some(2), "{arguments:?}");
    }
    assert_eq!(server.run(&["sandbox", "exec", "box", "--env", "A=1", "--env", "A=2", "--", "x"]).code, Some(125));
}

#[test]
fn the_streams_are_kept_apart_and_unchanged() {
    let server = Server::start();
    server.execs(vec![started(), stdout(b"o\x1b[1m\r\n"), stderr(b"e\x07\n"), stdout(b"p"), exit(3)], Then::End);
    let ran = server.run(EXEC);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (Some(3), "o\u{1b}[1m\r\np", "e\u{7}\n"));
}

#[test]
fn in_json_every_event_is_a_line() {
    let server = Server::start();
    server.execs(vec![started(), stdout(b"text\n"), stderr(b"\xff"), exit(3)], Then::End);
    let ran = server.run(&["--json", "sandbox", "exec", "box", "--", "prog"]);
    assert_eq!(ran.code, Some(3));
    assert_snapshot!(ran.out);
}

#[test]
fn the_first_message_selects_the_second_starts() {
    let server = Server::start();
    server.execs(vec![started(), exit(0)], Then::End);
    let arguments = [
        "sandbox",
        "exec",
        "--workdir",
        "/w",
        "--env",
        "A=b=c",
        "--timeout",
        "1m30s",
        "-w",
        "team",
        "box",
        "--",
        "p",
        "-x",
    ];
    assert_eq!(server.run(&arguments).code, Some(0));
    let asked = server.asked("exec_sandbox");
    assert!(asked[0].contains(r#"workspace: "team""#) && asked[0].contains(r#"Name("box")"#), "{}", asked[0]);
    for part in [r#"argv: ["p", "-x"]"#, r#"{"A": "b=c"}"#, r#"workdir: "/w""#, "timeout_ms: 90000", "terminal: None"] {
        assert!(asked[1].contains(part), "{part} is not in {}", asked[1]);
    }
}

#[test]
fn standard_input_is_passed_on_whole_and_only_when_asked() {
    let server = Server::start();
    server.execs(vec![started()], Then::Echo);
    let input = "0123456789abcde\n".repeat(125_000) + "end";
    let ran = server.feed(&["sandbox", "exec", "-i", "box", "--", "cat"], input.as_bytes());
    assert_eq!(ran.code, Some(0));
    assert!(ran.out == input, "{} of {} bytes came back", ran.out.len(), input.len());
    let unfed = server.command(&["sandbox", "exec", "box", "--", "cat"]).stdin(Stdio::piped()).output().expect("runs");
    assert_eq!((unfed.status.code(), unfed.stdout.as_slice()), (Some(0), &b""[..]));
}

/// How often a signal is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Often {
    Once,
    /// Signals that come faster than they are read count as one, in the kernel and in the runtime.
    UntilItEnds,
}

/// Runs an exec, waits until the command says that it runs, and gives it a signal. The exit code, and how often it took.
fn signalled(then: Then, signal: Signal, often: Often) -> (Option<i32>, u64) {
    let server = Server::start();
    server.execs(vec![started(), stdout(b"up\n")], then);
    let mut child = server.command(EXEC).stdout(Stdio::piped()).spawn().expect("runs");
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("reads");
    assert_eq!(line, "up\n");
    let pid = Pid::from_child(&child);
    let mut sent = 0;
    while sent == 0 || (often == Often::UntilItEnds && child.try_wait().expect("a status").is_none()) {
        kill_process(pid, signal).expect("it was not buried yet");
        sent += 1;
        while pending(pid, signal) {
            std::thread::yield_now();
        }
    }
    (child.wait().expect("ends").code(), sent)
}

/// Whether the kernel still holds the signal for the process (proc(5), `ShdPnd`). One that has ended keeps for ever what
/// it did not take.
fn pending(pid: Pid, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap_or_default();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    let held = field("ShdPnd").and_then(|mask| u64::from_str_radix(mask, 16).ok()).unwrap_or(0);
    !field("State").unwrap_or("Z").starts_with('Z') && held & (1 << (signal.as_raw() - 1)) != 0
}

#[test]
fn signals_are_passed_on_to_the_command() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::USR2] {
        let (code, _) = signalled(Then::Signal, signal, Often::Once);
        assert_eq!(code, Some(128 + signal.as_raw()), "{signal:?}");
    }
}

#[test]
fn signals_that_keep_coming_end_it_though_the_command_does_not() {
    for signal in [Signal::INT, Signal::TERM] {
        let (code, sent) = signalled(Then::Hang, signal, Often::UntilItEnds);
        assert_eq!(code, Some(128 + signal.as_raw()), "{signal:?}");
        assert!(sent >= 3, "{sent} are for the command");
    }
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let server = Server::start();
    let chunk = vec![b'x'; 1 << 16];
    let outputs = std::iter::once(started()).chain(std::iter::repeat_n(stdout(&chunk), 64)).collect();
    server.execs(outputs, Then::Hang);
    let mut command = server.command(EXEC);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
    drop(child.stdout.take());
    let mut said = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut said).expect("reads");
    assert_eq!((child.wait().expect("ends").code(), said.as_str()), (Some(141), ""));
}
