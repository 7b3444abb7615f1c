//! Exec.

use std::path::Path;

use chiton_proto::agent::v1::exec_input::Input;
use chiton_proto::agent::v1::{ExecStart, HealthRequest, WindowSize};
use tonic::Code;

use super::sandbox::{Call, ready, run, soon, start};

#[tokio::test]
async fn streams_environment_folder_and_exit_code_arrive() {
    let (sandbox, _agent) = ready().await;
    let mut client = sandbox.client();
    let script = "cat; echo $GREETING $NAME; pwd; env | grep -c CHITON; echo oops >&2; exit 3";
    let mut begin = start(&["sh", "-c", script]);
    begin.env.insert("NAME".into(), "world".into());
    let mut call = Call::begin(&mut client, begin).await.expect("accepted");
    call.stdin(b"one ").await;
    call.stdin(b"two\n").await;
    call.send(Input::StdinEnd(true)).await;
    let exit = call.end().await;
    let folder = sandbox.work.path().canonicalize().expect("there");
    assert_eq!(call.text(), format!("one two\nhello world\n{}\n0\n", folder.display()));
    assert_eq!(call.stderr, b"oops\n");
    assert_eq!((exit.code, exit.signal, exit.timed_out), (3, 0, false));
    let (_, exit) = run(&mut client, start(&["true"])).await;
    assert_eq!(exit.code, 0);
}

#[tokio::test]
async fn arguments_reach_no_shell() {
    let (sandbox, _agent) = ready().await;
    let (call, exit) = run(&mut sandbox.client(), start(&["printf", "%s|", "$HOME; 'x", "", "a b"])).await;
    assert_eq!((call.text().as_str(), exit.code), ("$HOME; 'x||a b|", 0));
}

