//! Two gateways on one engine: neither lists, stops, deletes or sweeps what is the other's.

use chiton_tests::engines::{Engine, GATEWAY, SANDBOX};
use serde_json::{Value, json};

use super::{Scene, id, on_each};

on_each!(two_gateways_on_one_engine_leave_each_other_alone);

/// Sweeps as often as may be, with next to no grace.
const SWEEPS: &str = "\n[sweep]\ninterval = \"1s\"\ngrace = \"1s\"\n[reconcile]\ninterval = \"1s\"\n";

/// Makes a container that looks like one of a gateway's and is nobody's sandbox.
fn stray(engine: &Engine, gateway: &str, epoch: &Value) -> String {
    let id = format!("s-{:032x}", rand::random::<u128>());
    let labels = json!({
        "chiton.dev/managed-by": "chiton",
        GATEWAY: gateway,
        SANDBOX: id,
        "chiton.dev/sandbox-name": "box",
        "chiton.dev/workspace": "default",
        "chiton.dev/store-epoch": epoch,
        "chiton.dev/commit": "1",
    });
    let body = json!({ "Image": engine.image, "Cmd": ["sleep", "600"], "Labels": labels });
    engine.act("POST", &format!("/containers/create?name=chiton-{id}"), Some(&body));
    id
}

fn two_gateways_on_one_engine_leave_each_other_alone(engine: &Engine) {
    let mut one = Scene::new(engine, "", SWEEPS);
    let two = Scene::new(engine, "", SWEEPS);
    let create = ["sandbox", "create", "box", "--network", "bridge", "--volume", "work:/data"];
    let of_one = id(&one.json(&create)).to_owned();
    let of_two = id(&two.json(&create)).to_owned();
    one.shell("box", "echo one > /data/note").ok();
    two.shell("box", "echo two > /data/note").ok();
    for (gateway, own) in [(&one, &of_one), (&two, &of_two)] {
        let listed = gateway.json(&["sandbox", "list", "--all"]);
        assert_eq!((listed.as_array().map(Vec::len), &listed[0]["id"]), (Some(1), &json!(own)));
        assert_eq!(gateway.json(&["volume", "list"]).as_array().map(Vec::len), Some(1));
        assert_eq!(gateway.json(&["orphans", "list"]), json!([]));
    }
    // Everything of the first, and a container that looks like its orphan, while the first is dead.
    let epoch = engine.container(&of_one).expect("a container")["Config"]["Labels"]["chiton.dev/store-epoch"].clone();
    let epoch_of_two =
        engine.container(&of_two).expect("a container")["Config"]["Labels"]["chiton.dev/store-epoch"].clone();
    one.kill();
    let stray_of_one = stray(engine, one.id(), &epoch);
    let before = engine.left(one.id());
    // The second sweeps what is its own, twice at least: when it did, it has seen the others' as often.
    for _ in 0..2 {
        let own = stray(engine, two.id(), &epoch_of_two);
        engine.until("its sweep of its own orphan", || engine.container(&own).is_none());
    }
    assert_eq!(two.json(&["orphans", "list"]), json!([]));
    for (command, id) in [("delete", &stray_of_one), ("delete", &of_one), ("adopt", &of_one)] {
        let refused = two.chiton(&["orphans", command, id]);
        assert_ne!(refused.code, 0, "the second {command}s what is the first's: {refused:?}");
    }
    // Its own delete of the same name, volume and network takes nothing of the first with it.
    two.chiton(&["sandbox", "delete", "box"]).ok();
    two.chiton(&["volume", "delete", "work"]).ok();
    assert_eq!(engine.left(two.id()), [""; 0]);
    assert_eq!(engine.left(one.id()), before);
    assert!(engine.runs(&of_one), "the first's sandbox runs on");

    let again = id(&two.json(&create)).to_owned();
    one.begin();
    engine.until("the first's sweep of its own orphan", || engine.container(&stray_of_one).is_none());
    one.until(&of_one, |sandbox| sandbox.is_some_and(|sandbox| sandbox.phase == "Ready"));
    one.until_reached("box");
    assert_eq!(one.shell("box", "cat /data/note").ok(), "one\n");
    one.chiton(&["sandbox", "delete", "box"]).ok();
    one.chiton(&["volume", "delete", "work"]).ok();
    assert!(engine.runs(&again), "the second's sandbox runs on");
    assert_eq!(two.shell("box", "ls /data").ok(), "", "the second's new volume is its own");
    two.chiton(&["sandbox", "delete", "box"]).ok();
    two.chiton(&["volume", "delete", "work"]).ok();
}
