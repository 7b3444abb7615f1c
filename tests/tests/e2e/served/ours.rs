//! A gateway of ours over a served driver.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use super::process::{Served, pass};
use crate::harness::{Gateway, root};

fn config(served: &Served) -> String {
    format!(
        "[compute]\ndrivers = [\"mine\"]\n[compute.driver.mine]\nsocket = \"{}\"\nagent = \"chiton\"\n",
        served.socket().display()
    )
}

#[test]
fn a_driver_with_our_agent_is_refused_where_none_is_expected() {
    if !root() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let served = Served::start(folder.path(), "", &["--driver", "oci", "--agent", "chiton"]);
    let gateway = Gateway::start(&config(&served).replace("agent = \"chiton\"\n", ""));
    let refused = gateway.chiton(&["sandbox", "create", "box"]).refused();
    assert!(refused.contains("set agent = \"chiton\" in [compute.driver.mine]"), "{refused}");
    assert!(gateway.json(&["sandbox", "list", "--all"]).as_array().is_some_and(Vec::is_empty));
}

#[test]
fn a_life_over_a_socket_with_programs_files_and_ends() {
    if !root() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut served = Served::start(folder.path(), "", &["--driver", "oci", "--agent", "chiton"]);
    let mut gateway = Gateway::start(&config(&served));
    let drivers = gateway.json(&["drivers", "get", "mine"]);
    assert_eq!((&drivers["kind"], &drivers["agent"]), (&json!("oci"), &json!("chiton")), "{drivers:#}");

    gateway
        .chiton(&["sandbox", "create", "box", "--env", "COLOR=blue", "--label", "team=a", "--", "sleep", "1000"])
        .ok();
    assert_eq!(gateway.shell("box", "echo \"$COLOR\"; echo kept > /tmp/note").ok(), "blue\n");
    gateway.chiton(&["sandbox", "stop", "box"]).ok();
    let stopped = gateway.get("box");
    assert_eq!((&stopped["phase"], &stopped["exit"]["code"]), (&json!("Stopped"), &json!(143)));
    gateway.chiton(&["sandbox", "start", "box"]).ok();
    gateway.chiton(&["sandbox", "create", "short", "--", "sh", "-c", "exit 7"]).ok();
    let short = gateway.get("short")["id"].as_str().expect("an id").to_owned();
    gateway.until(&short, |sandbox| sandbox.is_some_and(|sandbox| sandbox.phase == "Completed"));
    assert_eq!(gateway.get("short")["exit"]["code"], 7);
    let refused = gateway.chiton(&["sandbox", "create", "odd", "--workdir", "/tmp"]).refused();
    assert!(refused.contains("working folder"), "{refused}");

    // The driver dies and comes back; its sandboxes run on, and their agents find their way.
    let pid = gateway.shell("box", "echo $PPID; cat /proc/1/stat").ok();
    served.kill();
    // Whoever asks before the gateway has noticed is told that the connection broke.
    gateway.until_said(1, "the driver cannot be reached");
    let refused = gateway.chiton(&["sandbox", "create", "more"]).refused();
    assert!(refused.contains("driver.sock") && refused.contains("cannot be reached"), "{refused}");
    served.begin();
    let began = std::time::Instant::now();
    while gateway.chiton(&["sandbox", "exec", "box", "--", "true"]).code != 0 {
        assert!(began.elapsed() < Duration::from_mins(1), "its agent does not come back");
        pass(Duration::from_millis(100));
    }
    assert_eq!(gateway.shell("box", "cat /proc/1/stat").ok().split(' ').nth(21), pid.split(' ').nth(21), "it ran on");

    // The gateway dies and comes back.
    gateway.kill();
    gateway.begin();
    assert_eq!(gateway.get("box")["phase"], "Ready");
    for name in ["box", "short"] {
        gateway.chiton(&["sandbox", "delete", name]).ok();
    }
    assert_eq!(served.list(), [""; 0]);
    drop(gateway);
    served.end(Signal::TERM);
}

#[test]
fn nobody_but_the_named_users_is_heard() {
    if !root() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let served = Served::start(folder.path(), "", &["--driver", "oci", "--agent", "none", "--peer-uid", "4242"]);
    let listed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| served.list()));
    assert!(listed.is_err(), "root is not on the list");
}
