//! A gateway on an engine that dies in the midst of everything: by chance, as `kills` does, and at its crash points, as
//! `points` does. `CHITON_E2E_SEED` plays the same choices again, `CHITON_E2E_KILLS` says how often it dies by chance.

use std::collections::BTreeSet;
use std::fs;

use chiton_tests::engines::Engine;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;

use super::chain::{FAULT, chain};
use super::{Scene, id, on_each};
use crate::harness::Share;
use crate::kills::killed;

on_each!(
    a_gateway_that_is_killed_at_any_moment_leaves_nothing_on_the_engine,
    a_gateway_that_dies_at_a_crash_point_leaves_nothing_on_the_engine,
    running_sandboxes_are_there_after_their_gateway_died,
);

/// How often it dies by chance, on each engine.
const KILLS: u64 = 15;
/// At how many points it dies, on each engine.
const SAMPLE: usize = 6;
/// How long this machine's engine may work on what a dead gateway asked for.
const LATE: &str = "late_effects = \"3s\"";

const LIFE: [&[&str]; 4] = [
    &["sandbox", "create", "box", "--network", "bridge"],
    &["sandbox", "stop", "box"],
    &["sandbox", "start", "box"],
    &["sandbox", "delete", "box"],
];

fn a_gateway_that_is_killed_at_any_moment_leaves_nothing_on_the_engine(engine: &Engine) {
    let report = killed(engine.kind.name(), KILLS, Share::Part);
    let sent = |kinds: &[&str]| kinds.iter().filter_map(|kind| report.requests.sent.get(*kind)).sum::<u64>();
    assert!(sent(&["create"]) > 0 && sent(&["delete"]) > 0, "{:?}", report.requests);
}

fn a_gateway_that_dies_at_a_crash_point_leaves_nothing_on_the_engine(engine: &Engine) {
    let seed = std::env::var("CHITON_E2E_SEED").ok().map(|text| text.parse().expect("CHITON_E2E_SEED is a number"));
    let seed = seed.unwrap_or_else(|| rand::rng().random());
    println!("CHITON_E2E_SEED={seed}");
    let (compute, rest) = chain(engine, "fault", FAULT);
    let mut gateway = Scene::new(engine, &format!("{compute}\n{LATE}"), &rest);
    let log = gateway.path("points");
    let again = |gateway: &mut Scene<'_>, variables: &[(&'static str, &str)]| {
        gateway.kill();
        gateway.surround(variables);
        gateway.begin();
    };
    again(&mut gateway, &[("TEST_CRASH_LOG", &log.to_string_lossy())]);
    for command in LIFE {
        gateway.chiton(command).ok();
    }
    let reached: BTreeSet<String> = fs::read_to_string(&log).expect("points").lines().map(str::to_owned).collect();
    // The points around the driver's calls are those where an engine makes a difference.
    let of_sandbox = |point: &String| !point.starts_with("ensure_workspace") && point.contains("driver");
    let points = reached.into_iter().filter(of_sandbox);
    let mut points = points.choose_multiple(&mut StdRng::seed_from_u64(seed), SAMPLE);
    points.sort();
    assert_eq!(points.len(), SAMPLE, "a whole life calls the driver more often");
    for point in points {
        println!("dies at: {point}");
        gateway.kill();
        gateway.surround(&[("TEST_CRASH_AT", &point)]);
        let died = gateway.try_begin().is_err() || LIFE.iter().any(|command| gateway.chiton(command).code != 0);
        assert!(died, "it does not come to {point:?}:\n{}", gateway.said());
        // While nobody is there: a container has its lease.
        let there: Vec<String> = engine
            .containers(gateway.id())
            .iter()
            .map(|found| found["Labels"]["chiton.dev/sandbox-id"].as_str().expect("an id").to_owned())
            .collect();
        for id in &there {
            assert_eq!(gateway.leases(id), 1, "a container has no lease after {point:?}");
        }
        again(&mut gateway, &[]);
        gateway.until_idle();
        for sandbox in gateway.json(&["sandbox", "list", "--all"]).as_array().expect("a list") {
            let id = id(sandbox);
            if sandbox["phase"] != "Deleted" {
                gateway.chiton(&["sandbox", "delete", "--id", id]).ok();
            }
            gateway.until(id, |sandbox| sandbox.is_none());
        }
        assert_eq!(engine.left(gateway.id()), [""; 0], "after {point:?}");
        assert_eq!(gateway.entries("leases"), [""; 0], "leases are left after {point:?}");
        assert_eq!(gateway.json(&["obligations", "list"]), json!([]), "after {point:?}");
    }
}

fn running_sandboxes_are_there_after_their_gateway_died(engine: &Engine) {
    let mut gateway = Scene::new(engine, LATE, "");
    let script = "sleep 424242 & echo $! > /tmp/pid; exec sleep 600";
    let sandbox = gateway.json(&["sandbox", "create", "box", "--", "sh", "-c", script]);
    let job = gateway.json(&[
        "sandbox",
        "create",
        "job",
        "--",
        "sh",
        "-c",
        "until [ -e /tmp/go ]; do sleep 0.05; done; exit 7",
    ]);
    gateway.shell("box", "until [ -s /tmp/pid ]; do sleep 0.01; done").ok();
    let pid = engine.pid(id(&sandbox));
    for crash in [true, false, true] {
        if crash {
            gateway.kill();
        } else {
            gateway.terminate();
        }
        gateway.begin();
        gateway.until_reached("box");
        let ready = gateway.shell("box", "kill -0 $(cat /tmp/pid) && echo alive");
        assert_eq!(ready.ok(), "alive\n", "its agent dials again, and its processes are the same ones");
        assert_eq!(engine.pid(id(&sandbox)), pid);
    }
    // An exit that no gateway saw is known afterwards.
    gateway.until_reached("job");
    gateway.shell("job", "touch /tmp/going").ok();
    gateway.kill();
    let exec = json!({ "Cmd": ["touch", "/tmp/go"], "AttachStdout": true });
    let exec = engine.act("POST", &format!("/containers/chiton-{}/exec", id(&job)), Some(&exec));
    let start = format!("/exec/{}/start", exec["Id"].as_str().expect("an id"));
    engine.act("POST", &start, Some(&json!({ "Detach": false })));
    engine.until("its end", || !engine.runs(id(&job)));
    gateway.begin();
    gateway.until(id(&job), |sandbox| sandbox.is_some_and(|sandbox| sandbox.phase == "Completed"));
    let after = gateway.get("job");
    assert_eq!((&after["exit"]["code"], &after["exit"]["reason"]), (&json!(7), &json!("Exited")));
}
