//! What an engine does after its answer was lost, through a proxy that loses and delays what the test tells it to: an
//! address is never free while a container that carries it is there, and nothing is left at the end.

use std::path::PathBuf;

use chiton_driver_suite::proxy::{Fault, Injected, Proxy, Rule};
use chiton_tests::engines::Engine;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::chain::{FAULT, chain};
use super::{Scene, on_each};

on_each!(
    a_create_that_lands_late_lands_under_its_own_lease,
    a_create_whose_answer_is_lost_is_undone,
    a_start_whose_answer_is_lost_is_undone,
    a_delete_that_fails_keeps_the_lease_until_it_succeeds,
);

const CREATE: &str = "*/containers/create*";
const START: &str = "*/containers/chiton-*/start*";
const DELETE: &str = "*/containers/chiton-*";

/// A proxy, and what it needs to live.
struct Faulty {
    proxy: Proxy,
    runtime: Runtime,
    _folder: tempfile::TempDir,
}

impl Faulty {
    fn new(engine: &Engine) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let folder = tempfile::Builder::new().prefix("chiton-proxy-").tempdir().expect("a folder");
        let socket = folder.path().join("sock");
        let proxy = runtime.block_on(async { Proxy::start(&socket, &engine.socket) }).expect("a proxy");
        Self { proxy, runtime, _folder: folder }
    }

    fn socket(&self) -> PathBuf {
        self.proxy.socket().to_owned()
    }

    fn inject(&self, method: Method, path: &str, fault: Fault) -> Injected {
        self.proxy.inject(Rule::new(method, path, fault))
    }

    #[track_caller]
    fn wait(&self, what: &str, event: impl Future<Output = ()>) {
        let limit = std::time::Duration::from_mins(1);
        let ended = self.runtime.block_on(async { tokio::time::timeout(limit, event).await });
        assert!(ended.is_ok(), "{what} did not happen");
    }

    /// Every connection breaks; the next ones are served.
    fn cut(&self) {
        self.runtime.block_on(async { self.proxy.up() }).expect("a socket");
    }
}

fn scene<'a>(engine: &'a Engine, faulty: &Faulty, late: &str) -> Scene<'a> {
    let (compute, rest) = chain(engine, "fault", FAULT);
    Scene::behind(engine, &faulty.socket(), &format!("{compute}\nlate_effects = {late:?}"), &rest)
}

const CREATE_BOX: [&str; 6] = ["sandbox", "create", "box", "--network", "bridge", "--no-wait"];

/// The one row, whatever became of it.
#[track_caller]
fn row(gateway: &Scene<'_>) -> Value {
    gateway.json(&["sandbox", "list", "--all"])[0].clone()
}

/// The failed create's row is as it should be, and what it held is free.
#[track_caller]
fn undone(engine: &Engine, gateway: &Scene<'_>, id: &str) {
    gateway.until(id, |sandbox| sandbox.is_none_or(|sandbox| sandbox.phase == "Error" && sandbox.operation.is_empty()));
    assert_eq!(engine.left(gateway.id()), [""; 0], "something is left");
    assert_eq!(gateway.entries("leases"), [""; 0]);
    assert_eq!(gateway.json(&["obligations", "list"]), json!([]));
    let phases = gateway.phases(id);
    let cleanups = phases.iter().filter(|phase| phase.starts_with("on_create_failed")).count();
    assert_eq!(cleanups, 1, "{phases:?}");
}

fn a_create_that_lands_late_lands_under_its_own_lease(engine: &Engine) {
    let faulty = Faulty::new(engine);
    let gateway = scene(engine, &faulty, "30s");
    let late = faulty.inject(Method::POST, CREATE, Fault::Late);
    let sandbox = gateway.json(&CREATE_BOX);
    let id = super::id(&sandbox).to_owned();
    faulty.wait("the create", late.met());
    assert_eq!(gateway.leases(&id), 1, "the lease is made before the container");
    faulty.cut();
    // The gateway has been told that there is nothing, and does not believe it yet.
    gateway.until(&id, |sandbox| {
        let sandbox = sandbox.expect("a row");
        assert_ne!(
            sandbox.phase, "Error",
            "undone before anything could land, or this machine is too slow for the test"
        );
        sandbox.conditions.iter().any(|condition| condition.message.contains("may still land"))
    });
    assert!(engine.container(&id).is_none(), "nothing has landed yet");
    assert_eq!(gateway.leases(&id), 1, "the lease waits for what may land");
    late.release();
    faulty.wait("the late create", late.carried_out());
    // It is there for a moment, or was; the lease outlives it. The row's end is told a little later.
    loop {
        let ended = row(&gateway)["phase"] == "Error";
        // In this order: what is free is looked at before the container.
        let held = gateway.leases(&id) == 1;
        assert!(held || engine.container(&id).is_none(), "the container carries an address that is free");
        if ended || !held {
            break;
        }
    }
    undone(engine, &gateway, &id);
}

