//! Errors and exit codes of everything but exec.

use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use chiton_model::Error;
use chiton_proto::v1 as wire;
use insta::assert_snapshot;

use crate::scripted::{Ran, Server, program};

#[test]
fn an_error_says_what_why_and_the_cure() {
    let server = Server::start();
    let error = Error::refused("policy", "not\u{1b}[2J\u{202e} today").cure("come\nback");
    server.fails::<wire::Sandbox>("get_sandbox", error);
    let ran = server.run(&["sandbox", "get", "x"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""));
    assert_snapshot!(ran.err);
    let ran = server.run(&["--json", "sandbox", "get", "x"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""));
    assert_snapshot!(ran.err);
}

#[test]
fn without_a_gateway_it_says_how_to_start_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = format!("unix:{}/none.sock", folder.path().display());
    let ran: Ran = program(&["--gateway", &socket, "sandbox", "list"]).output().expect("runs").into();
    assert_eq!(ran.code, Some(1));
    assert_snapshot!(ran.err.replace(&folder.path().display().to_string(), "FOLDER"));
    let ran: Ran = program(&["--gateway", &socket, "sandbox", "exec", "x", "--", "y"]).output().expect("runs").into();
    assert_eq!(ran.code, Some(125));
}

#[test]
fn wrong_usage_exits_with_2() {
    let cases: &[&[&str]] = &[
        &[],
        &["nonsense"],
        &["sandbox", "list", "--nonsense"],
        &["sandbox", "create", "x", "--env", "no-equals-sign"],
        &["sandbox", "create", "x", "--env", "=value"],
        &["sandbox", "create", "x", "--pids", "many"],
        &["sandbox", "cp", "a", ""],
        &["sandbox", "cp", "a", "box:relative"],
        &["sandbox", "delete"],
        &["sandbox", "delete", "x", "--all"],
        &["sandbox", "stop", "x", "--all"],
        &["sandbox", "logs", "x", "--all"],
        &["sandbox", "watch", "--id"],
        &["config", "check", "--adopt-epoch", "e"],
        &["completions", "no-shell"],
    ];
    for arguments in cases {
        let ran: Ran = program(arguments).output().expect("runs").into();
        assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{arguments:?}: {}", ran.err);
        assert!(!ran.err.is_empty(), "{arguments:?}");
    }
    let ran: Ran = program(&["--json", "nonsense"]).output().expect("runs").into();
    let document: serde_json::Value = serde_json::from_str(&ran.err).expect("a JSON error");
    assert_eq!((ran.code, &document["error"]["code"]), (Some(2), &"invalid".into()));
}

#[test]
fn help_and_version_are_no_failure() {
    for arguments in [&["--help"][..], &["--version"], &["sandbox", "exec", "--help"], &["help", "sandbox"]] {
        let ran: Ran = program(arguments).output().expect("runs").into();
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{arguments:?}");
        assert!(!ran.out.is_empty());
    }
    let help: Ran = program(&["--help"]).output().expect("runs").into();
    assert!(help.out.contains("Exit codes:"), "{}", help.out);
}

#[test]
fn delete_all_asks_and_does_nothing_if_nobody_can_be_asked() {
    let server = Server::start();
    let page = wire::ListSandboxesResponse { sandboxes: vec![crate::answers::sandbox()], ..Default::default() };
    server.answers("list_sandboxes", page);
    let ran = server.run(&["sandbox", "delete", "--all"]);
    assert_eq!(ran.code, Some(1));
    assert_snapshot!(ran.err);
    assert!(server.asked("delete_sandbox").is_empty());
}

#[test]
fn delete_goes_on_after_one_that_fails_and_exits_with_1() {
    let server = Server::start();
    server.fails::<wire::OperationResponse>("delete_sandbox", Error::not_found("no such sandbox"));
    let ran = server.run(&["sandbox", "delete", "a", "b"]);
    assert_eq!(ran.code, Some(1));
    assert_eq!(server.asked("delete_sandbox").len(), 2);
    assert_eq!(ran.err.matches("no such sandbox").count(), 2);
}

#[test]
fn a_reader_that_goes_away_gets_no_panic() {
    for arguments in [&["completions", "bash"][..], &["config", "show", "--default"]] {
        // Shut and not only dropped: another test's child that has not executed its program yet has what this process had.
        let (writer, reader) = UnixStream::pair().expect("a pair");
        reader.shutdown(Shutdown::Both).expect("shut");
        let writer = Stdio::from(OwnedFd::from(writer));
        let ran: Ran = program(arguments).stdout(writer).stderr(Stdio::piped()).output().expect("runs").into();
        assert_eq!((ran.code, ran.err.as_str()), (Some(141), ""), "{arguments:?}");
    }
}

#[test]
fn completions_are_made_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran: Ran = program(&["completions", shell]).output().expect("runs").into();
        assert_eq!(ran.code, Some(0));
        assert!(ran.out.contains("sandbox"), "{shell}");
    }
}
