//! What a sandbox whose agent does what an attacker wants can do to the gateway and to others: nothing.

use std::io::Write as _;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::Scene;
use super::liar::{Liar, secrets};
use crate::harness::user::By;

/// How much the gateway may grow while it is lied to: windows and buffers of the few connections that it looks at.
const GROWTH: u64 = 48 * 1024 * 1024;
/// How long a lie lasts while others are measured and callers wait for it.
const CALL: Duration = Duration::from_secs(2);

/// What others may be delayed by: the machine is shared with whoever lies.
fn bound(before: Duration) -> Duration {
    before * 8 + Duration::from_millis(250)
}

/// How often a lie is told again beside which a neighbour waited: something else on this machine may have been the reason.
const AGAIN: usize = 2;

/// Tells a lie, and asserts that beside it a neighbour is served and the gateway's memory is bounded.
#[track_caller]
fn bounded(scene: &Scene, liar: &Liar<'_>, told: (&str, &str), asked: bool, before: (Duration, u64)) {
    let (what, until) = told;
    for again in 0..=AGAIN {
        let answer = liar.order(what, until);
        let calls = if asked { ask(scene) } else { Vec::new() };
        let (latency, memory) = (scene.latency(), scene.gateway.memory());
        let grown = memory.saturating_sub(before.1);
        // Not by a macro, which the test runner would swallow.
        let figures = format!(
            "{what}: exec p50 of a neighbour {:?} -> {latency:?}, memory {} + {} KiB; {}",
            before.0,
            before.1 / 1024,
            grown / 1024,
            answer.trim()
        );
        drop(writeln!(std::io::stderr(), "{figures}"));
        let served = latency <= bound(before.0);
        assert!(served || again < AGAIN, "a neighbour waits: {figures}");
        assert!(grown <= GROWTH, "the gateway grows: {figures}");
        part(calls);
        liar.end();
        // A caller that is gone has left nothing that grows.
        _ = std::fs::remove_file(scene.gateway.path("asked"));
        if served {
            return;
        }
    }
}

/// Commands that ask the liar for something. They may fail and they may wait; after a moment they are ended.
fn ask(scene: &Scene) -> Vec<Child> {
    let out = scene.gateway.path("asked");
    let out = out.to_str().expect("a path");
    let calls: [&[&str]; 4] = [
        &["sandbox", "exec", "--timeout", "1s", "box", "--", "true"],
        &["sandbox", "cp", "box:/workspace/tree", out],
        &["sandbox", "cp", "box:/workspace/file", out],
        &["sandbox", "cp", "chiton.toml", "box:/workspace/file"],
    ];
    let start = |arguments: &&[&str]| {
        let mut command = scene.gateway.plain_command(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program")
    };
    calls.iter().map(start).collect()
}

/// Waits for callers for a moment, and ends those that still wait.
fn part(calls: Vec<Child>) {
    let end = Instant::now() + CALL;
    for mut call in calls {
        let process = pidfd_open(Pid::from_child(&call), PidfdFlags::empty()).expect("its handle");
        let left = Timespec::try_from(end.saturating_duration_since(Instant::now())).expect("a time");
        poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&left)).expect("a wait");
        _ = call.kill();
        call.wait().expect("a status");
    }
}

fn an_agent_is_let_in_by_its_own_token_attempt_and_socket_only(by: By) {
    let scene = Scene::new(by);
    let other = secrets(&scene, "neighbour");
    let own = secrets(&scene, "box");
    assert_ne!(own, other);
    let liar = Liar::new(&scene);
    let token = "refused: the token is not this sandbox's";
    liar.order_as(&other.0, &other.1, "hello", token);
    liar.order_as(&other.0, &own.1, "hello", token);
    liar.order_as("none", &own.1, "hello", token);
    liar.order_as(&own.0, &other.1, "hello", "refused: another start of this sandbox is awaited");
    // Its folder has its own socket and no other's.
    let agent = scene.agent("box");
    let listing = std::fs::read_dir(format!("/proc/{agent}/root/run/chiton")).expect("its folder");
    let names: Vec<_> = listing.map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!(names, ["agent.sock"]);
    scene.unharmed();
    // What it is, it may say: else the refusals prove nothing.
    liar.order("hello", "accepted");
}

fn a_token_is_worth_nothing_after_its_start_and_after_its_sandbox(by: By) {
    let scene = Scene::new(by);
    let old = secrets(&scene, "box");
    scene.gateway.chiton(&["sandbox", "stop", "box"]).ok();
    scene.gateway.chiton(&["sandbox", "start", "box"]).ok();
    {
        let new = secrets(&scene, "box");
        assert!(new.0 != old.0 && new.1 != old.1);
        let liar = Liar::new(&scene);
        let token = "refused: the token is not this sandbox's";
        liar.order_as(&old.0, &old.1, "hello", token);
        liar.order_as(&old.0, &new.1, "hello", token);
        liar.order_as(&new.0, &old.1, "hello", "refused: another start of this sandbox is awaited");
    }
    let gone = secrets(&scene, "box");
    let socket =
        scene.gateway.path("data/run/drivers/oci/agent").join(scene.gateway.get("box")["id"].as_str().expect("an id"));
    assert!(socket.join("agent.sock").exists(), "the socket is where this test looks for it");
    scene.gateway.chiton(&["sandbox", "delete", "box"]).ok();
    assert!(!socket.exists(), "a door was left");
    scene.gateway.chiton(&["sandbox", "create", "box"]).ok();
    let liar = Liar::new(&scene);
    liar.order_as(&gone.0, &gone.1, "hello", "refused: the token is not this sandbox's");
    scene.unharmed();
}

