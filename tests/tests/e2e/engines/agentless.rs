//! Sandboxes of an engine into which nothing is put, and into which another gateway's supervisor is to be put.

use chiton_tests::engines::Engine;

use super::{Scene, on_each};
use crate::agentless::lives_without_an_agent;

on_each!(a_sandbox_without_an_agent_lives_by_the_drivers_word, what_a_supervisor_is_given_is_in_the_plan);

const SECRET: &str = "[secrets.api]\nfile = \"{folder}/secret\"\nallow = { workspaces = [\"default\"] }\n";

fn a_sandbox_without_an_agent_lives_by_the_drivers_word(engine: &Engine) {
    let mut gateway = Scene::new(engine, "", &format!("agent = \"none\"\n{SECRET}"));
    lives_without_an_agent(&mut gateway);
    assert_eq!(gateway.entries(&format!("data/run/drivers/{}/agent", engine.kind)), [""; 0]);
    let refused = gateway.chiton(&["sandbox", "create", "job", "--secret", "TOKEN=api", "--", "true"]).refused();
    assert!(refused.contains("no agent to hand secrets to") && refused.contains("kind oci"), "{refused}");
}

fn what_a_supervisor_is_given_is_in_the_plan(engine: &Engine) {
    let supervisor = "supervisor = { bin = \"/bin/true\", endpoint = \"https://host.openshell.internal:17670\" }";
    let listen = "[supervisor]\nlisten = \"unix:{folder}/supervisors.sock\"\n";
    let gateway = Scene::new(engine, "", &format!("agent = \"openshell\"\n{supervisor}\n{SECRET}{listen}"));
    let planned = gateway.json(&["plan", "box", "--", "sleep", "600"]);
    let plan = planned["plan"].as_object().map_or(&planned, |_| &planned["plan"]);
    let agent = &plan["agent"];
    assert_eq!(agent["whose"], "openshell", "{planned:#}");
    assert_eq!(agent["entrypoint"], "/opt/openshell/bin/openshell-sandbox");
    assert!(agent["program"]["digest"].as_str().is_some_and(|digest| digest.starts_with("sha256:")), "{agent:#}");
    let refused = gateway.chiton(&["plan", "box", "--secret", "TOKEN=api"]).refused();
    assert!(refused.contains("secrets would stand in the container's environment"), "{refused}");
    assert_eq!(engine.left(gateway.id()), [""; 0], "a plan makes nothing");
}
