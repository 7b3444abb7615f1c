//! Sessions: handshake, replacement, restarts.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use chiton_gateway::sessions::SessionError;
use chiton_proto::agent::frame;
use chiton_proto::agent::v1::{HealthRequest, Hello, Welcome};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tonic::Code;

use super::sandbox::{ATTEMPT, Call, Sandbox, TOKEN, hub, ready, run, soon, start};

async fn knock(sandbox: &Sandbox, token: &str, attempt: &str) -> (UnixStream, String) {
    let mut stream = UnixStream::connect(sandbox.run.path().join("agent.sock")).await.expect("connected");
    let hello = Hello { token: token.into(), attempt: attempt.into(), version: "0.0.0".into() };
    frame::write(&mut stream, &hello).await.expect("written");
    let welcome: Welcome = soon(frame::read(&mut stream)).await.expect("answered");
    (stream, welcome.error)
}

#[tokio::test]
async fn a_connected_agent_is_known_and_answers() {
    let (sandbox, mut agent) = ready().await;
    assert_eq!(sandbox.sessions.connected_attempt(&sandbox.id).as_deref(), Some(ATTEMPT));
    let health = soon(sandbox.client().health(HealthRequest {})).await.expect("health").into_inner();
    assert_eq!((health.version.as_str(), health.running), (env!("CARGO_PKG_VERSION"), 0));
    agent.kill().await.expect("killed");
    soon(sandbox.sessions.wait_disconnected(&sandbox.id, ATTEMPT)).await.expect("seen");
    assert!(matches!(sandbox.sessions.client(&sandbox.id), Err(SessionError::Disconnected(_))));
}

#[tokio::test]
async fn an_agent_that_is_never_called_stays_connected_and_its_end_is_seen() {
    let (sandbox, mut agent) = ready().await;
    let ended = sandbox.sessions.wait_disconnected(&sandbox.id, ATTEMPT);
    assert!(tokio::time::timeout(Duration::from_millis(300), ended).await.is_err(), "it did not stay");
    agent.kill().await.expect("killed");
    soon(sandbox.sessions.wait_disconnected(&sandbox.id, ATTEMPT)).await.expect("seen");
}

#[tokio::test]
async fn a_wrong_token_is_refused_and_the_right_one_still_comes_in() {
    let sandbox = Sandbox::new();
    let (_, error) = knock(&sandbox, "another", ATTEMPT).await;
    assert!(error.contains("token"), "{error}");
    assert!(!error.contains(TOKEN));
    assert_eq!(sandbox.sessions.connected_attempt(&sandbox.id), None);
    let (_stream, error) = knock(&sandbox, TOKEN, ATTEMPT).await;
    assert_eq!(error, "");
    sandbox.connected().await;
}

#[tokio::test]
async fn garbage_is_cut_off_without_being_read() {
    let sandbox = Sandbox::new();
    let mut stream = UnixStream::connect(sandbox.run.path().join("agent.sock")).await.expect("connected");
    stream.write_all(b"GET / HTTP/1.1\r\n").await.expect("written");
    // The end, or a reset, because what we sent was not read.
    let mut rest = Vec::new();
    let _ = soon(stream.read_to_end(&mut rest)).await;
    assert!(rest.is_empty());
}

#[tokio::test]
async fn silent_connections_do_not_pile_up() {
    let sandbox = Sandbox::new();
    let path = sandbox.run.path().join("agent.sock");
    let mut held = Vec::new();
    // Four are in the handshake, and the kernel's queue is short: soon a further one is not even queued.
    let refused = loop {
        assert!(held.len() < 64, "connections pile up");
        match tokio::time::timeout(Duration::from_secs(1), UnixStream::connect(&path)).await {
            Ok(Ok(stream)) => held.push(stream),
            _ => break true,
        }
        tokio::task::yield_now().await;
    };
    assert!(refused);
}

