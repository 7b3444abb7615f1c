//! An engine that goes away under running sandboxes, in its own way and by SIGKILL, and comes back: on engines of the
//! test's own, beside another driver that goes on.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;

use chiton_tests::engines::{Engine, Kind};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{id, on_each};
use crate::harness::{Gateway, Share, parent};
use crate::observe::metric;

on_each!(an_engine_that_goes_away_is_told_of_and_taken_up_when_it_is_back);

/// How an engine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Stopped,
    Killed,
}

/// Engines of a test's own; down when dropped.
struct Set {
    control: PathBuf,
    home: PathBuf,
    image: String,
}

impl Set {
    fn up() -> Self {
        let control = std::env::var("ENGINES_CONTROL").expect("ENGINES_CONTROL is set with the engines");
        let home = format!("/var/cache/chiton-e2e-{}", std::process::id());
        let set = Self {
            control: control.into(),
            home: home.into(),
            image: std::env::var("ENGINES_IMAGE").expect("an image"),
        };
        set.order(&["up"]);
        set
    }

    #[track_caller]
    fn order(&self, words: &[&str]) {
        let output = Command::new(&self.control)
            .arg("engines")
            .arg("--dir")
            .arg(&self.home)
            .args(words)
            .output()
            .expect("the control");
        assert!(output.status.success(), "{words:?}: {output:?}");
    }

    /// Ends an engine, in its own way or by SIGKILL; it is not there until it is started.
    #[track_caller]
    fn end(&self, kind: Kind, how: How) {
        if how == How::Stopped {
            return self.order(&["stop", kind.name()]);
        }
        // Its own process alone, as the kernel would do it: what it started is found by its next life.
        let socket = self.engine(kind).socket.display().to_string();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").expect("processes").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&command).contains(&socket) {
                found.push(pid);
            }
        }
        // A child of it has its words until it executes its own program, and may have ended since.
        let first = |pid: &i32| parent(*pid).is_some_and(|parent| !found.contains(&parent));
        let own: Vec<i32> = found.iter().copied().filter(first).collect();
        let [own] = own[..] else { panic!("{kind} is not one process that serves {socket}: {own:?}") };
        kill_process(Pid::from_raw(own).expect("a process id"), Signal::KILL).expect("a signal");
    }

    fn engine(&self, kind: Kind) -> Engine {
        Engine { kind, socket: self.home.join(format!("{kind}.sock")), image: self.image.clone() }
    }
}

impl Drop for Set {
    fn drop(&mut self) {
        // Whatever the test found out; what it left goes with the engines.
        drop(Command::new(&self.control).arg("engines").arg("--dir").arg(&self.home).arg("down").output());
    }
}

/// One set at a time: they are not small.
static TURN: Mutex<()> = Mutex::new(());

fn config(engine: &Engine, other: &Engine) -> String {
    let mut text = format!(
        r#"[compute]
drivers = ["{engine}", "{other}"]
default_driver = "{engine}"
late_effects = "2s"
extensions = ["address-lease"]
[compute.extension."address-lease"]
range = "10.88.0.2-10.88.0.254"
folder = "{{folder}}/leases"
[compute.policy."address-lease"]
activation = "on-request"
allow = {{ workspaces = ["default"] }}
"#,
        engine = engine.kind,
        other = other.kind
    );
    for engine in [engine, other] {
        text.push_str(&engine.block(&engine.socket));
    }
    text
}

const CONDITION: &str = "DriverUnreachable";

#[track_caller]
fn condition(sandbox: &Value) -> Option<Value> {
    let all = sandbox["conditions"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|condition| condition["type"] == CONDITION)
}

