//! `xtask engines` on real engines, each test in namespaces of its own, so that what is left is exactly what the test left.

mod world;

use serde_json::json;
use world::{Snapshot, World, named};

const ENGINES: [&str; 3] = ["docker", "podman", "rootless"];

#[test]
fn up_and_down_leave_nothing() {
    let Some(world) = World::new("up_and_down_leave_nothing") else { return };
    let before = Snapshot::of(&world);
    let set = world.up();
    for engine in ENGINES {
        // As root with what the image says, as its user, on a network with a published port, and without any.
        let says = r#"test "$IMAGE_SAYS" = "from the image" && test "$PWD" = /work && touch /cache/x /tmp/x"#;
        assert_eq!(set.exit_code(engine, "ENGINES_IMAGE", &format!("test $(id -u) = 0 && {says}")), 0, "{engine}");
        assert_eq!(
            set.exit_code(engine, "ENGINES_IMAGE_USER", &format!("test $(id -un) = app && {says}")),
            0,
            "{engine}"
        );
        assert_eq!(set.exit_code(engine, "ENGINES_IMAGE", "exit 7"), 7, "{engine}");
        let network = set.post(engine, "/networks/create", &json!({ "Name": "test-network" }));
        assert!(network["Id"].is_string(), "{network}");
        set.start(
            engine,
            &json!({
                "Image": set.variable("ENGINES_IMAGE"),
                "ExposedPorts": { "80/tcp": {} },
                "HostConfig": {
                    "NetworkMode": "test-network",
                    "PortBindings": { "80/tcp": [{ "HostIp": "127.0.0.1", "HostPort": "" }] },
                },
            }),
        );
    }
    assert_ne!(before, Snapshot::of(&world));
    let tag = set.tag();
    assert!(named(&tag).contains("/etc/subuid") && named(&tag).iter().any(|name| name.starts_with("/sys/fs/cgroup")));
    world.down();
    before.assert_same(&Snapshot::of(&world));
    assert_eq!(named(&tag), [].into());
    assert!(!world.home().exists());
    // And once more where there is nothing.
    world.down();
}

#[test]
fn one_engine_is_ended_and_started_while_the_others_run() {
    let Some(world) = World::new("one_engine_is_ended_and_started_while_the_others_run") else { return };
    let set = world.up();
    let running = world.daemons();
    assert_eq!(running.len(), 3, "{running:?}");
    world.up();
    assert_eq!(world.daemons(), running, "a second `up` starts nothing");

    for engine in ENGINES {
        // It ends when it is told to: engines wait ten seconds for who does not.
        let wait = "trap 'exit 0' TERM; while true; do sleep 0.1; done";
        let container = set.start(engine, &set.container("ENGINES_IMAGE", wait));
        for order in ["restart", "kill"] {
            let before = world.daemons();
            set.control(&[order, engine]);
            let after = world.daemons();
            for other in ENGINES {
                assert_eq!(before[other] == after[other], other != engine, "{order} {engine}: {other}");
            }
            let found = set.get(engine, &format!("/containers/{container}/json"));
            // Podman's containers are nobody's children; dockerd ends its own.
            assert_eq!(found["State"]["Running"], json!(engine != "docker"), "{order} {engine}: {found}");
        }
        set.control(&["stop", engine]);
        assert!(!world.daemons().contains_key(engine));
        let said = world.refused(&["env"]);
        assert!(said.contains(&format!("{engine} of")) && said.contains("engines up"), "{said}");
        set.control(&["start", engine]);
    }
    world.down();
}

#[test]
fn what_a_killed_run_left_is_taken_over_and_removed() {
    let Some(world) = World::new("what_a_killed_run_left_is_taken_over_and_removed") else { return };
    let before = Snapshot::of(&world);
    world.refused(&["run", "--", "sh", "-c", "kill -9 $PPID"]);
    let set = world.set();
    assert_eq!(world.daemons().len(), 3, "engines outlive who was killed");
    for engine in ENGINES {
        set.start(engine, &set.container("ENGINES_IMAGE", "sleep 1000"));
    }
    let tag = set.tag();
    world.kill_everything_of_engines();
    world.until_no_daemons();
    world.orders(&["run", "--", "sh", "-c", "test -S $ENGINES_DOCKER && test -S $ENGINES_PODMAN"]);
    before.assert_same(&Snapshot::of(&world));
    assert_eq!(named(&tag), [].into());
    assert!(!world.home().exists());
}

#[test]
fn a_signal_ends_the_command_and_then_the_engines() {
    let Some(world) = World::new("a_signal_ends_the_command_and_then_the_engines") else { return };
    let before = Snapshot::of(&world);
    let said = world.refused(&["run", "--", "sh", "-c", "kill -TERM $PPID; sleep 1000"]);
    assert!(said.contains("SIGTERM") && said.contains("engines are down"), "{said}");
    before.assert_same(&Snapshot::of(&world));
}
