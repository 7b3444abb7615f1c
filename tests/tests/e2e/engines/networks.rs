//! The gateway's network on an engine: made once however many ask for it, and gone with the last who has it.

use chiton_tests::engines::Engine;
use serde_json::{Value, json};

use super::chain::chain;
use super::{Scene, id, on_each};

on_each!(creates_at_once_share_one_network_that_goes_with_the_last, a_create_that_the_engine_refuses_leaves_nothing);

const CREATE: [&str; 5] = ["sandbox", "create", "--no-wait", "--network", "bridge"];

fn creates_at_once_share_one_network_that_goes_with_the_last(engine: &Engine) {
    let (compute, rest) = chain(engine, "noop", "");
    let gateway = Scene::new(engine, &compute, &rest.replace(".3\"", ".9\""));
    let boxes: Vec<Value> = (0..4).map(|_| gateway.json(&CREATE)).collect();
    for made in &boxes {
        gateway.until(id(made), |sandbox| sandbox.is_some_and(|sandbox| sandbox.phase == "Ready"));
    }
    let networks = || engine.left(gateway.id()).into_iter().filter(|what| what.contains(" network ")).count();
    assert_eq!(networks(), 1, "{:?}", engine.left(gateway.id()));
    for made in &boxes {
        assert_eq!(networks(), 1, "{:?}", engine.left(gateway.id()));
        gateway.chiton(&["sandbox", "delete", "--id", id(made)]).ok();
    }
    assert_eq!(engine.left(gateway.id()), [""; 0]);
}

fn a_create_that_the_engine_refuses_leaves_nothing(engine: &Engine) {
    let (compute, rest) = chain(engine, "noop", "");
    let gateway = Scene::new(engine, &compute, &rest);
    // Somebody else has the range.
    let subnet = rest.lines().find_map(|line| line.strip_prefix("subnet = ")).expect("a range").trim_matches('"');
    let name = format!("other-{}", gateway.id());
    let other = json!({ "Name": name, "IPAM": { "Config": [{ "Subnet": subnet }] } });
    engine.act("POST", "/networks/create", Some(&other));
    let refused = gateway.chiton(&["sandbox", "create", "box", "--network", "bridge"]).refused();
    engine.act("DELETE", &format!("/networks/{name}"), None);
    assert!(refused.contains("network"), "{refused}");
    assert_eq!(engine.left(gateway.id()), [""; 0]);
    assert_eq!(gateway.entries(&format!("data/run/drivers/{}/agent", engine.kind)), [""; 0]);
    assert_eq!(gateway.entries("leases"), [""; 0]);
}
