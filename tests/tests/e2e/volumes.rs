//! Named volumes: they outlive sandboxes, gateways and stores, and only a person's word deletes them.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Gateway, root};

const CONFIG: &str = "[log]\nlevel = \"info\"\n";

fn names(gateway: &Gateway) -> Vec<String> {
    let listed = gateway.json(&["volume", "list"]);
    let name = |volume: &Value| volume["name"].as_str().expect("a name").to_owned();
    listed.as_array().expect("a list").iter().map(name).collect()
}

#[test]
fn a_volume_goes_from_a_deleted_sandbox_to_the_next_one_and_is_deleted_when_nobody_has_it() {
    if !root() {
        return;
    }
    let mut gateway = Gateway::start(CONFIG);
    gateway.chiton(&["sandbox", "create", "one", "--volume", "work:/data"]).ok();
    gateway.shell("one", "echo kept > /data/note && chmod 600 /data/note").ok();
    let listed = gateway.json(&["volume", "list", "--workspace", "default"]);
    assert_eq!((&listed[0]["name"], &listed[0]["used_by"][0]["name"]), (&"work".into(), &"one".into()), "{listed:#}");
    assert_eq!(listed[0]["created_by"], "uid:0");
    let refused = gateway.chiton(&["volume", "delete", "work"]).refused();
    assert!(refused.contains("used by one") && refused.contains("conflict"), "{refused}");
    let refused = gateway.chiton(&["workspaces", "delete", "default"]).refused();
    assert!(refused.contains("default"), "{refused}");
    // Somebody else holds the first range of ids when the second sandbox comes.
    gateway.chiton(&["sandbox", "create", "other"]).ok();
    gateway.chiton(&["sandbox", "delete", "one"]).ok();
    assert_eq!(names(&gateway), ["work"], "it outlives its sandbox");
    let refused = gateway.chiton(&["workspaces", "delete", "default"]).refused();
    assert!(refused.contains("default"), "{refused}");
    gateway.kill();
    gateway.begin();
    gateway.chiton(&["sandbox", "create", "two", "--volume", "work:/srv/work:ro"]).ok();
    let seen = gateway.shell("two", "stat -c %u:%g:%a /srv/work/note; cat /srv/work/note; touch /srv/work/x 2>&1");
    assert!(seen.stdout.starts_with("0:0:600\nkept\n") && seen.stdout.contains("Read-only"), "{seen:#?}");
    gateway.chiton(&["sandbox", "delete", "two"]).ok();
    gateway.chiton(&["sandbox", "delete", "other"]).ok();
    let refused = gateway.chiton(&["workspaces", "delete", "default"]).refused();
    assert!(refused.contains("has volumes: work"), "{refused}");
    gateway.chiton(&["volume", "delete", "work"]).ok();
    assert!(names(&gateway).is_empty());
    let refused = gateway.chiton(&["volume", "delete", "work"]).refused();
    assert!(refused.contains("not_found"), "{refused}");
    let audit = fs::read_to_string(gateway.path("data/audit.jsonl")).expect("the audit file");
    assert!(audit.contains("volume.delete") && audit.contains("oci/default/work"), "{audit}");
}

#[test]
fn a_volume_is_made_by_hand_with_a_size_that_bites() {
    if !root() {
        return;
    }
    let gateway = Gateway::start(CONFIG);
    let made = gateway.json(&["volume", "create", "small", "--size", "16Mi"]);
    assert_eq!(made["size"], 16 << 20);
    let refused = gateway.chiton(&["volume", "create", "small"]).refused();
    assert!(refused.contains("already_exists"), "{refused}");
    let refused = gateway.chiton(&["volume", "create", "tiny", "--size", "1Mi"]).refused();
    assert!(refused.contains("too small"), "{refused}");
    gateway.chiton(&["sandbox", "create", "box", "--volume", "small:/data", "--disk", "64Mi"]).ok();
    let full = gateway.shell("box", "dd if=/dev/zero of=/data/x bs=1M 2>&1; echo $?");
    assert!(full.stdout.contains("No space left on device"), "{full:#?}");
    let explained = gateway.chiton(&["explain", "box"]).ok();
    assert!(explained.contains("/resources/disk_by") && explained.contains("image"), "{explained}");
    assert!(explained.contains("/volumes/0/name"), "{explained}");
    gateway.chiton(&["sandbox", "delete", "box"]).ok();
    gateway.chiton(&["volume", "delete", "small"]).ok();
}

#[test]
fn a_restored_store_deletes_no_volume() {
    if !root() {
        return;
    }
    let mut gateway = Gateway::start(CONFIG);
    let saved = gateway.path("saved");
    let saved = saved.to_str().expect("a path");
    gateway.chiton(&["backup", saved]).ok();
    gateway.chiton(&["sandbox", "create", "box", "--volume", "later:/data"]).ok();
    gateway.shell("box", "echo kept > /data/note").ok();
    gateway.chiton(&["sandbox", "delete", "box"]).ok();
    gateway.terminate();
    let folder = gateway.path("data");
    let folder = folder.to_str().expect("a path");
    gateway.chiton(&["restore", saved, "--data-dir", folder, "--replace"]).ok();
    gateway.begin();
    assert_eq!(names(&gateway), ["later"]);
    gateway.chiton(&["sandbox", "create", "again", "--volume", "later:/data"]).ok();
    assert_eq!(gateway.shell("again", "cat /data/note").ok(), "kept\n");
    gateway.chiton(&["sandbox", "delete", "again"]).ok();
    gateway.chiton(&["volume", "delete", "later"]).ok();
}

#[test]
fn a_gateway_that_dies_while_volumes_are_made_and_deleted_leaves_whole_ones_or_none() {
    if !root() {
        return;
    }
    let mut gateway = Gateway::start(CONFIG);
    gateway.chiton(&["volume", "create", "kept"]).ok();
    let interrupt = |gateway: &mut Gateway, arguments: &[&str], after: Duration| {
        let mut command = gateway.plain_command(arguments);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program");
        let begin = Instant::now();
        while begin.elapsed() < after {
            std::hint::spin_loop();
        }
        gateway.kill();
        child.wait().expect("a status");
        gateway.begin();
    };
    let (mut made, mut unmade) = (0, 0);
    for round in 0..10_u64 {
        let name = format!("v-{round}");
        interrupt(
            &mut gateway,
            &["volume", "create", &name, "--size", "8Mi"],
            Duration::from_micros(4000 + round * 1500),
        );
        if names(&gateway).contains(&name) {
            made += 1;
        } else {
            unmade += 1;
            gateway.chiton(&["volume", "create", &name, "--size", "8Mi"]).ok();
        }
        // What is listed is whole: a sandbox can write to it.
        gateway.chiton(&["sandbox", "create", "user", "--volume", &format!("{name}:/data")]).ok();
        gateway.shell("user", "echo x > /data/x").ok();
        gateway.chiton(&["sandbox", "delete", "user"]).ok();
        interrupt(&mut gateway, &["volume", "delete", &name], Duration::from_micros(4000 + round * 1500));
        if names(&gateway).contains(&name) {
            gateway.chiton(&["volume", "delete", &name]).ok();
        }
    }
    println!("{made} volumes were made before the gateway died, {unmade} were not");
    assert_eq!(names(&gateway), ["kept"]);
    gateway.chiton(&["volume", "delete", "kept"]).ok();
}
