//! Sandboxes of drivers that put no agent into them: the command is all that runs there.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Gateway, root};

/// Says when it runs and when it leaves.
const SERVICE: &str = "trap 'echo leaving; exit 5' TERM; echo up; sleep 1000 & wait";

/// Waits until a sandbox has said this.
fn until_logged(gateway: &Gateway, name: &str, words: &str) {
    let end = Instant::now() + Duration::from_mins(1);
    while !gateway.chiton(&["sandbox", "logs", name]).ok().contains(words) {
        assert!(Instant::now() < end, "{name} did not say {words:?}");
    }
}

/// A whole life without an agent, on any driver.
pub(crate) fn lives_without_an_agent(gateway: &mut Gateway) {
    // A process that ends at once has run.
    let job = ["sandbox", "create", "job", "--env", "GREETING=hello", "--json", "--", "sh", "-c"];
    let created = gateway.json(&[&job[..], &["echo $GREETING; echo oops >&2; exit 3"]].concat());
    let id = created["id"].as_str().expect("an id").to_owned();
    gateway.until(&id, |sandbox| sandbox.is_some_and(|sandbox| sandbox.phase == "Completed"));
    let after = gateway.get("job");
    assert_eq!((&after["exit"]["code"], &after["exit"]["reason"]), (&json!(3), &json!("Exited")));
    assert_eq!(gateway.chiton(&["sandbox", "logs", "job"]).ok(), "hello\n");

    // One that goes on is ready by the driver's word, and can be reached by nothing that needs an agent.
    assert_eq!(gateway.chiton(&["sandbox", "create", "box", "--", "sh", "-c", SERVICE]).ok(), "box\n");
    assert_eq!(gateway.get("box")["phase"], "Ready");
    fs::write(gateway.path("note"), "x").expect("a file");
    for refused in [
        gateway.shell("box", "true"),
        gateway.chiton(&["sandbox", "cp", "note", "box:/tmp/note"]),
        gateway.chiton(&["sandbox", "cp", "box:/etc/passwd", "passwd"]),
    ] {
        assert_ne!(refused.code, 0, "{refused:?}");
        for words in ["sandbox \"box\" has no agent", "chiton sandbox logs"] {
            assert!(refused.stderr.contains(words), "{refused:?}");
        }
    }
    // It does not notice that its gateway dies, and ends as it wants when it is asked to.
    gateway.kill();
    gateway.begin();
    assert_eq!(gateway.get("box")["phase"], "Ready");
    // From then on it hears what it is asked.
    until_logged(gateway, "box", "up\n");
    assert_eq!(gateway.chiton(&["sandbox", "stop", "box"]).ok(), "box Stopped\n");
    assert_eq!(gateway.chiton(&["sandbox", "logs", "box"]).ok(), "up\nleaving\n");
    assert_eq!(gateway.chiton(&["sandbox", "start", "box"]).ok(), "box Ready\n");
    gateway.chiton(&["sandbox", "stop", "box"]).ok();
    for name in ["box", "job"] {
        gateway.chiton(&["sandbox", "delete", name]).ok();
    }
}

#[test]
fn a_sandbox_without_an_agent_lives_by_the_drivers_word() {
    if !root() {
        return;
    }
    let secret = "[secrets.api]\nfile = \"{folder}/secret\"\nallow = { workspaces = [\"default\"] }\n";
    let config = format!("[compute.driver.oci]\nagent = \"none\"\nstop_grace_seconds = 20\n{secret}");
    let mut gateway = Gateway::start(&config);
    lives_without_an_agent(&mut gateway);
    assert_eq!(gateway.entries("data/run/drivers/oci/agent"), [""; 0], "no folder of an agent was made");
    // Nothing would run.
    let refused = gateway.chiton(&["sandbox", "create", "idle"]).refused();
    assert!(refused.contains("neither a command nor an agent") && refused.contains("name a command"), "{refused}");
    // A secret is handed to the process itself, which nobody else sees.
    fs::write(gateway.path("secret"), "a-value-of-22-letters-\n").expect("a secret");
    let command = ["--", "sh", "-c", "echo ${#TOKEN}; ls -d /run/chiton /run/chiton-agent; exit 0"];
    let created =
        gateway.json(&[&["sandbox", "create", "job", "--json", "--secret", "TOKEN=api"], &command[..]].concat());
    let id = created["id"].as_str().expect("an id").to_owned();
    gateway.until(&id, |sandbox| sandbox.is_some_and(|sandbox| sandbox.phase == "Completed"));
    assert_eq!(gateway.chiton(&["sandbox", "logs", "job"]).ok(), "22\n", "and nothing of the gateway's is there");
}

#[test]
fn whose_agent_a_driver_injects_is_checked_before_anything_runs() {
    if !root() {
        return;
    }
    let mut gateway = Gateway::start("");
    gateway.chiton(&["sandbox", "create", "box", "--", "sh", "-c", SERVICE]).ok();
    gateway.chiton(&["sandbox", "stop", "box"]).ok();
    gateway.terminate();
    for (table, words) in [
        ("[compute.driver.oci]\nagent = \"openshell\"", "use the docker or podman driver"),
        ("[compute.driver.oci]\nagent = \"nobody\"", "agent"),
        ("[compute.driver.docker]\nagent = \"openshell\"", "which supervisor"),
        ("[compute.driver.podman]\nagent = \"none\"\nsupervisor = { bin = \"/x\" }", "which has no supervisor"),
        ("[compute.driver.docker]\nagent = \"openshell\"\nsupervisor = { bin = \"x\", endpoint = \"here\" }", "/x"),
    ] {
        gateway.configure(&format!("{table}\n"));
        let said = gateway.try_begin().expect_err(table);
        assert!(words == "/x" && said.contains("not an absolute path") || said.contains(words), "{table}: {said}");
    }
    // A sandbox of another time is not started as what it is not.
    gateway.configure("[compute.driver.oci]\nagent = \"none\"\n");
    gateway.begin();
    let refused = gateway.chiton(&["sandbox", "start", "box"]).refused();
    assert!(
        refused.contains("planned with agent = \"chiton\"") && refused.contains("set the driver's agent back"),
        "{refused}"
    );
    gateway.chiton(&["sandbox", "delete", "box"]).ok();
}
