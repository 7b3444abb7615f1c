//! An extension that fails, hangs or panics in one phase: what is undone, what is owed, and what is said.

use std::fmt::Write as _;

use serde_json::Value;

use crate::harness::{Gateway, root};
use crate::life::CHAIN;

/// Only where something hangs is it waited for: all other hooks must be able to take their time on a busy machine.
fn hanging() -> String {
    format!("{CHAIN}\n[compute.policy.\"fault\"]\ndeadline = \"5s\"\n")
}

/// What is done to a sandbox until the phase comes.
const PHASES: [(&str, &[&str]); 14] = [
    ("validate_request", &["create"]),
    ("prepare_plan", &["create"]),
    ("validate_plan", &["create"]),
    ("before_create", &["create"]),
    ("after_create", &["create"]),
    ("before_start", &["create"]),
    ("after_ready", &["create"]),
    ("on_create_failed", &["create"]),
    ("approve_stop", &["create", "stop"]),
    ("before_stop", &["create", "stop"]),
    ("after_stop", &["create", "stop", "start"]),
    ("before_delete", &["create", "delete"]),
    ("after_delete", &["create", "delete"]),
    ("reconcile", &["create", "stop", "delete"]),
];

/// Plays one phase's misfortune and tells what came of it.
fn story(gateway: &Gateway, phase: &str, kind: &str, steps: &[&str]) -> String {
    let name = phase.replace('_', "-");
    let label = format!("fault/{phase}={kind}");
    let mut create = vec!["sandbox", "create", &name, "--label", &label];
    if phase == "on_create_failed" {
        create.extend(["--label", "fault/after_create=fail"]);
    }
    let mut told = format!("# {phase}\n");
    for step in steps {
        let output = match *step {
            "create" => gateway.chiton(&create),
            step => gateway.chiton(&["sandbox", step, &name]),
        };
        let said = output.stderr.trim().replace('\n', "\n  ");
        writeln!(told, "{step}: {}{said}", if output.code == 0 { "done " } else { "" }).expect("a string");
    }
    let found = gateway.chiton(&["--json", "sandbox", "get", &name, "--all"]);
    if found.code == 0 {
        let row: Value = serde_json::from_str(&found.stdout).expect("JSON");
        let id = row["id"].as_str().expect("an id");
        let conditions: Vec<String> = row["conditions"]
            .as_array()
            .expect("conditions")
            .iter()
            .map(|condition| format!("{}={} {}", condition["type"], condition["status"], condition["message"]))
            .collect();
        writeln!(told, "row: {} owes {} {}", row["phase"], row["obligations"], conditions.join("; "))
            .expect("a string");
        writeln!(told, "failure: {}", row["failure"]).expect("a string");
        let mut phases = gateway.phases(id);
        // A debt is tried again by itself; how often it was by now is not the same every time.
        phases.dedup();
        writeln!(told, "calls: {}", phases.join(" ")).expect("a string");
        let of = |name: &&String| name.starts_with(id);
        let effects: Vec<String> =
            gateway.entries("effects").iter().filter(of).map(|name| name.replace(id, "")).collect();
        writeln!(told, "held: {}, {} leases", effects.join(" "), gateway.leases(id)).expect("a string");
    } else {
        // A reconcile comes when it comes.
        let own = |call: &Value| call["name"] == name && call["phase"] != "reconcile";
        let calls: Vec<Value> = gateway.calls().into_iter().filter(own).collect();
        let phases: Vec<&str> = calls.iter().filter_map(|call| call["phase"].as_str()).collect();
        let ids: Vec<&str> = calls.iter().filter_map(|call| call["sandbox"].as_str()).collect();
        let held =
            |id: &&&str| gateway.leases(id) > 0 || gateway.entries("effects").iter().any(|name| name.starts_with(**id));
        writeln!(told, "no row, {} held\ncalls: {}", ids.iter().filter(held).count(), phases.join(" "))
            .expect("a string");
    }
    told.trim_end().replace(" \n", "\n") + "\n"
}

/// All phases at once: each in a sandbox of its own.
fn stories(gateway: &Gateway, kind: &str) -> String {
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            PHASES.iter().map(|(phase, steps)| scope.spawn(move || story(gateway, phase, kind, steps))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a story")).collect()
    })
}

fn filters() -> Vec<(&'static str, &'static str)> {
    vec![
        ("(s|op|ob)-[0-9a-z]{26}", "[$1]"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "[time]"),
        // It is tried again by itself; how often it was by now is not the same every time.
        (r"attempt \d+ failed", "attempt [n] failed"),
    ]
}