fn an_engine_that_goes_away_is_told_of_and_taken_up_when_it_is_back(found: &Engine) {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let set = Set::up();
    let (name, other) = (found.kind.name(), if found.kind == Kind::Docker { Kind::Podman } else { Kind::Docker });
    let (engine, other) = (set.engine(found.kind), set.engine(other));
    let gateway = Gateway::sharing(&config(&engine, &other), Share::Part);
    for how in [How::Stopped, How::Killed] {
        let box_ = gateway.json(&["sandbox", "create", "box", "--extension", "address-lease"]);
        let beside = ["sandbox", "create", "beside", "--driver", other.kind.name()];
        gateway.chiton(&beside).ok();
        let id = id(&box_).to_owned();
        set.end(engine.kind, how);

        // While it is away.
        gateway.until(&id, |sandbox| {
            sandbox.is_some_and(|sandbox| sandbox.conditions.iter().any(|condition| condition.r#type == CONDITION))
        });
        let away = gateway.get("box");
        let told = condition(&away).expect("the condition");
        let message = told["message"].as_str().expect("a message");
        assert!(message.contains(&format!("{name} at {}", engine.socket.display())), "{message}");
        assert_eq!(condition(&gateway.get("beside")), None, "the other driver can be reached");
        let refused = gateway.chiton(&["sandbox", "create", "more"]).refused();
        assert!(refused.contains("cannot be reached") && refused.contains("cure: start it"), "{refused}");
        let all = gateway.json(&["sandbox", "list", "--all"]);
        assert!(all.as_array().expect("a list").iter().all(|sandbox| sandbox["name"] != "more"), "nothing is stored");
        assert_eq!(gateway.shell("beside", "echo on").ok(), "on\n");
        gateway.chiton(&["sandbox", "create", "third", "--driver", other.kind.name()]).ok();
        gateway.chiton(&["sandbox", "delete", "third"]).ok();
        let (head, body) = gateway.http("data/gateway.sock", "/readyz");
        assert!(head.starts_with("http/1.1 200 "), "the other driver goes on: {head}");
        assert!(body.contains("1 unreachable drivers"), "{body}");
        let metrics = gateway.http("data/gateway.sock", "/metrics").1;
        let reachable = |kind: Kind| metric(&metrics, &format!("chiton_driver_reachable{{driver=\"{kind}\"}}"));
        assert_eq!((reachable(engine.kind), reachable(other.kind)), (0.0, 1.0));
        let drivers = gateway.json(&["drivers"]);
        let of = |kind: Kind| {
            let drivers = drivers.as_array().expect("a list");
            drivers.iter().find(|driver| driver["id"] == kind.name()).expect("a driver")["unavailable"].clone()
        };
        assert!(of(engine.kind).as_str().is_some_and(|why| why.contains("cannot be reached")), "{drivers:#}");
        // Nothing is released while nobody can say that it is gone.
        gateway.chiton(&["sandbox", "delete", "box", "--no-wait"]).ok();
        let by_id = |id: &str| gateway.json(&["sandbox", "get", "--id", id]);
        assert_eq!((gateway.leases(&id), &by_id(&id)["phase"]), (1, &json!("Deleting")));

        // And when it is back.
        set.order(&["start", name]);
        gateway.until(&id, |sandbox| sandbox.is_none());
        assert_eq!(gateway.entries("leases"), [""; 0]);
        assert_eq!(engine.left(gateway.id()), [""; 0]);
        gateway.chiton(&["sandbox", "delete", "beside"]).ok();
        exits_or_survives(&gateway, &set, &engine, how);
    }
    drop(gateway);
}

/// What became of a sandbox that ran while its engine was away: docker ends them all, podman none.
#[track_caller]
fn exits_or_survives(gateway: &Gateway, set: &Set, engine: &Engine, how: How) {
    let name = engine.kind.name();
    let sandbox = gateway.json(&["sandbox", "create", "box"]);
    let id = id(&sandbox);
    gateway.shell("box", "echo kept > /tmp/note").ok();
    let pid = engine.pid(id);
    set.end(engine.kind, how);
    gateway.until(id, |sandbox| {
        sandbox.is_some_and(|sandbox| sandbox.conditions.iter().any(|condition| condition.r#type == CONDITION))
    });
    if engine.kind == Kind::Podman {
        assert_eq!(gateway.shell("box", "cat /tmp/note").ok(), "kept\n", "its programs can be used meanwhile");
    }
    set.order(&["start", name]);
    let settled = |sandbox: &chiton_proto::v1::Sandbox| {
        sandbox.conditions.iter().all(|condition| condition.r#type != CONDITION)
            && (engine.kind == Kind::Podman || sandbox.phase == "Completed" && sandbox.operation.is_empty())
    };
    gateway.until(id, |sandbox| sandbox.is_some_and(settled));
    let after = gateway.get("box");
    if engine.kind == Kind::Podman {
        assert_eq!((&after["phase"], engine.pid(id)), (&json!("Ready"), pid), "it survives: {after:#}");
    } else {
        assert_eq!(after["phase"], "Completed", "{after:#}");
        assert!(after["exit"]["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{after:#}");
        gateway.chiton(&["sandbox", "start", "box"]).ok();
    }
    assert_eq!(gateway.shell("box", "cat /tmp/note").ok(), "kept\n", "its files are kept");
    gateway.chiton(&["sandbox", "delete", "box"]).ok();
    assert_eq!(engine.left(gateway.id()), [""; 0]);
}