#[tokio::test]
async fn programs_that_cannot_start_answer_126_and_127() {
    let (sandbox, _agent) = ready().await;
    let mut client = sandbox.client();
    let plain = sandbox.work.path().join("plain");
    std::fs::write(&plain, "echo a shell ran this\n").expect("written");
    let plain = plain.to_str().expect("text");
    let (call, exit) = run(&mut client, start(&["no-such-program"])).await;
    assert_eq!((exit.code, call.pid), (127, 0));
    assert!(exit.message.contains("no-such-program"), "{}", exit.message);
    let (_, exit) = run(&mut client, start(&[plain])).await;
    assert_eq!(exit.code, 126);
    // Executable, but no format the kernel knows: execvp would give it to a shell.
    std::fs::set_permissions(plain, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    let (call, exit) = run(&mut client, start(&[plain])).await;
    assert_eq!((exit.code, call.text().as_str()), (126, ""));
    let begin = ExecStart { workdir: "/no/such/folder".into(), ..start(&["true"]) };
    let (_, exit) = run(&mut client, begin).await;
    assert_eq!(exit.code, 126);
    assert!(exit.message.contains("/no/such/folder"), "{}", exit.message);
}

#[tokio::test]
async fn malformed_starts_are_refused() {
    let (sandbox, _agent) = ready().await;
    let mut client = sandbox.client();
    let relative = ExecStart { workdir: "here".into(), ..start(&["true"]) };
    for bad in [start(&[]), start(&["a\0b"]), relative] {
        let error = Call::begin(&mut client, bad).await.err().expect("refused");
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    }
}

#[tokio::test]
async fn a_signal_reaches_the_whole_group_although_input_is_not_read() {
    let (sandbox, _agent) = ready().await;
    let mut client = sandbox.client();
    let begin = start(&["sh", "-c", "trap '' TERM; sh -c 'echo up; exec sleep 1000'; echo child $?"]);
    let mut call = Call::begin(&mut client, begin).await.expect("accepted");
    call.until("up").await;
    call.send(Input::Stdin(vec![b'x'; 300_000].into())).await;
    call.send(Input::Signal(15)).await;
    call.send(Input::Signal(9)).await;
    let exit = call.end().await;
    assert_eq!((exit.code, exit.signal), (137, 9));
}

#[tokio::test]
async fn the_time_limit_kills_the_group() {
    let (sandbox, _agent) = ready().await;
    let begin = ExecStart { timeout_ms: 200, ..start(&["sh", "-c", "sleep 1000; echo no"]) };
    let (call, exit) = run(&mut sandbox.client(), begin).await;
    assert_eq!((exit.code, exit.signal, exit.timed_out), (137, 9, true));
    assert_eq!(call.text(), "");
}

#[tokio::test]
async fn a_terminal_has_a_size_that_can_change() {
    let (sandbox, _agent) = ready().await;
    let mut client = sandbox.client();
    let begin = ExecStart {
        terminal: Some(WindowSize { rows: 24, columns: 80 }),
        ..start(&["sh", "-c", "stty -echo; stty size; tty >&2; read go; stty size; cat; exit 5"])
    };
    let mut call = Call::begin(&mut client, begin).await.expect("accepted");
    call.until("24 80").await;
    call.send(Input::Resize(WindowSize { rows: 50, columns: 132 })).await;
    call.stdin(b"go\n").await;
    call.until("50 132").await;
    call.stdin(b"typed\n").await;
    call.send(Input::StdinEnd(true)).await;
    let exit = call.end().await;
    assert!(call.text().contains("/dev/pts/"), "standard error is merged: {}", call.text());
    assert!(call.text().contains("typed"));
    assert!(call.stderr.is_empty());
    assert_eq!(exit.code, 5);
}

#[tokio::test]
async fn a_request_id_runs_once() {
    let (sandbox, _agent) = ready().await;
    let mut client = sandbox.client();
    let begin = ExecStart { request_id: "r-1".into(), ..start(&["sh", "-c", "echo x >> runs"]) };
    let (_, exit) = run(&mut client, begin.clone()).await;
    assert_eq!(exit.code, 0);
    let error = Call::begin(&mut client, begin).await.err().expect("refused");
    assert_eq!(error.code(), Code::Aborted);
    assert!(error.message().contains("already_ran"), "{error}");
    assert_eq!(std::fs::read(sandbox.work.path().join("runs")).expect("there"), b"x\n");
}

#[tokio::test]
async fn a_caller_that_goes_away_ends_the_group() {
    let (sandbox, _agent) = ready().await;
    let mut client = sandbox.client();
    // Deaf to the first signal, so that only the second can end it; the child notes the first.
    let script = "trap 'echo hup >> heard' HUP; echo up; while :; do sleep 0.05; done";
    let mut call = Call::begin(&mut client, start(&["sh", "-c", script])).await.expect("accepted");
    call.until("up").await;
    let process = format!("/proc/{}", call.pid);
    assert!(Path::new(&process).exists());
    drop(call);
    let health = async {
        loop {
            let health = client.health(HealthRequest {}).await.expect("health").into_inner();
            if health.running == 0 {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    soon(health).await;
    assert!(!Path::new(&process).exists());
    assert_eq!(std::fs::read(sandbox.work.path().join("heard")).expect("the first signal came"), b"hup\n");
}

#[tokio::test]
async fn output_is_whole_however_slow_the_caller_and_however_soon_the_exit() {
    let (sandbox, _agent) = ready().await;
    let mut client = sandbox.client();
    let begin = start(&["sh", "-c", "head -c 5000000 /dev/zero; printf end; printf err >&2"]);
    let (call, exit) = run(&mut client, begin).await;
    assert_eq!(call.stdout.len(), 5_000_003);
    assert!(call.stdout.ends_with(b"end"));
    assert_eq!((call.stderr.as_slice(), exit.code), (&b"err"[..], 0));
}

#[tokio::test]
async fn large_input_comes_back_through_cat() {
    let (sandbox, _agent) = ready().await;
    let mut client = sandbox.client();
    let mut call = Call::begin(&mut client, start(&["cat"])).await.expect("accepted");
    let input = call.input.clone();
    let sender = tokio::spawn(async move {
        for _ in 0..100 {
            let bytes = Input::Stdin(vec![7; 100_000].into());
            input.send(chiton_proto::agent::v1::ExecInput { input: Some(bytes) }).await.expect("taken");
        }
    });
    // The call's own sender goes, too: the end of the inputs is the end of standard input.
    call.input = tokio::sync::mpsc::channel(1).0;
    let exit = call.end().await;
    sender.await.expect("sent");
    assert_eq!((call.stdout.len(), exit.code), (10_000_000, 0));
}

#[tokio::test]
async fn a_descendant_that_keeps_the_pipe_neither_holds_the_call_nor_dies_of_its_end() {
    let (sandbox, _agent) = ready().await;
    let mut client = sandbox.client();
    let script = "(trap '' HUP; read go < gate; echo late; echo survived > done) & echo early";
    let gate = sandbox.work.path().join("gate");
    nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    // The pipe is held until after this: a call that waited for it would not end.
    let (call, exit) = run(&mut client, start(&["sh", "-c", script])).await;
    assert_eq!((call.text().as_str(), exit.code), ("early\n", 0));
    tokio::task::spawn_blocking(move || std::fs::write(gate, "go\n")).await.expect("no panic").expect("written");
    let script = "until [ -s done ]; do sleep 0.01; done; cat done";
    let (call, _) = run(&mut client, start(&["sh", "-c", script])).await;
    assert_eq!(call.text(), "survived\n");
}