#[test]
fn a_phase_that_fails() {
    if !root() {
        return;
    }
    let gateway = Gateway::start(CHAIN);
    insta::with_settings!({filters => filters()}, {
        insta::assert_snapshot!(stories(&gateway, "fail"), @r#"
        # validate_request
        create: error: extension "fault" refused in validate_request: validate_request was told to fail [refused]
        no row, 0 held
        calls: validate_request
        # prepare_plan
        create: error: extension "fault" refused in prepare_plan: prepare_plan was told to fail [refused]
        no row, 0 held
        calls: validate_request prepare_plan
        # validate_plan
        create: error: extension "fault" refused in validate_plan: validate_plan was told to fail [refused]
        no row, 0 held
        calls: validate_request prepare_plan validate_plan
        # before_create
        create: error: extension "fault" failed in before_create: before_create was told to fail [refused]
        row: "Error" owes 0
        failure: "extension \"fault\" failed in before_create: before_create was told to fail"
        calls: before_create on_create_failed/failed
        held: , 0 leases
        # after_create
        create: error: extension "fault" failed in after_create: after_create was told to fail [refused]
        row: "Error" owes 0
        failure: "extension \"fault\" failed in after_create: after_create was told to fail"
        calls: before_create after_create on_create_failed/failed
        held: , 0 leases
        # before_start
        create: error: extension "fault" failed in before_start: before_start was told to fail [refused]
        row: "Error" owes 0
        failure: "extension \"fault\" failed in before_start: before_start was told to fail"
        calls: before_create after_create before_start after_stop/failed on_create_failed/completed
        held: , 0 leases
        # after_ready
        create: error: extension "fault" failed in after_ready: after_ready was told to fail [refused]
        row: "Error" owes 0
        failure: "extension \"fault\" failed in after_ready: after_ready was told to fail"
        calls: before_create after_create before_start after_ready after_stop/failed on_create_failed/completed
        held: , 0 leases
        # on_create_failed
        create: note: extension "fault" still owes on_create_failed ([s]/fault/on_create_failed): on_create_failed was told to fail
          error: extension "fault" failed in after_create: after_create was told to fail [refused]
        row: "Error" owes 1 "CleanupPending"="True" "extension \"fault\" owes on_create_failed since [time]: attempt [n] failed: on_create_failed was told to fail; next attempt at [time]; if what it cleans up is certainly gone: chiton obligations discharge [s]/fault/on_create_failed --force"
        failure: "extension \"fault\" failed in after_create: after_create was told to fail"
        calls: before_create after_create on_create_failed/failed
        held: .after_create .before_create, 0 leases
        # approve_stop
        create: done
        stop: error: extension "fault" vetoes the stop: approve_stop was told to fail [refused]
            cure: do what it asks for first; a delete cannot be vetoed
        row: "Ready" owes 0
        failure: null
        calls: before_create after_create before_start after_ready approve_stop
        held: .after_create .after_ready .before_create .before_start, 1 leases
        # before_stop
        create: done
        stop: done
        row: "Stopped" owes 0 "ExtensionDegraded"="True" "extension \"fault\" failed in before_stop: before_stop was told to fail"
        failure: null
        calls: before_create after_create before_start after_ready approve_stop before_stop after_stop/completed
        held: .after_create .before_create, 1 leases
        # after_stop
        create: done
        stop: done note: extension "fault" still owes after_stop ([s]/fault/after_stop): after_stop was told to fail
        start: error: extension "fault" still owes after_stop from the last stop (obligation [s]/fault/after_stop): after_stop was told to fail [conflict]
            cure: wait for its retry, or close it by hand: chiton obligations discharge [s]/fault/after_stop --force
        row: "Stopped" owes 1 "CleanupPending"="True" "extension \"fault\" owes after_stop since [time]: attempt [n] failed: after_stop was told to fail; next attempt at [time]; if what it cleans up is certainly gone: chiton obligations discharge [s]/fault/after_stop --force"
        failure: null
        calls: before_create after_create before_start after_ready approve_stop before_stop after_stop/completed
        held: .after_create .after_ready .before_create .before_start, 1 leases
        # before_delete
        create: done
        delete: done
        no row, 0 held
        calls: validate_request prepare_plan validate_plan before_create after_create before_start after_ready before_stop after_stop before_delete after_delete
        # after_delete
        create: done
        delete: done note: extension "fault" still owes after_delete ([s]/fault/after_delete): after_delete was told to fail
        row: "Deleted" owes 1 "CleanupPending"="True" "extension \"fault\" owes after_delete since [time]: attempt [n] failed: after_delete was told to fail; next attempt at [time]; if what it cleans up is certainly gone: chiton obligations discharge [s]/fault/after_delete --force"
        failure: null
        calls: before_create after_create before_start after_ready before_stop after_stop/completed before_delete after_delete/completed
        held: .after_create .before_create, 0 leases
        # reconcile
        create: done
        stop: done
        delete: done
        no row, 0 held
        calls: validate_request prepare_plan validate_plan before_create after_create before_start after_ready approve_stop before_stop after_stop before_delete after_delete
        "#);
    });
}

#[test]
fn a_phase_that_hangs() {
    if !root() {
        return;
    }
    let gateway = Gateway::start(&hanging());
    insta::with_settings!({filters => filters()}, {
        insta::assert_snapshot!(stories(&gateway, "hang"), @r#"
        # validate_request
        create: error: extension "fault" did not answer validate_request within 5s [deadline]
        no row, 0 held
        calls: validate_request
        # prepare_plan
        create: error: extension "fault" did not answer prepare_plan within 5s [deadline]
        no row, 0 held
        calls: validate_request prepare_plan
        # validate_plan
        create: error: extension "fault" did not answer validate_plan within 5s [deadline]
        no row, 0 held
        calls: validate_request prepare_plan validate_plan
        # before_create
        create: error: extension "fault" failed in before_create: its deadline of 5s passed [refused]
        row: "Error" owes 0
        failure: "extension \"fault\" failed in before_create: its deadline of 5s passed"
        calls: before_create on_create_failed/failed
        held: , 0 leases
        # after_create
        create: error: extension "fault" failed in after_create: its deadline of 5s passed [refused]
        row: "Error" owes 0
        failure: "extension \"fault\" failed in after_create: its deadline of 5s passed"
        calls: before_create after_create on_create_failed/failed
        held: , 0 leases
        # before_start
        create: error: extension "fault" failed in before_start: its deadline of 5s passed [refused]
        row: "Error" owes 0
        failure: "extension \"fault\" failed in before_start: its deadline of 5s passed"
        calls: before_create after_create before_start after_stop/failed on_create_failed/completed
        held: , 0 leases
        # after_ready
        create: error: extension "fault" failed in after_ready: its deadline of 5s passed [refused]
        row: "Error" owes 0
        failure: "extension \"fault\" failed in after_ready: its deadline of 5s passed"
        calls: before_create after_create before_start after_ready after_stop/failed on_create_failed/completed
        held: , 0 leases
        # on_create_failed
        create: note: extension "fault" still owes on_create_failed ([s]/fault/on_create_failed): its deadline of 5s passed
          error: extension "fault" failed in after_create: after_create was told to fail [refused]
        row: "Error" owes 1 "CleanupPending"="True" "extension \"fault\" owes on_create_failed since [time]: attempt [n] failed: its deadline of 5s passed; next attempt at [time]; if what it cleans up is certainly gone: chiton obligations discharge [s]/fault/on_create_failed --force"
        failure: "extension \"fault\" failed in after_create: after_create was told to fail"
        calls: before_create after_create on_create_failed/failed
        held: .after_create .before_create, 0 leases
        # approve_stop
        create: done
        stop: error: extension "fault" vetoes the stop: its deadline of 5s passed [refused]
            cure: do what it asks for first; a delete cannot be vetoed
        row: "Ready" owes 0
        failure: null
        calls: before_create after_create before_start after_ready approve_stop
        held: .after_create .after_ready .before_create .before_start, 1 leases
        # before_stop
        create: done
        stop: done
        row: "Stopped" owes 0 "ExtensionDegraded"="True" "extension \"fault\" failed in before_stop: its deadline of 5s passed"
        failure: null
        calls: before_create after_create before_start after_ready approve_stop before_stop after_stop/completed
        held: .after_create .before_create, 1 leases
        # after_stop
        create: done
        stop: done note: extension "fault" still owes after_stop ([s]/fault/after_stop): its deadline of 5s passed
        start: error: extension "fault" still owes after_stop from the last stop (obligation [s]/fault/after_stop): its deadline of 5s passed [conflict]
            cure: wait for its retry, or close it by hand: chiton obligations discharge [s]/fault/after_stop --force
        row: "Stopped" owes 1 "CleanupPending"="True" "extension \"fault\" owes after_stop since [time]: attempt [n] failed: its deadline of 5s passed; next attempt at [time]; if what it cleans up is certainly gone: chiton obligations discharge [s]/fault/after_stop --force"
        failure: null
        calls: before_create after_create before_start after_ready approve_stop before_stop after_stop/completed
        held: .after_create .after_ready .before_create .before_start, 1 leases
        # before_delete
        create: done
        delete: done
        no row, 0 held
        calls: validate_request prepare_plan validate_plan before_create after_create before_start after_ready before_stop after_stop before_delete after_delete
        # after_delete
        create: done
        delete: done note: extension "fault" still owes after_delete ([s]/fault/after_delete): its deadline of 5s passed
        row: "Deleted" owes 1 "CleanupPending"="True" "extension \"fault\" owes after_delete since [time]: attempt [n] failed: its deadline of 5s passed; next attempt at [time]; if what it cleans up is certainly gone: chiton obligations discharge [s]/fault/after_delete --force"
        failure: null
        calls: before_create after_create before_start after_ready before_stop after_stop/completed before_delete after_delete/completed
        held: .after_create .before_create, 0 leases
        # reconcile
        create: done
        stop: done
        delete: done
        no row, 0 held
        calls: validate_request prepare_plan validate_plan before_create after_create before_start after_ready approve_stop before_stop after_stop before_delete after_delete
        "#);
    });
}

#[test]
fn a_phase_that_panics() {
    if !root() {
        return;
    }
    let gateway = Gateway::start(CHAIN);
    insta::with_settings!({filters => filters()}, {
        insta::assert_snapshot!(stories(&gateway, "panic"), @r#"
        # validate_request
        create: error: extension "fault" refused in validate_request: it panicked: validate_request was told to panic [refused]
        no row, 0 held
        calls: validate_request
        # prepare_plan
        create: error: extension "fault" refused in prepare_plan: it panicked: prepare_plan was told to panic [refused]
        no row, 0 held
        calls: validate_request prepare_plan
        # validate_plan
        create: error: extension "fault" refused in validate_plan: it panicked: validate_plan was told to panic [refused]
        no row, 0 held
        calls: validate_request prepare_plan validate_plan
        # before_create
        create: error: extension "fault" failed in before_create: it panicked: before_create was told to panic [refused]
        row: "Error" owes 0
        failure: "extension \"fault\" failed in before_create: it panicked: before_create was told to panic"
        calls: before_create on_create_failed/failed
        held: , 0 leases
        # after_create
        create: error: extension "fault" failed in after_create: it panicked: after_create was told to panic [refused]
        row: "Error" owes 0
        failure: "extension \"fault\" failed in after_create: it panicked: after_create was told to panic"
        calls: before_create after_create on_create_failed/failed
        held: , 0 leases
        # before_start
        create: error: extension "fault" failed in before_start: it panicked: before_start was told to panic [refused]
        row: "Error" owes 0
        failure: "extension \"fault\" failed in before_start: it panicked: before_start was told to panic"
        calls: before_create after_create before_start after_stop/failed on_create_failed/completed
        held: , 0 leases
        # after_ready
        create: error: extension "fault" failed in after_ready: it panicked: after_ready was told to panic [refused]
        row: "Error" owes 0
        failure: "extension \"fault\" failed in after_ready: it panicked: after_ready was told to panic"
        calls: before_create after_create before_start after_ready after_stop/failed on_create_failed/completed
        held: , 0 leases
        # on_create_failed
        create: note: extension "fault" still owes on_create_failed ([s]/fault/on_create_failed): it panicked: on_create_failed was told to panic
          error: extension "fault" failed in after_create: after_create was told to fail [refused]
        row: "Error" owes 1 "CleanupPending"="True" "extension \"fault\" owes on_create_failed since [time]: attempt [n] failed: it panicked: on_create_failed was told to panic; next attempt at [time]; if what it cleans up is certainly gone: chiton obligations discharge [s]/fault/on_create_failed --force"
        failure: "extension \"fault\" failed in after_create: after_create was told to fail"
        calls: before_create after_create on_create_failed/failed
        held: .after_create .before_create, 0 leases
        # approve_stop
        create: done
        stop: error: extension "fault" vetoes the stop: it panicked: approve_stop was told to panic [refused]
            cure: do what it asks for first; a delete cannot be vetoed
        row: "Ready" owes 0
        failure: null
        calls: before_create after_create before_start after_ready approve_stop
        held: .after_create .after_ready .before_create .before_start, 1 leases
        # before_stop
        create: done
        stop: done
        row: "Stopped" owes 0 "ExtensionDegraded"="True" "extension \"fault\" failed in before_stop: it panicked: before_stop was told to panic"
        failure: null
        calls: before_create after_create before_start after_ready approve_stop before_stop after_stop/completed
        held: .after_create .before_create, 1 leases
        # after_stop
        create: done
        stop: done note: extension "fault" still owes after_stop ([s]/fault/after_stop): it panicked: after_stop was told to panic
        start: error: extension "fault" still owes after_stop from the last stop (obligation [s]/fault/after_stop): it panicked: after_stop was told to panic [conflict]
            cure: wait for its retry, or close it by hand: chiton obligations discharge [s]/fault/after_stop --force
        row: "Stopped" owes 1 "CleanupPending"="True" "extension \"fault\" owes after_stop since [time]: attempt [n] failed: it panicked: after_stop was told to panic; next attempt at [time]; if what it cleans up is certainly gone: chiton obligations discharge [s]/fault/after_stop --force"
        failure: null
        calls: before_create after_create before_start after_ready approve_stop before_stop after_stop/completed
        held: .after_create .after_ready .before_create .before_start, 1 leases
        # before_delete
        create: done
        delete: done
        no row, 0 held
        calls: validate_request prepare_plan validate_plan before_create after_create before_start after_ready before_stop after_stop before_delete after_delete
        # after_delete
        create: done
        delete: done note: extension "fault" still owes after_delete ([s]/fault/after_delete): it panicked: after_delete was told to panic
        row: "Deleted" owes 1 "CleanupPending"="True" "extension \"fault\" owes after_delete since [time]: attempt [n] failed: it panicked: after_delete was told to panic; next attempt at [time]; if what it cleans up is certainly gone: chiton obligations discharge [s]/fault/after_delete --force"
        failure: null
        calls: before_create after_create before_start after_ready before_stop after_stop/completed before_delete after_delete/completed
        held: .after_create .before_create, 0 leases
        # reconcile
        create: done
        stop: done
        delete: done
        no row, 0 held
        calls: validate_request prepare_plan validate_plan before_create after_create before_start after_ready approve_stop before_stop after_stop before_delete after_delete
        "#);
    });
}

#[test]
fn an_action_that_fails_once_is_tried_again() {
    if !root() {
        return;
    }
    let gateway = Gateway::start(CHAIN);
    let labels =
        ["before_create", "after_create", "before_start", "after_ready"].map(|phase| format!("fault/{phase}=once"));
    let mut create = vec!["sandbox", "create", "box"];
    create.extend(labels.iter().flat_map(|label| ["--label", label]));
    let sandbox = gateway.json(&create);
    assert_eq!(sandbox["phase"], "Ready");
    let calls = gateway.calls();
    let attempts: Vec<_> = calls
        .iter()
        .filter(|call| call["sandbox"] == sandbox["id"] && call["phase"] != "reconcile")
        .map(|call| call["attempt"].clone())
        .collect();
    assert_eq!(attempts, [1, 2, 1, 2, 1, 2, 1, 2]);
}

#[test]
fn an_optional_extension_that_fails_does_not_keep_a_sandbox_from_being_made() {
    if !root() {
        return;
    }
    let gateway = Gateway::start(&format!("{CHAIN}\n[compute.policy.\"fault\"]\nfailure = \"optional\"\n"));
    let sandbox = gateway.json(&["sandbox", "create", "box", "--label", "fault/before_create=fail"]);
    assert_eq!(sandbox["phase"], "Ready");
    assert_eq!(gateway.shell("box", "echo $FAULT_TICKET").ok(), "none\n", "the slot's default");
    gateway.chiton(&["sandbox", "delete", "box"]).ok();
    let phases = gateway.phases(sandbox["id"].as_str().expect("an id"));
    assert_eq!(phases.last().map(String::as_str), Some("after_delete/failed"), "its debt is paid: {phases:?}");
}

#[test]
fn a_veto_keeps_a_sandbox_running_and_cannot_keep_it_from_being_deleted() {
    if !root() {
        return;
    }
    let gateway = Gateway::start(CHAIN);
    gateway.chiton(&["sandbox", "create", "box", "--label", "fault/approve_stop=veto"]).ok();
    insta::assert_snapshot!(gateway.chiton(&["sandbox", "stop", "box"]).refused(), @r#"
    error: extension "fault" vetoes the stop: it was told to say no [refused]
      cure: do what it asks for first; a delete cannot be vetoed
    "#);
    gateway.shell("box", "true").ok();
    gateway.chiton(&["sandbox", "delete", "box"]).ok();
}
