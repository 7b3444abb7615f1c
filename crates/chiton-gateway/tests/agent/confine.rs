//! An agent that its driver hands a confinement: it applies it to itself before anything else, and works.

use chiton_confine::{Arch, Confinement, Landlock, Seccomp};
use serde_json::json;

use crate::sandbox::{Sandbox, run, soon, start};

fn confinement() -> Confinement {
    let seccomp = Seccomp::standard().compile(Arch::current().expect("a known processor")).expect("compiled");
    Confinement { seccomp, landlock: Landlock::standard() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_handed_a_confinement_and_all_that_it_starts_are_confined() {
    let sandbox = Sandbox::new();
    let mut agent = sandbox
        .command(&[])
        .env("CHITON_AGENT_CONFINEMENT", json!(confinement()).to_string())
        .spawn()
        .expect("started");
    sandbox.connected().await;
    let of_agent = std::fs::read_to_string(format!("/proc/{}/status", agent.id().expect("it runs"))).expect("a status");
    let mut client = sandbox.client();
    let (of_program, exit) = run(&mut client, start(&["cat", "/proc/self/status"])).await;
    assert_eq!(exit.code, 0);
    for status in [of_agent, of_program.text()] {
        assert!(status.lines().any(|line| line == "Seccomp:\t2"), "{status}");
        assert!(status.lines().any(|line| line == "NoNewPrivs:\t1"), "{status}");
    }
    let (refused, exit) = run(&mut client, start(&["unshare", "--user", "true"])).await;
    assert_ne!(exit.code, 0, "{}", refused.text());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Operation not permitted"));
    agent.start_kill().expect("killed");
    soon(agent.wait()).await.expect("ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_cannot_be_confined_as_its_driver_wants_it_does_not_start() {
    let mut missing = confinement();
    missing.landlock.rules[0].path = "/nowhere/at/all".to_owned();
    let damaged = json!({ "seccomp": "zz", "landlock": Landlock::standard() });
    for (text, why) in [
        (json!(missing).to_string(), "\"/nowhere/at/all\""),
        (damaged.to_string(), "the compiled filter is damaged"),
        ("{}".to_owned(), "missing field"),
    ] {
        let sandbox = Sandbox::new();
        let mut command = sandbox.command(&["true"]);
        command.env("CHITON_AGENT_CONFINEMENT", text).stderr(std::process::Stdio::piped());
        let output = soon(command.spawn().expect("started").wait_with_output()).await.expect("ended");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(125), "{said}");
        assert!(said.contains(why), "{said}");
    }
}
