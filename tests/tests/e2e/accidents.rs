//! What becomes of sandboxes when something below or above them dies, hangs or is replaced.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use chiton_proto::v1 as wire;
use chiton_tests::crash::leftovers;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::{Gateway, PROGRAM, parent, root};

/// The command of a sandbox's init.
const AGENT: &str = "/run/chiton-agent agent";

fn id(sandbox: &Value) -> &str {
    sandbox["id"].as_str().expect("an id")
}

/// The gateway's processes whose command has these words, on the host. A child of such a one has its words until it
/// executes its own program, and is none.
fn processes(gateway: &Gateway, words: &str) -> Vec<Pid> {
    let all = leftovers::pids(gateway.id(), gateway.folder());
    let found: Vec<i32> = all.iter().filter(|(_, what)| what.contains(words)).map(|(pid, _)| *pid).collect();
    let child = |pid: &i32| parent(*pid).is_some_and(|parent| found.contains(&parent));
    found.iter().filter(|pid| !child(pid)).filter_map(|pid| Pid::from_raw(*pid)).collect()
}

#[track_caller]
fn one(gateway: &Gateway, words: &str) -> Pid {
    match processes(gateway, words).as_slice() {
        [pid] => *pid,
        other => panic!("{other:?} have {words:?} in their command, not one"),
    }
}

/// Waits until the sandbox has completed; how.
#[track_caller]
fn completed(gateway: &Gateway, id: &str) -> Value {
    gateway.until(id, |sandbox| sandbox.is_some_and(|sandbox| sandbox.phase == "Completed"));
    gateway.get("box")["exit"].clone()
}

fn degraded(sandbox: &wire::Sandbox) -> bool {
    sandbox.conditions.iter().any(|condition| condition.r#type == "Degraded" && condition.status == "True")
}

#[test]
fn an_agent_that_is_killed_ends_its_sandbox_which_says_so_and_starts_again() {
    if !root() {
        return;
    }
    let gateway = Gateway::start("");
    let sandbox = gateway.json(&["sandbox", "create", "box", "--", "sleep", "600"]);
    // From inside nothing can kill it: it is process 1 of its namespace.
    let inside = gateway.shell("box", "kill -9 1; kill -STOP 1; echo kept > /workspace/note; echo still here");
    assert_eq!(inside.stdout, "still here\n");
    kill_process(one(&gateway, AGENT), Signal::KILL).expect("a signal");
    let exit = completed(&gateway, id(&sandbox));
    assert_eq!((&exit["code"], &exit["reason"]), (&json!(137), &json!("AgentKilled")));
    assert_eq!(processes(&gateway, "sleep 600"), [], "everything in it ended with it");
    gateway.chiton(&["sandbox", "start", "box"]).ok();
    assert_eq!(gateway.shell("box", "cat /workspace/note").ok(), "kept\n");
}

#[test]
fn a_stopped_agent_makes_calls_fail_in_time_and_degrades_its_sandbox_until_it_goes_on() {
    if !root() {
        return;
    }
    let gateway = Gateway::start("");
    let sandbox = gateway.json(&["sandbox", "create", "box"]);
    gateway.chiton(&["sandbox", "create", "other"]).ok();
    gateway.shell("box", "true").ok();
    let agent = processes(&gateway, AGENT).into_iter().find(|pid| {
        let groups = fs::read_to_string(format!("/proc/{}/cgroup", pid.as_raw_nonzero())).unwrap_or_default();
        groups.contains(id(&sandbox))
    });
    let agent = agent.expect("its agent");
    kill_process(agent, Signal::STOP).expect("a signal");
    let begin = Instant::now();
    let late = gateway.shell("box", "true");
    assert_eq!(late.code, 125);
    assert!(late.stderr.contains("does not answer") && late.stderr.contains("[deadline]"), "{}", late.stderr);
    assert!(begin.elapsed() < Duration::from_mins(1), "after {:?}", begin.elapsed());
    let conditions = gateway.get("box")["conditions"].clone();
    assert_eq!(conditions[0]["type"], "Degraded", "{conditions:#}");
    assert_eq!((&conditions[0]["status"], &conditions[0]["reason"]), (&json!("True"), &json!("AgentSilent")));
    let begin = Instant::now();
    let refused = gateway.chiton(&["sandbox", "cp", "box:/etc/passwd", "passwd"]).refused();
    assert!(refused.contains("has not answered since") && refused.contains("[unavailable]"), "{refused}");
    // To ask the agent again takes ten seconds.
    assert!(begin.elapsed() < Duration::from_secs(10), "what is known is said at once");
    gateway.shell("other", "true").ok();

    kill_process(agent, Signal::CONT).expect("a signal");
    gateway.until(id(&sandbox), |sandbox| sandbox.is_some_and(|sandbox| !degraded(sandbox)));
    assert_eq!(gateway.shell("box", "echo again").ok(), "again\n");
    assert_eq!(gateway.get("box")["phase"], "Ready");
}

#[test]
fn a_sandbox_without_memory_is_reported_as_such() {
    if !root() {
        return;
    }
    let gateway = Gateway::start("");
    let sandbox = gateway.json(&["sandbox", "create", "box", "--memory", "48Mi", "--", "tail", "/dev/zero"]);
    let exit = completed(&gateway, id(&sandbox));
    assert_eq!((&exit["code"], &exit["reason"]), (&json!(137), &json!("OOMKilled")));
}

#[test]
fn what_a_killed_monitor_leaves_is_ended_and_the_reason_says_so() {
    if !root() {
        return;
    }
    let mut gateway = Gateway::start("");
    let sandbox = gateway.json(&["sandbox", "create", "box", "--", "sleep", "600"]);
    let watched = format!("monitor {}", id(&sandbox));
    for absent in [false, true] {
        if absent {
            gateway.chiton(&["sandbox", "start", "box"]).ok();
            gateway.kill();
        }
        kill_process(one(&gateway, &watched), Signal::KILL).expect("a signal");
        if absent {
            assert_eq!(processes(&gateway, AGENT).len(), 1, "nobody was there to end it");
            gateway.begin();
        }
        let exit = completed(&gateway, id(&sandbox));
        assert_eq!((&exit["code"], &exit["reason"]), (&Value::Null, &json!("MonitorLost")), "absent: {absent}");
        assert_eq!((processes(&gateway, "sleep 600"), processes(&gateway, AGENT)), (vec![], vec![]));
        assert_eq!(gateway.json(&["orphans", "list"]), json!([]));
    }
}

#[test]
fn after_a_restart_of_the_machine_nothing_claims_to_run_and_everything_can() {
    if !root() {
        return;
    }
    let mut gateway = Gateway::start("");
    let sandbox = gateway.json(&["sandbox", "create", "box", "--", "sleep", "600"]);
    gateway.chiton(&["sandbox", "create", "stopped"]).ok();
    gateway.chiton(&["sandbox", "stop", "stopped"]).ok();
    gateway.shell("box", "echo kept > /workspace/note").ok();
    gateway.restart_machine();
    let exit = completed(&gateway, id(&sandbox));
    assert_eq!((&exit["code"], &exit["reason"]), (&Value::Null, &json!("HostRestarted")));
    let list = gateway.json(&["sandbox", "list"]);
    let phases: Vec<&str> = list.as_array().expect("a list").iter().filter_map(|row| row["phase"].as_str()).collect();
    assert!(!phases.contains(&"Ready") && phases.len() == 2, "{phases:?}");
    assert_eq!(gateway.chiton(&["sandbox", "exec", "box", "--", "true"]).code, 125);
    // A kernel that hides a part of /proc mounts no other in a user namespace: without the boot id that it was given.
    gateway.terminate();
    gateway.replace(PROGRAM.into());
    gateway.begin();
    assert_eq!(gateway.get("box")["exit"]["reason"], "HostRestarted", "what is known stays known");
    for name in ["box", "stopped"] {
        gateway.chiton(&["sandbox", "start", name]).ok();
        gateway.shell(name, "true").ok();
    }
    assert_eq!(gateway.shell("box", "cat /workspace/note").ok(), "kept\n");
}

/// Another build of the gateway: the same program with an agent that differs in one of its messages.
fn other_build(gateway: &Gateway) -> std::path::PathBuf {
    let mut program = fs::read(PROGRAM).expect("the program");
    let [agent] = gateway.agents().try_into().expect("one agent");
    let agent = fs::read(agent).expect("the agent");
    let begin = program.windows(agent.len()).position(|window| window == agent).expect("the agent in the program");
    let text = b"the main program did not start";
    let at = agent.windows(text.len()).position(|window| window == text).expect("a message of the agent's");
    program[begin + at] = b'T';
    let (draft, path) = (gateway.path("draft"), gateway.path("upgraded"));
    fs::write(&draft, program).expect("a program");
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).expect("a mode");
    // By another process: a file that this one writes cannot be executed while any child of another test's has
    // inherited it open.
    let copied = Command::new("cp").arg(&draft).arg(&path).status();
    assert!(copied.is_ok_and(|status| status.success()), "there is no other build");
    path
}

