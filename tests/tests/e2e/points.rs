//! The real program, killed at its crash points: real store, real mark log, real sandboxes.
//!
//! Which points a life of a sandbox reaches is found out first; then the program dies at each of a sample of them, or at
//! all with `CHITON_E2E_POINTS=all`. `CHITON_E2E_SEED` takes another sample.

use std::collections::BTreeSet;
use std::fs;

use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;

use crate::harness::{Gateway, root};
use crate::life::CHAIN;

/// How many points the default run takes.
const SAMPLE: usize = 16;

/// What a sandbox goes through. Each command may find that the gateway died.
const LIFE: [&[&str]; 6] = [
    &["sandbox", "create", "box"],
    &["sandbox", "stop", "box"],
    &["sandbox", "start", "box"],
    &["sandbox", "exec", "box", "--", "true"],
    &["sandbox", "delete", "box"],
    &["workspaces", "delete", "default"],
];

/// Lives until the gateway dies; whether it did.
fn live(gateway: &mut Gateway) -> bool {
    // Without a crash every command succeeds.
    let died = LIFE.iter().any(|command| gateway.chiton(command).code != 0);
    if died {
        gateway.until_ended();
    }
    died
}

/// Another life of the gateway, with these variables.
fn again(gateway: &mut Gateway, variables: &[(&'static str, &str)]) {
    gateway.kill();
    gateway.surround(variables);
    gateway.begin();
}

#[test]
fn a_program_that_dies_at_a_crash_point_leaves_nothing_that_nobody_owns() {
    if !root() {
        return;
    }
    let seed = std::env::var("CHITON_E2E_SEED").ok().map(|text| text.parse().expect("CHITON_E2E_SEED is a number"));
    let seed = seed.unwrap_or_else(|| rand::rng().random());
    println!("CHITON_E2E_SEED={seed}");
    let mut gateway = Gateway::start(CHAIN);
    let log = gateway.path("points");
    again(&mut gateway, &[("TEST_CRASH_LOG", &log.to_string_lossy())]);
    assert!(!live(&mut gateway), "nothing kills it yet");
    let text = fs::read_to_string(&log).expect("points");
    // What comes when it comes may not come to the same sandbox again.
    let reached = text.lines().filter(|point| !point.starts_with("reconcile"));
    let reached: BTreeSet<String> = reached.map(str::to_owned).collect();
    assert!(reached.len() > 60, "a whole life reaches more points, where debug assertions are on: {reached:#?}");
    let mut points: Vec<String> = if std::env::var("CHITON_E2E_POINTS").is_ok_and(|wanted| wanted == "all") {
        reached.into_iter().collect()
    } else {
        reached.into_iter().choose_multiple(&mut StdRng::seed_from_u64(seed), SAMPLE)
    };
    points.sort();
    for point in points {
        println!("dies at: {point}");
        gateway.kill();
        gateway.surround(&[("TEST_CRASH_AT", &point)]);
        // What runs at a start can kill the start.
        let died = gateway.try_begin().is_err() || live(&mut gateway);
        assert!(died, "it does not come to {point:?}:\n{}", gateway.said());
        again(&mut gateway, &[]);
        gateway.until_idle();
        for sandbox in gateway.json(&["sandbox", "list", "--all"]).as_array().expect("a list") {
            let id = sandbox["id"].as_str().expect("an id");
            if sandbox["phase"] != "Deleted" {
                gateway.chiton(&["sandbox", "delete", "--id", id]).ok();
            }
            gateway.until(id, |sandbox| sandbox.is_none());
        }
        // It may have died before there was one, or after its end.
        gateway.chiton(&["workspaces", "delete", "default"]);
        assert_eq!(gateway.json(&["workspaces", "list"]), json!([]), "after {point:?}");
        assert_eq!(gateway.entries("leases"), [""; 0], "leases are left after {point:?}");
    }
}
