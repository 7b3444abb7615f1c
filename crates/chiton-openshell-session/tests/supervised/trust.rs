//! Who may say what: tokens, other sandboxes, places to listen; and the calls beside sessions.

use std::time::Duration;

use chiton_gateway::Listen;
use chiton_model::ErrorKind;
use chiton_openshell_session::wire::sandbox::GetSandboxConfigRequest;
use chiton_openshell_session::wire::{
    GetSandboxProviderEnvironmentRequest, IssueSandboxTokenRequest, PushSandboxLogsRequest, RefreshSandboxTokenRequest,
    ReportMainProcessExitRequest, SandboxLogLine,
};
use chiton_openshell_session::{Limits, Options, serve};
use tonic::Code;

use crate::rig::{Call, Rig, TOKEN, id, limits, soon, start};
use crate::supervisor::{Answer, Script, Supervisor, client, init};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hello_with_a_wrong_token_or_for_another_sandbox_is_refused() {
    let rig = Rig::new(limits()).await;
    let other = id("s-2");
    rig.book.start(&other, "the-others-token", "b-1");
    rig.sessions.admit(&other);
    for (token, sandbox) in
        [("", "s-1"), ("wrong", "s-1"), (TOKEN, "s-2"), (TOKEN, "s-3"), (TOKEN, "../s-1"), (TOKEN, "")]
    {
        let refused = Supervisor::dial(&rig.endpoint(), token, sandbox, rig.script()).await.err().expect("refused");
        assert!(refused.contains("authentication"), "{token:?} {sandbox:?}: {refused}");
        assert!(!refused.contains(TOKEN), "{refused}");
    }
    assert_eq!(rig.sessions.connected_attempt(&rig.id), None);
    assert_eq!(rig.sessions.connected_attempt(&other), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_of_an_earlier_start_opens_nothing() {
    let (rig, older) = Rig::ready().await;
    // As the engine does it: the session ends, then the sandbox starts with a new token.
    rig.sessions.forget(&rig.id);
    older.ended().await;
    rig.sessions.admit(&rig.id);
    rig.book.start(&rig.id, "the-second-token", "a-2");
    let refused = rig.dial(rig.script()).await.err().expect("refused");
    assert!(refused.contains("authentication"), "{refused}");
    let waiting = rig.sessions.wait_connected(&rig.id, "a-2");
    let newer = Supervisor::dial(&rig.endpoint(), "the-second-token", "s-1", rig.script()).await;
    let _newer = newer.expect("accepted");
    soon(waiting).await.expect("connected");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_that_is_not_awaited_is_rejected_and_told_so() {
    let rig = Rig::new(limits()).await;
    let (unknown, dialling) = (id("s-unknown"), id("s-dialling"));
    rig.book.start(&unknown, "t-unknown", "u-1");
    rig.book.start(&dialling, "t-dialling", "d-1");
    let folder = tempfile::tempdir().expect("a folder");
    rig.sessions.listen(&dialling, folder.path()).expect("bound");
    let refused =
        Supervisor::dial(&rig.endpoint(), "t-unknown", "s-unknown", rig.script()).await.err().expect("refused");
    assert!(refused.contains("not started here"), "{refused}");
    // One whose agent is ours has a socket of its own; its token opens no other way in.
    let refused =
        Supervisor::dial(&rig.endpoint(), "t-dialling", "s-dialling", rig.script()).await.err().expect("refused");
    assert!(refused.contains("own socket"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_can_be_answered_only_by_the_sandbox_that_was_asked() {
    let rig = Rig::new(limits()).await;
    let other = id("s-2");
    rig.book.start(&other, "the-others-token", "b-1");
    rig.sessions.admit(&other);
    let mut asked = rig.dial(Script { answer: Answer::Nothing, ..rig.script() }).await.expect("accepted");
    let _other = Supervisor::dial(&rig.endpoint(), "the-others-token", "s-2", rig.script()).await.expect("accepted");
    let mut agent = rig.agent();
    let call = tokio::spawn(async move { Call::begin(&mut agent, start(&["true"])).await });
    let channel = asked.asked_for(1).await.remove(0);
    for token in ["the-others-token", "wrong"] {
        let mut client = client(&rig.endpoint(), token).await;
        let frames = tokio_stream::iter([init(channel.clone())]);
        let status = soon(client.relay_stream(frames)).await.expect_err("refused");
        assert_eq!(status.code(), Code::NotFound);
    }
    // The right token, and a stream that nobody asked for, or no word at all of what it is.
    let frames = tokio_stream::iter([init("another".to_owned())]);
    assert_eq!(soon(asked.client.relay_stream(frames)).await.expect_err("refused").code(), Code::NotFound);
    let status = soon(asked.client.relay_stream(tokio_stream::iter([]))).await.expect_err("refused");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(!call.is_finished(), "the request still waits for its own supervisor");
    call.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_asks_for_the_sandboxs_own_token() {
    let rig = Rig::new(limits()).await;
    for token in ["", "wrong"] {
        let mut client = client(&rig.endpoint(), token).await;
        let sandbox_id = || "s-1".to_owned();
        let codes = [
            client.get_sandbox_config(GetSandboxConfigRequest { sandbox_id: sandbox_id() }).await.err(),
            client
                .get_sandbox_provider_environment(GetSandboxProviderEnvironmentRequest {
                    sandbox_id: sandbox_id(),
                    ..GetSandboxProviderEnvironmentRequest::default()
                })
                .await
                .err(),
            client
                .push_sandbox_logs(tokio_stream::iter([PushSandboxLogsRequest {
                    sandbox_id: sandbox_id(),
                    logs: vec![],
                }]))
                .await
                .err(),
            client
                .report_main_process_exit(ReportMainProcessExitRequest {
                    sandbox_id: sandbox_id(),
                    instance_id: "run-1".to_owned(),
                    exit_code: 0,
                })
                .await
                .err(),
            client.issue_sandbox_token(IssueSandboxTokenRequest {}).await.err(),
            client.refresh_sandbox_token(RefreshSandboxTokenRequest::default()).await.err(),
        ]
        .map(|error| error.map(|status| status.code()));
        assert_eq!(codes, [Some(Code::Unauthenticated); 6], "{token:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_supervisor_asks_before_its_session_is_answered() {
    let rig = Rig::new(limits()).await;
    let mut client = client(&rig.endpoint(), TOKEN).await;
    // A token whose sandbox nobody named yet is nobody's.
    let early = client.refresh_sandbox_token(RefreshSandboxTokenRequest::default()).await.expect_err("refused");
    assert_eq!(early.code(), Code::Unauthenticated);
    let asked = client.get_sandbox_config(GetSandboxConfigRequest { sandbox_id: "s-1".to_owned() }).await;
    let config = asked.expect("answered").into_inner();
    let policy = config.policy.expect("a supervisor without one does not start");
    let files = policy.filesystem.expect("what may be written");
    assert_eq!((config.version, policy.version, config.policy_hash.len()), (1, 1, 64));
    assert_eq!(
        (files.include_workdir, files.read_write.as_slice()),
        (true, &["/tmp".to_owned(), "/dev/null".to_owned()][..])
    );
    assert_eq!(config.policy_validation_failure_mode, "fail_closed");
    let request = GetSandboxProviderEnvironmentRequest { sandbox_id: "s-1".to_owned(), ..Default::default() };
    let environment = client.get_sandbox_provider_environment(request).await.expect("answered").into_inner();
    assert!(environment.environment.is_empty());
    let fresh =
        client.refresh_sandbox_token(RefreshSandboxTokenRequest::default()).await.expect("answered").into_inner();
    assert_eq!((fresh.token.as_str(), fresh.expires_at_ms), (TOKEN, 0));
    let issued = client.issue_sandbox_token(IssueSandboxTokenRequest {}).await.expect("answered").into_inner();
    assert_eq!(issued.token, TOKEN);
    let services = RefreshSandboxTokenRequest { extension_service_names: vec!["filter".to_owned()] };
    assert_eq!(client.refresh_sandbox_token(services).await.expect_err("refused").code(), Code::InvalidArgument);
    // A start later it is nobody's again.
    rig.book.start(&rig.id, "the-second-token", "a-2");
    let late = client.refresh_sandbox_token(RefreshSandboxTokenRequest::default()).await.expect_err("refused");
    assert_eq!(late.code(), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exit_is_news_of_the_start_it_is_of_and_only_from_the_run_that_is_there() {
    let (mut rig, mut supervisor) = Rig::ready().await;
    let report = |instance: &str, exit_code| ReportMainProcessExitRequest {
        sandbox_id: "s-1".to_owned(),
        instance_id: instance.to_owned(),
        exit_code,
    };
    let status = supervisor.client.report_main_process_exit(report("run-0", 1)).await.expect_err("refused");
    assert_eq!(status.code(), Code::FailedPrecondition);
    let status = supervisor.client.report_main_process_exit(report("", 1)).await.expect_err("refused");
    assert_eq!(status.code(), Code::InvalidArgument);
    supervisor.client.report_main_process_exit(report("run-1", 7)).await.expect("taken");
    let told = soon(rig.exits.recv()).await.expect("told");
    assert_eq!(told, ("s-1".to_owned(), "a-1".to_owned(), 7));
    assert!(rig.exits.try_recv().is_err(), "what was refused was told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_are_taken_counted_and_dropped() {
    let (rig, mut supervisor) = Rig::ready().await;
    let batch = |lines| PushSandboxLogsRequest {
        sandbox_id: "s-1".to_owned(),
        logs: vec![SandboxLogLine { message: "secret".to_owned(), ..SandboxLogLine::default() }; lines],
    };
    supervisor.client.push_sandbox_logs(tokio_stream::iter([batch(3), batch(2)])).await.expect("taken");
    assert_eq!(rig.server.dropped_log_lines(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_machines_are_let_in_only_when_the_operator_says_so() {
    let rig = Rig::new(limits()).await;
    let options = |allow_remote| Options {
        allow_remote,
        ..Options::new(Listen::Tcp((std::net::Ipv4Addr::UNSPECIFIED, 0).into()))
    };
    let refused = serve(std::sync::Arc::clone(&rig.book) as _, rig.sessions.clone(), options(false)).await;
    let error = refused.expect_err("refused");
    assert!(matches!(error.kind, ErrorKind::Invalid { .. }), "{error}");
    assert!(error.cure.as_deref().is_some_and(|cure| cure.contains("allow_remote = true")), "{error}");
    serve(std::sync::Arc::clone(&rig.book) as _, rig.sessions.clone(), options(true))
        .await
        .expect("served")
        .drain()
        .await;
}

#[tokio::test]
async fn a_socket_for_a_proxy_lets_only_our_user_in() {
    use std::os::unix::fs::PermissionsExt as _;
    let rig = Rig::new(limits()).await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("run/supervisors.sock");
    let listen = Listen::Unix(path.clone());
    let server =
        serve(std::sync::Arc::clone(&rig.book) as _, rig.sessions.clone(), Options::new(listen)).await.expect("served");
    let mode = |path: &std::path::Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().expect("a folder"))), (0o600, 0o700));
    tokio::net::UnixStream::connect(&path).await.expect("it listens");
    server.drain().await;
    assert!(!path.exists(), "the socket stays behind");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_without_a_token_that_holds_is_not_kept() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let rig = Rig::new(Limits { strangers: Duration::from_secs(10), ..limits() }).await;
    let Listen::Tcp(address) = rig.server.listen() else { panic!("an address") };
    let supervisor = rig.dial(rig.script()).await.expect("accepted");
    // One says nothing, one begins as HTTP/2 does and then says nothing.
    let mut strangers = Vec::new();
    for begin in [&b""[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"] {
        let mut stranger = tokio::net::TcpStream::connect(address).await.expect("it listens");
        stranger.write_all(begin).await.expect("sent");
        strangers.push(stranger);
    }
    for mut stranger in strangers {
        let mut heard = Vec::new();
        // The end, or a reset, because what we sent was not read.
        let _ = soon(stranger.read_to_end(&mut heard)).await;
    }
    let mut refused = client(&rig.endpoint(), "wrong").await;
    let asked = GetSandboxConfigRequest { sandbox_id: "s-1".to_owned() };
    assert_eq!(refused.get_sandbox_config(asked).await.expect_err("refused").code(), Code::Unauthenticated);
    // The supervisor came before them all and is there still.
    assert_eq!(rig.run(&["echo", "here"]).await.text(), "here\n");
    drop(supervisor);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_with_many_connections_keeps_no_other_out() {
    let rig = Rig::new(Limits { connections_of_one: 3, ..limits() }).await;
    let asked = || GetSandboxConfigRequest { sandbox_id: "s-1".to_owned() };
    let mut kept = Vec::new();
    for _ in 0..3 {
        let mut one = client(&rig.endpoint(), TOKEN).await;
        one.get_sandbox_config(asked()).await.expect("one of its places");
        kept.push(one);
    }
    let mut more = client(&rig.endpoint(), TOKEN).await;
    let refused = more.get_sandbox_config(asked()).await.expect_err("it has all of its places");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    // Those that it has go on, and another sandbox gets in.
    kept[0].get_sandbox_config(asked()).await.expect("still there");
    let other = id("s-2");
    rig.book.start(&other, "the-others-token", "a-1");
    rig.sessions.admit(&other);
    let supervisor = Supervisor::dial(&rig.endpoint(), "the-others-token", other.as_str(), rig.script()).await;
    supervisor.expect("another sandbox's places are its own");
    // A connection that ends gives its place back.
    kept.clear();
    soon(async {
        while more.get_sandbox_config(asked()).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_strangers_keeps_no_sandbox_out() {
    use tokio::io::AsyncReadExt as _;
    let rig = Rig::new(Limits { strangers_at_once: 8, ..limits() }).await;
    let Listen::Tcp(address) = rig.server.listen() else { panic!("an address") };
    let mut flood = Vec::new();
    for _ in 0..32 {
        flood.push(tokio::net::TcpStream::connect(address).await.expect("it listens"));
    }
    let supervisor = rig.dial(rig.script()).await.expect("it gets in among them");
    // Those who were there longest had to go, long before their time.
    for stranger in flood.drain(..8) {
        let (mut stranger, mut heard) = (stranger, Vec::new());
        let _ = soon(stranger.read_to_end(&mut heard)).await;
    }
    for _ in 0..32 {
        flood.push(tokio::net::TcpStream::connect(address).await.expect("it listens"));
    }
    assert_eq!(rig.run(&["echo", "here"]).await.text(), "here\n");
    drop(supervisor);
}