fn a_create_whose_answer_is_lost_is_undone(engine: &Engine) {
    let faulty = Faulty::new(engine);
    let gateway = scene(engine, &faulty, "2s");
    let lost = faulty.inject(Method::POST, CREATE, Fault::DropAnswer);
    let sandbox = gateway.json(&CREATE_BOX);
    let id = super::id(&sandbox).to_owned();
    faulty.wait("the create", lost.met());
    undone(engine, &gateway, &id);
    assert!(row(&gateway)["failure"].as_str().is_some_and(|why| why.contains("lost")), "{:#}", row(&gateway));
    // The name is free, and so is the address.
    gateway.chiton(&CREATE_BOX[..5]).ok();
    assert_eq!(gateway.entries("leases").len(), 1);
}

fn a_start_whose_answer_is_lost_is_undone(engine: &Engine) {
    let faulty = Faulty::new(engine);
    let gateway = scene(engine, &faulty, "2s");
    let lost = faulty.inject(Method::POST, START, Fault::DropAnswer);
    let sandbox = gateway.json(&CREATE_BOX);
    let id = super::id(&sandbox).to_owned();
    faulty.wait("the start", lost.met());
    undone(engine, &gateway, &id);
    // Of a start by itself only the start is undone.
    let sandbox = gateway.json(&CREATE_BOX[..5]);
    let id = super::id(&sandbox).to_owned();
    gateway.chiton(&["sandbox", "stop", "box"]).ok();
    let lost = faulty.inject(Method::POST, START, Fault::DropAnswer);
    gateway.chiton(&["sandbox", "start", "box"]).refused();
    assert_eq!(lost.count(), 1);
    let after = gateway.get("box");
    assert_eq!(after["phase"], "Stopped", "{after:#}");
    assert!(!engine.runs(&id) && engine.container(&id).is_some());
    assert_eq!(gateway.leases(&id), 1);
    gateway.chiton(&["sandbox", "start", "box"]).ok();
    assert_eq!(gateway.shell("box", "echo works").ok(), "works\n");
}

fn a_delete_that_fails_keeps_the_lease_until_it_succeeds(engine: &Engine) {
    let faulty = Faulty::new(engine);
    let gateway = scene(engine, &faulty, "2s");
    let sandbox = gateway.json(&CREATE_BOX[..5]);
    let id = super::id(&sandbox).to_owned();
    let answer = json!({ "message": "the disk is on fire" });
    let failed = faulty.inject(Method::DELETE, DELETE, Fault::Answer(StatusCode::INTERNAL_SERVER_ERROR, answer));
    // Held up, so that there is time to look: it is lost when the test lets go of it.
    let lost = faulty.inject(Method::DELETE, DELETE, Fault::Hang);
    gateway.chiton(&["sandbox", "delete", "box", "--no-wait"]).ok();
    faulty.wait("the delete", failed.met());
    gateway.until(&id, |sandbox| {
        sandbox.is_some_and(|sandbox| sandbox.conditions.iter().any(|condition| condition.message.contains("on fire")))
    });
    assert_eq!(gateway.leases(&id), 1, "the container is there");
    assert_eq!(gateway.get("box")["phase"], "Deleting");
    faulty.wait("the second delete", lost.met());
    assert!(engine.container(&id).is_some(), "neither has reached the engine");
    lost.release();
    gateway.until(&id, |sandbox| sandbox.is_none());
    assert_eq!(engine.left(gateway.id()), [""; 0]);
    assert_eq!(gateway.entries("leases"), [""; 0]);
}
