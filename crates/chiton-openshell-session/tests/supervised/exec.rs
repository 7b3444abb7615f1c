//! Programs, through the gateway's hub.

use std::collections::HashMap;

use chiton_proto::agent::v1::ExecStart;
use chiton_proto::agent::v1::exec_input::Input;
use tonic::Code;

use crate::rig::{Call, Rig, soon, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arguments_arrive_as_they_are() {
    let (rig, _supervisor) = Rig::ready().await;
    let arguments = [
        "",
        " ",
        "'",
        "''",
        "\"",
        "a'b\"c",
        "$HOME",
        "`id`",
        "$(id)",
        "a\nb",
        "\n",
        "-n",
        "--",
        "\\",
        "\\'",
        "*",
        "~",
        "!!",
        ";",
        "&& false",
        "{a,b}",
        "#",
        "é ü 漢字 💥",
        "\u{1b}[31m",
        "\t tab",
        "\r",
    ];
    let argv: Vec<&str> = ["printf", "%s\\0"].into_iter().chain(arguments).collect();
    let done = rig.run(&argv).await;
    let expected: Vec<u8> = arguments.iter().flat_map(|text| [text.as_bytes(), b"\0"].concat()).collect();
    assert_eq!((done.exit.code, &done.stdout, &done.stderr), (0, &expected, &Vec::new()), "{done:?}");
    assert!(done.pid > 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_profile_writes_is_no_output_and_streams_are_kept_apart() {
    let (rig, _supervisor) = Rig::ready().await;
    let done = rig.run(&["sh", "-c", "echo out; echo err >&2"]).await;
    assert_eq!((done.text().as_str(), done.stderr.as_slice()), ("out\n", &b"err\n"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_codes_are_the_programs() {
    let (rig, _supervisor) = Rig::ready().await;
    for code in [0, 1, 2, 126, 127, 200, 255] {
        let done = rig.run(&["sh", "-c", &format!("exit {code}")]).await;
        assert_eq!((done.exit.code, done.exit.signal, done.exit.timed_out), (code, 0, false), "{done:?}");
        assert_eq!(done.exit.message, "");
    }
    // Ended by a signal of its own: the shell says so in the code.
    let done = rig.run(&["sh", "-c", "kill -SEGV $$"]).await;
    assert_eq!((done.exit.code, done.stderr.len()), (139, 0), "{done:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_run_is_told_apart_from_what_ran() {
    let (rig, _supervisor) = Rig::ready().await;
    let done = rig.run(&["no-such-program", "x"]).await;
    assert_eq!((done.exit.code, done.pid), (127, 0), "{done:?}");
    assert_eq!(done.exit.message, "\"no-such-program\" was not found in the sandbox");
    let done = rig.run_with(ExecStart { workdir: "/no/such".to_owned(), ..start(&["true"]) }, &[]).await;
    assert_eq!((done.exit.code, done.pid), (126, 0), "{done:?}");
    assert_eq!(done.exit.message, "the working folder \"/no/such\" could not be entered");
    for wrong in [start(&[]), start(&["a\0b"]), ExecStart { workdir: "x".to_owned(), ..start(&["true"]) }] {
        let status = Call::begin(&mut rig.agent(), wrong).await.expect_err("refused");
        assert_eq!(status.code(), Code::InvalidArgument);
    }
    let long = "x".repeat(200 * 1024);
    let status = Call::begin(&mut rig.agent(), start(&["echo", &long])).await.expect_err("refused");
    assert_eq!(status.code(), Code::ResourceExhausted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn environment_and_working_folder_are_the_callers() {
    let (rig, _supervisor) = Rig::ready().await;
    let env: HashMap<String, String> =
        [("GREETING", "it's \"here\"\n$HOME"), ("PATH", "/usr/bin:/bin"), ("n", "5"), ("s", "")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
    let wanted = ExecStart {
        env: env.into_iter().collect(),
        workdir: "/usr".to_owned(),
        ..start(&["sh", "-c", r#"printf '%s|%s|%s|%s' "$GREETING" "$n" "${s-unset}" "$PWD""#])
    };
    let done = rig.run_with(wanted, &[]).await;
    assert_eq!(done.text(), "it's \"here\"\n$HOME|5||/usr", "{done:?}");
    // Without a folder of the caller's it is the sandbox's.
    let done = rig.run(&["pwd"]).await;
    assert_eq!(done.text().trim_end(), rig.home().to_str().expect("text"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_megabyte_goes_in_and_comes_back() {
    let (rig, _supervisor) = Rig::ready().await;
    let data: Vec<u8> = (0..1024 * 1024_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let done = rig.run_with(start(&["cat"]), &data).await;
    assert_eq!(done.exit.code, 0);
    assert!(done.stdout == data, "{} bytes came back", done.stdout.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_does_not_read_stops_only_its_own_program() {
    let (rig, _supervisor) = Rig::ready().await;
    // It stays when it has written all, so that only the signal ends it.
    let script = "yes | head -c 33554432; echo written > written; exec sleep 1000";
    let mut stuck = Call::begin(&mut rig.agent(), start(&["sh", "-c", script])).await;
    let done = rig.run(&["echo", "others go on"]).await;
    assert_eq!(done.text(), "others go on\n");
    assert!(!rig.home().join("written").exists(), "it was not held back");
    let stuck = stuck.as_mut().expect("accepted");
    // Signals pass it, too.
    stuck.until("y").await;
    stuck.send(Input::Signal(libc_term())).await;
    let exit = loop {
        stuck.stdout.clear();
        if let Some(exit) = stuck.next().await.expect("no error") {
            break exit;
        }
    };
    assert_eq!((exit.code, exit.signal), (143, 15));
}

fn libc_term() -> i32 {
    nix::sys::signal::Signal::SIGTERM as i32
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_reach_the_group_and_are_told() {
    let (rig, _supervisor) = Rig::ready().await;
    let mut call = Call::begin(
        &mut rig.agent(),
        start(&["sh", "-c", "trap 'echo caught; exit 7' USR1; echo ready; while :; do sleep 0.05; done"]),
    )
    .await
    .expect("accepted");
    call.until("ready").await;
    call.send(Input::Signal(10)).await;
    let done = call.end().await;
    assert_eq!((done.exit.code, done.exit.signal), (7, 0), "{done:?}");
    assert!(done.text().ends_with("caught\n"), "{done:?}");

    let mut call = Call::begin(&mut rig.agent(), start(&["sh", "-c", "sleep 1000 & echo ready; wait; wait"]))
        .await
        .expect("accepted");
    call.until("ready").await;
    call.send(Input::Signal(9)).await;
    let done = call.end().await;
    assert_eq!((done.exit.code, done.exit.signal), (137, 9), "{done:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_limit_ends_a_program_that_ignores_everything() {
    let (rig, _supervisor) = Rig::ready().await;
    let wanted =
        ExecStart { timeout_ms: 300, ..start(&["sh", "-c", "trap '' TERM HUP INT; while :; do sleep 0.05; done"]) };
    let done = rig.run_with(wanted, &[]).await;
    assert!(done.exit.timed_out);
    assert_eq!((done.exit.code, done.exit.signal), (137, 9), "{done:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_whose_caller_went_away_is_ended() {
    let (rig, _supervisor) = Rig::ready().await;
    let pipe = rig.home().join("held");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let path = pipe.to_str().expect("text").to_owned();
    // Its end closes the pipe, whatever way it ends.
    let script = "exec 3>\"$1\"; trap '' HUP; echo ready; while :; do sleep 0.05; done";
    let argv = ["sh", "-c", script, "sh", &path];
    let mut client = rig.agent();
    let opened = tokio::task::spawn_blocking(move || std::fs::read(pipe));
    let mut call = Call::begin(&mut client, start(&argv)).await.expect("accepted");
    call.until("ready").await;
    drop(call);
    assert_eq!(soon(opened).await.expect("no panic").expect("read"), b"");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_runs_once_also_when_the_supervisor_dialled_anew() {
    let (rig, supervisor) = Rig::ready().await;
    let wanted = || ExecStart { request_id: "r-1".to_owned(), ..start(&["echo", "once"]) };
    assert_eq!(rig.run_with(wanted(), &[]).await.text(), "once\n");
    let status = Call::begin(&mut rig.agent(), wanted()).await.expect_err("refused");
    assert_eq!(status.code(), Code::Aborted);
    assert!(status.message().starts_with("already_ran"), "{status}");
    drop(supervisor);
    soon(rig.sessions.wait_disconnected(&rig.id, "a-1")).await.expect("seen");
    let _supervisor = rig.dial(rig.script()).await.expect("accepted");
    let status = Call::begin(&mut rig.agent(), wanted()).await.expect_err("refused");
    assert_eq!(status.code(), Code::Aborted);
    // A new start is a new life.
    rig.book.start(&rig.id, "another", "a-2");
    rig.sessions.forget(&rig.id);
    rig.sessions.admit(&rig.id);
    let dialled = crate::supervisor::Supervisor::dial(&rig.endpoint(), "another", rig.id.as_str(), rig.script()).await;
    let _second = dialled.expect("accepted");
    assert_eq!(rig.run_with(wanted(), &[]).await.text(), "once\n");
}