#[test]
fn sandboxes_go_on_while_their_gateway_is_replaced_by_another_build() {
    if !root() {
        return;
    }
    let mut gateway = Gateway::start("");
    let script = "while :; do echo tick; sleep 0.05; done";
    let sandbox = gateway.json(&["sandbox", "create", "box", "--", "sh", "-c", script]);
    gateway.shell("box", "sleep 600 & echo $! > /workspace/pid").ok();
    let agent = one(&gateway, AGENT);
    let build = other_build(&gateway);
    gateway.terminate();
    gateway.replace(build);
    gateway.begin();
    gateway.until(id(&sandbox), |sandbox| sandbox.is_some_and(|sandbox| sandbox.phase == "Ready"));
    gateway.until_reached("box");
    assert_eq!(gateway.shell("box", "kill -0 $(cat /workspace/pid) && echo alive").ok(), "alive\n");
    assert_eq!(one(&gateway, AGENT), agent, "its agent is the old one, which the new gateway serves");
    fs::write(gateway.path("file"), "through the new gateway").expect("a file");
    gateway.chiton(&["sandbox", "cp", "file", "box:/workspace/file"]).ok();
    assert_eq!(gateway.shell("box", "cat /workspace/file").ok(), "through the new gateway");

    gateway.chiton(&["sandbox", "create", "new"]).ok();
    gateway.shell("new", "true").ok();
    assert_eq!(gateway.agents().len(), 2, "each runs the agent that it was started with");
    gateway.chiton(&["sandbox", "stop", "box"]).ok();
    gateway.chiton(&["sandbox", "start", "box"]).ok();
    assert_eq!(gateway.shell("box", "cat /workspace/file").ok(), "through the new gateway");
    assert_eq!(gateway.get("box")["phase"], "Ready");
}
