use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use serde_json::json;

use super::*;
use crate::config::Catalog as _;

fn kind(name: &'static str, probe: fn(&Value) -> Result<String, Error>) -> DriverKind {
    DriverKind {
        kind: name,
        early: |_| None,
        check: |_| Vec::new(),
        build: |_| Err(Error::internal("nothing is built here")),
        doctor: |_| Vec::new(),
        probe,
    }
}

fn names(plugins: &Plugins) -> Vec<&str> {
    plugins.drivers().iter().map(|kind| kind.kind).collect()
}

#[test]
fn kinds_keep_the_order_of_their_registration_and_are_found_by_name() {
    let mut plugins = Plugins::default();
    for name in ["oci", "docker", "podman", "alpha"] {
        plugins.driver(kind(name, |_| Ok(String::new()))).expect("names differ");
    }
    assert_eq!(names(&plugins), ["oci", "docker", "podman", "alpha"]);
    assert_eq!(plugins.driver_kinds(), names(&plugins));
    assert_eq!(plugins.driver_kind("podman").map(|kind| kind.kind), Some("podman"));
    assert!(plugins.driver_kind("vm").is_none());
}

#[test]
fn a_second_kind_of_one_name_is_refused_and_the_first_stays() {
    let mut plugins = Plugins::default();
    plugins.driver(kind("oci", |_| Ok("the first".to_owned()))).expect("it is the only one");
    let error = plugins.driver(kind("oci", |_| Ok("the second".to_owned()))).expect_err("it is there");
    assert_eq!(error.message, "two drivers are registered as \"oci\"");
    assert_eq!(names(&plugins), ["oci"]);
    assert_eq!(plugins.probe_driver("oci", &json!({})), Ok("the first".to_owned()));
}

#[test]
fn a_kind_whose_name_cannot_be_an_id_is_refused() {
    let mut plugins = Plugins::default();
    plugins.driver(kind("Not An Id", |_| Ok(String::new()))).expect_err("configs could not name it");
    assert_eq!(names(&plugins), [""; 0]);
}

#[test]
fn a_probe_gets_its_table_and_its_answer_is_passed_on() {
    let mut plugins = Plugins::default();
    plugins.driver(kind("seen", |options| Ok(options.to_string()))).expect("names differ");
    plugins.driver(kind("down", |_| Err(Error::unavailable("down", "it is down").cure("start it")))).expect("the same");
    assert_eq!(plugins.probe_driver("seen", &json!({ "a": 1 })), Ok("{\"a\":1}".to_owned()));
    let error = plugins.probe_driver("down", &json!({})).expect_err("it is down");
    assert_eq!((error.message.as_str(), error.cure.as_deref()), ("it is down", Some("start it")));
    plugins.probe_driver("none", &json!({})).expect_err("there is no such kind");
}

#[test]
fn a_probe_that_panics_or_hangs_is_an_answer_too() {
    let mut plugins = Plugins::default();
    // Without the hook, which may write a backtrace for longer than a probe may take.
    plugins
        .driver(kind("broken", |_| std::panic::resume_unwind(Box::new("a fault of the driver's"))))
        .expect("names differ");
    plugins
        .driver(kind("stuck", |_| {
            // Nobody ever sends.
            let (_keep, never) = channel::<()>();
            never.recv_timeout(Duration::from_mins(1)).map_or_else(|_| Ok(String::new()), |()| Ok(String::new()))
        }))
        .expect("the same");
    let error = plugins.probe_driver("broken", &json!({})).expect_err("it panicked");
    assert_eq!(error.message, "the look at this machine ended without an answer");
    let begun = Instant::now();
    let error = plugins.probe_driver("stuck", &json!({})).expect_err("it hangs");
    assert_eq!(error.kind.code(), "deadline");
    assert!(begun.elapsed() < Duration::from_secs(30), "it was waited for");
}
