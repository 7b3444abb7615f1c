//! Sessions: how they begin, follow each other and end; relays.

use std::sync::atomic::Ordering;
use std::time::Duration;

use chiton_gateway::Listen;
use chiton_gateway::sessions::SessionError;
use chiton_model::ErrorKind;
use chiton_openshell_session::{Limits, Options, serve};
use chiton_proto::agent::v1::HealthRequest;
use tokio::task::JoinSet;
use tonic::Code;

use crate::rig::{Call, Rig, limits, loopback, soon, start};
use crate::supervisor::{Answer, Script};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_supervisor_counts_as_the_agent_of_the_start_its_token_is_of() {
    let rig = Rig::new(Limits::default()).await;
    let waiting = rig.sessions.wait_connected(&rig.id, "a-1");
    let supervisor = rig.dial(rig.script()).await.expect("accepted");
    soon(waiting).await.expect("connected");
    assert_eq!(supervisor.accepted.heartbeat_interval_secs, 15);
    assert!(!supervisor.accepted.session_id.is_empty());
    assert_eq!(rig.sessions.connected_attempt(&rig.id).as_deref(), Some("a-1"));
    let health = soon(rig.agent().health(HealthRequest {})).await.expect("health").into_inner();
    assert_eq!((health.version.as_str(), health.running), ("openshell", 0));
    drop(supervisor);
    soon(rig.sessions.wait_disconnected(&rig.id, "a-1")).await.expect("seen");
    assert!(matches!(rig.sessions.client(&rig.id), Err(SessionError::Disconnected(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_beat_and_silence_ends_a_session() {
    let rig = Rig::new(Limits { heartbeat: Duration::from_secs(2), ..limits() }).await;
    let living = rig.dial(rig.script()).await.expect("accepted");
    soon(async {
        while living.beats.load(Ordering::Relaxed) < 4 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // Four intervals went by, which is more than a supervisor may be silent: this one is not.
    assert_eq!(rig.sessions.connected_attempt(&rig.id).as_deref(), Some("a-1"));
    drop(living);
    soon(rig.sessions.wait_disconnected(&rig.id, "a-1")).await.expect("seen");
    let silent = rig.dial(Script { beats: false, ..rig.script() }).await.expect("accepted");
    soon(rig.sessions.wait_disconnected(&rig.id, "a-1")).await.expect("given up");
    soon(silent.ended()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_session_takes_the_place_of_an_older_one() {
    let (rig, older) = Rig::ready().await;
    let newer = rig.dial(Script { instance: "run-2".to_owned(), ..rig.script() }).await.expect("accepted");
    older.ended().await;
    assert_eq!(rig.run(&["echo", "newer"]).await.text(), "newer\n");
    assert_eq!(newer.asked.borrow().len(), 1);
    drop(newer);
    soon(rig.sessions.wait_disconnected(&rig.id, "a-1")).await.expect("seen");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_is_not_opened_fails_in_time_and_says_why() {
    let rig = Rig::new(Limits { relay: Duration::from_millis(300), ..limits() }).await;
    let _silent = rig.dial(Script { answer: Answer::Nothing, ..rig.script() }).await.expect("accepted");
    let status = Call::begin(&mut rig.agent(), start(&["true"])).await.expect_err("refused");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("within 300ms"), "{status}");
    let rig = Rig::new(limits()).await;
    let _failing = rig.dial(Script { answer: Answer::Fail, ..rig.script() }).await.expect("accepted");
    let status = Call::begin(&mut rig.agent(), start(&["true"])).await.expect_err("refused");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("no SSH server is there"), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pending_relays_are_bounded_and_their_places_come_back() {
    let rig = Rig::new(limits()).await;
    let mut supervisor = rig.dial(Script { answer: Answer::Nothing, ..rig.script() }).await.expect("accepted");
    let mut calls = JoinSet::new();
    for _ in 0..40 {
        let mut client = rig.agent();
        calls.spawn(async move { Call::begin(&mut client, start(&["true"])).await.expect_err("refused").code() });
    }
    // Those without a place are refused at once, the others wait.
    for _ in 0..8 {
        let code = soon(calls.join_next()).await.expect("there are more").expect("no panic");
        assert_eq!(code, Code::ResourceExhausted);
    }
    assert_eq!(supervisor.asked_for(32).await.len(), 32);
    // Callers that go away give theirs back.
    calls.shutdown().await;
    soon(async {
        loop {
            let mut client = rig.agent();
            tokio::select! {
                _ = supervisor.asked_for(33) => return,
                refused = Call::begin(&mut client, start(&["true"])) => {
                    assert_eq!(refused.expect_err("refused").code(), Code::ResourceExhausted);
                }
            }
        }
    })
    .await;
    let _working = rig.dial(rig.script()).await.expect("accepted");
    assert_eq!(rig.run(&["echo", "again"]).await.text(), "again\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bound_over_all_sandboxes_holds_beside_that_of_each() {
    let rig = Rig::new(Limits { pending: 1, ..limits() }).await;
    let mut supervisor = rig.dial(Script { answer: Answer::Nothing, ..rig.script() }).await.expect("accepted");
    let mut client = rig.agent();
    let first = tokio::spawn(async move { Call::begin(&mut client, start(&["true"])).await });
    supervisor.asked_for(1).await;
    let status = Call::begin(&mut rig.agent(), start(&["true"])).await.expect_err("refused");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("the gateway has 1 streams"), "{status}");
    assert!(!first.is_finished(), "it still waits for its own");
    first.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_ends_ends_its_programs_calls() {
    let (rig, supervisor) = Rig::ready().await;
    let mut call =
        Call::begin(&mut rig.agent(), start(&["sh", "-c", "echo ready; exec sleep 1000"])).await.expect("accepted");
    call.until("ready").await;
    let pid = nix::unistd::Pid::from_raw(call.pid);
    drop(supervisor);
    let error = loop {
        match call.next().await {
            Ok(None) => {}
            Ok(Some(exit)) => panic!("{exit:?} of a program that nobody saw end"),
            Err(status) => break status,
        }
    };
    assert!(matches!(error.code(), Code::Unavailable | Code::Cancelled | Code::Unknown | Code::Internal), "{error}");
    // No supervisor dials again, so nobody could end it.
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it ran");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_came_back_takes_the_supervisor_on_at_the_same_place() {
    // An address of its own: no other test takes the port while nobody listens there.
    let mut rig = Rig::at(Listen::Tcp((std::net::Ipv4Addr::new(127, 0, 17, 1), 0).into()), limits()).await;
    let supervisor = rig.dial(rig.script()).await.expect("accepted");
    assert_eq!(rig.run(&["echo", "before"]).await.text(), "before\n");
    let listen = rig.server.listen().clone();
    let options = Options { limits: limits(), ..Options::new(listen.clone()) };
    let tokens = std::sync::Arc::clone(&rig.book);
    // A gateway that is new in all but its store.
    let sessions = chiton_gateway::sessions::Sessions::new(std::sync::Arc::clone(&tokens) as _);
    let spare = serve(std::sync::Arc::clone(&tokens) as _, sessions.clone(), Options::new(loopback()));
    let old = std::mem::replace(&mut rig.server, spare.await.expect("served"));
    soon(old.drain()).await;
    soon(supervisor.ended()).await;
    sessions.admit(&rig.id);
    // Another test's child that has not executed its program yet has the old listener open for a moment.
    rig.server = soon(async {
        loop {
            match serve(std::sync::Arc::clone(&tokens) as _, sessions.clone(), options.clone()).await {
                Ok(server) => return server,
                Err(error) => assert!(matches!(error.kind, ErrorKind::Unavailable { .. }), "{error}"),
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(*rig.server.listen(), listen);
    rig.sessions = sessions;
    let _supervisor = rig.dial(rig.script()).await.expect("accepted");
    assert_eq!(rig.run(&["echo", "after"]).await.text(), "after\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_ends_ends_what_its_callers_run() {
    let (mut rig, _supervisor) = Rig::ready().await;
    let pipe = rig.home().join("held");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let path = pipe.to_str().expect("text").to_owned();
    let held = tokio::task::spawn_blocking(move || std::fs::read(pipe));
    let argv = ["sh", "-c", "exec 3>\"$1\"; echo ready; exec sleep 1000", "sh", &path];
    let mut call = Call::begin(&mut rig.agent(), start(&argv)).await.expect("accepted");
    call.until("ready").await;
    let other = Options::new(loopback());
    let spare = serve(std::sync::Arc::clone(&rig.book) as _, rig.sessions.clone(), other).await.expect("served");
    soon(std::mem::replace(&mut rig.server, spare).drain()).await;
    assert_eq!(soon(held).await.expect("no panic").expect("read"), b"", "it still runs");
}
