//! Every built-in driver, served, held against the contract and the promises of every driver; killed in between.

use std::sync::{Arc, Mutex};

use chiton_driver_conform::{Declared, Options, Outcome, Restart, run};
use chiton_tests::engines::{Engine, Kind};

use super::process::Served;
use crate::engines::find;
use crate::harness::root;

/// What a built-in driver passes at least: a kit that declares everything says nothing.
const AT_LEAST: usize = 105;

/// Podman before its version 5 does not say that memory was why; that the process is killed, the driver's own suite looks at.
const SILENT: &str = "\"behaviour::limit::memory_bites\" = \"this podman does not tell why it ended\"";

fn holds(served: Served, image: &str, declared: &str) {
    let socket = served.socket();
    let served = Arc::new(Mutex::new(served));
    let again = Arc::clone(&served);
    let restart = Restart::With(Arc::new(move || {
        let served = Arc::clone(&again);
        Box::pin(async move {
            let restarted = tokio::task::spawn_blocking(move || {
                let mut served = served.lock().expect("nobody failed with it");
                served.kill();
                served.begin();
            });
            restarted.await.map_err(|error| error.to_string())
        })
    }));
    let options = Options {
        image: image.to_owned(),
        restart: Some(restart),
        declared: Declared::parse("declared.toml", declared).expect("declarations"),
        ..Options::new(socket)
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let report = runtime.expect("a runtime").block_on(run(options, |_| {})).expect("a report");
    assert!(report.passed(), "{report}");
    let passed = report.results.iter().filter(|result| result.outcome == Outcome::Pass).count();
    assert!(passed >= AT_LEAST, "{passed} passed\n{report}");
    // Also its process's end is before the folder's.
    drop(served);
}

#[test]
fn the_kit_finds_nothing_in_oci() {
    if !root() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    holds(Served::start(folder.path(), "", &["--driver", "oci", "--agent", "none"]), "host", "");
}

fn on_an_engine(engine: &Engine, declared: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    // What is killed in the middle of a create stays until it can no longer land, which on these engines is soon.
    let config = format!("[compute]\nlate_effects = \"3s\"\n{}", engine.block(&engine.socket));
    let served = Served::start(folder.path(), &config, &["--driver", &engine.kind.to_string(), "--agent", "none"]);
    holds(served, "", declared);
}

#[test]
fn the_kit_finds_nothing_in_docker() {
    if let Some(engine) = find(Kind::Docker) {
        on_an_engine(&engine, "");
    }
}

#[test]
fn the_kit_finds_nothing_in_podman() {
    if let Some(engine) = find(Kind::Podman) {
        on_an_engine(&engine, SILENT);
    }
}
