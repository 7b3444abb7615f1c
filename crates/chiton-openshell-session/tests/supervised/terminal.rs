//! Programs on a terminal.

use chiton_proto::agent::v1::exec_input::Input;
use chiton_proto::agent::v1::{ExecStart, WindowSize};

use crate::rig::{Call, Rig, start};

fn on_terminal(script: &str) -> ExecStart {
    ExecStart { terminal: Some(WindowSize { rows: 31, columns: 97 }), ..start(&["sh", "-c", script]) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_has_its_size_and_follows_it() {
    let (rig, _supervisor) = Rig::ready().await;
    let script = "test -t 0 && test -t 1 && test -t 2 && stty size; read answer; stty size; echo $TERM";
    let mut call = Call::begin(&mut rig.agent(), on_terminal(script)).await.expect("accepted");
    call.until("31 97\r\n").await;
    call.send(Input::Resize(WindowSize { rows: 50, columns: 120 })).await;
    call.send(Input::Stdin("go\n".into())).await;
    let done = call.end().await;
    assert_eq!(done.exit.code, 0, "{done:?}");
    assert!(done.text().contains("50 120\r\nxterm\r\n"), "{done:?}");
    assert!(!done.text().contains("Welcome"), "{done:?}");
    assert_eq!(done.stderr, b"");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_input_is_seen_on_a_terminal() {
    let (rig, _supervisor) = Rig::ready().await;
    let done = rig.run_with(on_terminal("stty -echo; cat; exit 5"), b"line\n").await;
    assert_eq!(done.exit.code, 5, "{done:?}");
    assert!(done.text().contains("line\r\n"), "{done:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_and_signals_end_a_program_on_a_terminal_and_its_code_is_told() {
    let (rig, _supervisor) = Rig::ready().await;
    let waiting = "echo ready; exec sleep 1000";
    let mut call = Call::begin(&mut rig.agent(), on_terminal(waiting)).await.expect("accepted");
    call.until("ready").await;
    call.send(Input::Stdin(vec![3].into())).await;
    let done = call.end().await;
    assert_eq!((done.exit.code, done.exit.signal), (130, 0), "{done:?}");
    for (signal, code) in [(15, 143), (9, 137), (1, 129)] {
        let mut call = Call::begin(&mut rig.agent(), on_terminal(waiting)).await.expect("accepted");
        call.until("ready").await;
        call.send(Input::Signal(signal)).await;
        let done = call.end().await;
        assert_eq!((done.exit.code, done.exit.signal), (code, signal), "{done:?}");
    }
}
