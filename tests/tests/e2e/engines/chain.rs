//! Three extensions on an engine: what they gave is on the container, and goes only after it.

use chiton_tests::engines::Engine;
use serde_json::{Value, json};

use super::{Scene, id, on_each, range};

on_each!(a_chain_of_three_is_seen_by_the_engines_own_program, no_lease_is_free_while_its_container_is_there);

/// An extension that notes what it was called for, and fails when it is told to.
pub(super) const FAULT: &str = "[compute.extension.\"fault\"]\nfolder = \"{folder}\"\n";

/// Labels, a lease in the driver's own network, and a third with its block.
pub(super) fn chain(engine: &Engine, third: &str, block: &str) -> (String, String) {
    let range = range();
    let compute = format!("extensions = [\"fleet-labels\", {third:?}, \"address-lease\"]");
    let rest = format!(
        r#"
[compute.driver.{}.bridge]
subnet = "{range}.0/28"
[compute.extension."fleet-labels"]
labels = {{ fleet = "test", region = "north" }}
[compute.extension."address-lease"]
range = "{range}.2-{range}.3"
folder = "{{folder}}/leases"
{block}"#,
        engine.kind
    );
    (compute, rest)
}

#[track_caller]
pub(super) fn leased(sandbox: &Value) -> String {
    sandbox["slots"]["address-lease.address"].as_str().expect("a leased address").to_owned()
}

fn a_chain_of_three_is_seen_by_the_engines_own_program(engine: &Engine) {
    let (compute, rest) = chain(engine, "noop", "");
    let gateway = Scene::new(engine, &compute, &rest);
    let create = |name: &str| gateway.json(&["sandbox", "create", name, "--network", "bridge", "--label", "team=red"]);
    let (one, two) = (create("one"), create("two"));
    assert_ne!(leased(&one), leased(&two));
    for sandbox in [&one, &two] {
        let name = format!("chiton-{}", id(sandbox));
        let output = engine.tool().args(["inspect", &name]).output().expect("the engine's program");
        assert!(output.status.success(), "{output:?}");
        let shown: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let labels = &shown[0]["Config"]["Labels"];
        for (key, value) in [
            ("fleet", "test"),
            ("region", "north"),
            ("team", "red"),
            ("chiton.dev/address", &leased(sandbox)),
            ("chiton.dev/sandbox-id", id(sandbox)),
            ("chiton.dev/gateway-id", gateway.id()),
        ] {
            assert_eq!(labels[key], value, "{key} of {labels:#}");
        }
        let networks = shown[0]["NetworkSettings"]["Networks"].as_object().expect("networks");
        let addresses: Vec<&Value> = networks.values().map(|network| &network["IPAddress"]).collect();
        assert_eq!(addresses, [&json!(leased(sandbox))], "{}", shown[0]["NetworkSettings"]);
        // And it is the interface's own, as the sandbox sees it.
        let script = "ip -4 addr show dev eth0 | sed -n 's|.*inet \\([0-9.]*\\)/.*|\\1|p'";
        let name = sandbox["name"].as_str().expect("a name");
        assert_eq!(gateway.shell(name, script).ok(), format!("{}\n", leased(sandbox)));
    }
    // Over a stop and another start, too.
    gateway.chiton(&["sandbox", "stop", "one"]).ok();
    gateway.chiton(&["sandbox", "start", "one"]).ok();
    let script = format!("ip -4 addr show dev eth0 | grep -c 'inet {}/'", leased(&one));
    assert_eq!(gateway.shell("one", &script).ok(), "1\n");
    // The range is empty, and says so; nothing is left of the attempt.
    let before = engine.left(gateway.id());
    let refused = gateway.chiton(&["sandbox", "create", "three", "--network", "bridge"]).refused();
    assert!(refused.contains("address"), "{refused}");
    assert_eq!(engine.left(gateway.id()), before);
    gateway.chiton(&["sandbox", "delete", "one"]).ok();
    assert_eq!(gateway.entries("leases"), [leased(&two)], "free again");
    let next = create("next");
    assert_eq!(leased(&next), leased(&one), "the only free address");
}

fn no_lease_is_free_while_its_container_is_there(engine: &Engine) {
    let (compute, rest) = chain(engine, "fault", FAULT);
    let gateway = Scene::new(engine, &compute, &rest);
    let sandbox = gateway.json(&["sandbox", "create", "box", "--network", "bridge"]);
    let (id, address) = (id(&sandbox).to_owned(), leased(&sandbox));
    // Somebody looks at every moment of the delete: where the container is, the lease is.
    let wrong = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            loop {
                // In this order: the container is looked at before the lease.
                let there = engine.container(&id).is_some();
                let held = gateway.leases(&id) == 1;
                if there && !held && engine.container(&id).is_some() {
                    return true;
                }
                if !there {
                    return false;
                }
            }
        });
        gateway.chiton(&["sandbox", "delete", "box"]).ok();
        watcher.join().expect("the watcher")
    });
    assert!(!wrong, "{address} was free while its container was there");
    assert_eq!(gateway.entries("leases"), [""; 0]);
    let phases = gateway.phases(&id);
    let ended = phases.iter().position(|phase| phase == "before_stop").expect("a stop");
    assert_eq!(phases[ended..], ["before_stop", "after_stop/completed", "before_delete", "after_delete/completed"]);
}