fn of_two_agents_the_later_one_has_the_session_and_the_earlier_one_ends(by: By) {
    let scene = Scene::new(by);
    {
        let liar = Liar::new(&scene);
        assert!(liar.order("twice", "ended").contains("first closed, second open"));
        scene.unharmed();
    }
    // The real one dials again.
    scene.gateway.until_reached("box");
    assert_eq!(scene.gateway.shell("box", "echo back").ok(), "back\n");
}

fn floods_before_the_handshake_delay_no_neighbour_and_fill_no_memory(by: By) {
    let scene = Scene::alone(by, &[]);
    let liar = Liar::new(&scene);
    // Before the floods, after which a connection waits for its turn.
    assert!(liar.order("long", "ended").contains("closed"), "a frame of four gigabytes is refused by its length");
    let before = (scene.latency(), scene.gateway.memory());
    for (what, until) in [("silence 3000", "holding"), ("garbage 64", ""), ("storm 4", "")] {
        bounded(&scene, &liar, (what, until), false, before);
    }
    scene.unharmed();
    // Afterwards the door opens again for whoever may come in.
    let said = liar.order("return", "accepted");
    drop(writeln!(std::io::stderr(), "the next agent after the floods: {}", said.trim()));
}

fn frames_that_nobody_asked_for_delay_no_neighbour_and_fill_no_memory(by: By) {
    let scene = Scene::alone(by, &[]);
    let liar = Liar::new(&scene);
    let before = (scene.latency(), scene.gateway.memory());
    for kind in [
        "ping",
        "settings",
        "headers",
        "empty-continuation",
        "reset",
        "push",
        "window",
        "window-small",
        "huge",
        "data",
        "noise",
    ] {
        let what = format!("frames {kind}");
        bounded(&scene, &liar, (&what, "accepted"), true, before);
    }
    scene.unharmed();
}

fn answers_that_are_lies_crash_nothing_delay_no_neighbour_and_fill_no_memory(by: By) {
    let scene = Scene::alone(by, &[]);
    let liar = Liar::new(&scene);
    let before = (scene.latency(), scene.gateway.memory());
    for kind in [
        "never",
        "half",
        "endless",
        "endless-chunks",
        "huge",
        "malformed",
        "compressed",
        "empty",
        "no-exit",
        "odd-exit",
        "trickle",
        "sizes",
        "status",
    ] {
        let what = format!("answer {kind}");
        bounded(&scene, &liar, (&what, "accepted"), true, before);
    }
    scene.unharmed();
}

fn lies_about_an_exec_are_a_failure_and_never_a_success(by: By) {
    let scene = Scene::new(by);
    let liar = Liar::new(&scene);
    for kind in ["malformed", "compressed", "empty", "no-exit", "huge", "status"] {
        liar.order(&format!("answer {kind}"), "accepted");
        let output = scene.gateway.chiton(&["sandbox", "exec", "box", "--", "true"]);
        assert_ne!(output.code, 0, "{kind}: {output:?}");
        assert!(!output.stderr.contains("panicked") && output.stderr.contains("error"), "{kind}: {output:?}");
        liar.end();
    }
    // What it says of a failure is shown as words, not as orders to the terminal.
    liar.order("answer escapes", "accepted");
    let output = scene.gateway.chiton(&["sandbox", "exec", "box", "--", "true"]);
    assert!(!output.stderr.contains('\x1b') && !output.stderr.contains('\x07'), "{output:?}");
    liar.end();
    scene.unharmed();
}

fn an_agent_that_never_answers_holds_up_neither_delete_nor_the_end_of_the_gateway(by: By) {
    let mut scene = Scene::new(by);
    {
        let liar = Liar::new(&scene);
        liar.order("answer never", "accepted");
        let calls = ask(&scene);
        let begin = Instant::now();
        scene.gateway.chiton(&["sandbox", "delete", "box"]).ok();
        // Longer than the grace of a stop, and much shorter than for ever.
        assert!(begin.elapsed() < Duration::from_mins(1), "the delete took {:?}", begin.elapsed());
        // Its callers learn that it is gone.
        for mut call in calls {
            assert!(!call.wait().expect("a status").success());
        }
    }
    scene.gateway.chiton(&["sandbox", "create", "box"]).ok();
    {
        let liar = Liar::new(&scene);
        liar.order("answer half", "accepted");
        let calls = ask(&scene);
        scene.gateway.ask_to_end();
        part(calls);
    }
    scene.gateway.terminate();
    scene.gateway.begin();
    scene.gateway.until_reached("neighbour");
    scene.unharmed();
}

by_both!(
    an_agent_is_let_in_by_its_own_token_attempt_and_socket_only,
    a_token_is_worth_nothing_after_its_start_and_after_its_sandbox,
    of_two_agents_the_later_one_has_the_session_and_the_earlier_one_ends,
    floods_before_the_handshake_delay_no_neighbour_and_fill_no_memory,
    frames_that_nobody_asked_for_delay_no_neighbour_and_fill_no_memory,
    answers_that_are_lies_crash_nothing_delay_no_neighbour_and_fill_no_memory,
    lies_about_an_exec_are_a_failure_and_never_a_success,
    an_agent_that_never_answers_holds_up_neither_delete_nor_the_end_of_the_gateway,
);