#[tokio::test]
async fn the_newest_session_of_an_attempt_wins_and_ends_the_other() {
    let sandbox = Sandbox::new();
    let (mut first, _) = knock(&sandbox, TOKEN, ATTEMPT).await;
    sandbox.connected().await;
    let (_second, error) = knock(&sandbox, TOKEN, ATTEMPT).await;
    assert_eq!(error, "");
    assert_eq!(soon(first.read(&mut [0])).await.expect("no error"), 0);
    assert_eq!(sandbox.sessions.connected_attempt(&sandbox.id).as_deref(), Some(ATTEMPT));
}

#[tokio::test]
async fn while_one_start_is_awaited_agents_of_another_are_refused() {
    let sandbox = Sandbox::new();
    let waiting = sandbox.sessions.wait_connected(&sandbox.id, "a-2");
    tokio::pin!(waiting);
    assert!(futures::poll!(&mut waiting).is_pending());
    let (_, error) = knock(&sandbox, TOKEN, "a-1").await;
    assert!(error.contains("another start"), "{error}");
    let (_stream, error) = knock(&sandbox, TOKEN, "a-2").await;
    assert_eq!(error, "");
    soon(waiting).await.expect("connected");
}

#[tokio::test]
async fn agents_come_back_to_a_restarted_gateway() {
    let (mut sandbox, _agent) = ready().await;
    let mut client = sandbox.client();
    run(&mut client, start(&["sh", "-c", "echo kept > file"])).await;
    // The clients of the old gateway end with it.
    sandbox.sessions = hub();
    let error = soon(client.health(HealthRequest {})).await.expect_err("ended");
    // Ended while the call was under way; the next one meets an ended connection.
    assert!(matches!(error.code(), Code::Unavailable | Code::Cancelled | Code::Unknown), "{error}");
    assert_eq!(soon(client.health(HealthRequest {})).await.expect_err("ended").code(), Code::Unavailable);
    // Long enough for the agent to have found nobody: it is in its waits when the socket comes back.
    sandbox.sessions.listen(&sandbox.id, sandbox.run.path()).expect("bound");
    sandbox.connected().await;
    let (call, _) = run(&mut sandbox.client(), start(&["cat", "file"])).await;
    assert_eq!(call.text(), "kept\n");
}

#[tokio::test]
async fn a_stale_socket_is_replaced() {
    let sandbox = Sandbox::new();
    sandbox.sessions.forget(&sandbox.id);
    let path = sandbox.run.path().join("agent.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
    sandbox.sessions.listen(&sandbox.id, sandbox.run.path()).expect("bound anew");
    assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o666);
    let _agent = sandbox.command(&[]).spawn().expect("started");
    sandbox.connected().await;
}

#[tokio::test]
async fn a_long_folder_is_no_obstacle_to_either_side() {
    let mut sandbox = Sandbox::new();
    let folder: PathBuf = sandbox.run.path().join("x".repeat(120)).join("y".repeat(120));
    std::fs::create_dir_all(&folder).expect("made");
    sandbox.sessions.listen(&sandbox.id, &folder).expect("bound");
    let mut agent = sandbox.command(&[]);
    let _agent = agent.env("CHITON_AGENT_SOCKET", folder.join("agent.sock")).spawn().expect("started");
    sandbox.connected().await;
    sandbox.sessions = hub();
    assert!(!folder.join("agent.sock").exists());
}

#[tokio::test]
async fn forgetting_ends_calls_and_waits_and_removes_the_socket() {
    let (sandbox, _agent) = ready().await;
    let mut client = sandbox.client();
    let mut call = Call::begin(&mut client, start(&["sleep", "1000"])).await.expect("accepted");
    call.started().await;
    let waiting = sandbox.sessions.wait_connected(&sandbox.id, "a-9");
    tokio::pin!(waiting);
    assert!(futures::poll!(&mut waiting).is_pending());
    sandbox.sessions.forget(&sandbox.id);
    assert!(!sandbox.run.path().join("agent.sock").exists());
    assert!(matches!(soon(waiting).await, Err(SessionError::Unknown(_))));
    let over = soon(async {
        loop {
            match call.output.message().await {
                Ok(Some(_)) => {}
                other => return other,
            }
        }
    });
    assert!(over.await.is_err());
    assert!(matches!(sandbox.sessions.client(&sandbox.id), Err(SessionError::Unknown(_))));
}
