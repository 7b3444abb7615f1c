//! Loading against the real extensions' own checks; the driver's table is checked by a stand-in with one strict key.

mod bad_compute;
mod bad_policy;
mod bad_rest;
mod detection;
mod durations;
mod external;
mod files;
mod fuzz;
mod good;
mod origins;
mod supervisor;

use std::collections::BTreeMap;
use std::path::PathBuf;

use chiton_lifecycle::extension::ConfigIssue;
use chiton_model::Error;
use serde_json::Value;

use crate::plugin::{DriverKind, Plugins};

use super::{Config, ConfigError, DriverConfig, Drivers, Flags, Sources, load};

/// Two real extensions, and a driver kind `oci` whose table has the one key `rootless`.
fn compiled() -> Plugins {
    let mut plugins = Plugins::default();
    for kind in [chiton_fleet_labels::extension(), chiton_address_lease::extension()] {
        plugins.extension(kind.expect("its name is sound")).expect("names differ");
    }
    let oci = DriverKind {
        kind: "oci",
        early: |_| None,
        check: check_driver,
        build: |_| Err(Error::internal("loading a config must not build a driver")),
        doctor: |_| Vec::new(),
        probe: |_| panic!("loading a config must not look at the machine"),
    };
    plugins.driver(oci).expect("names differ");
    plugins
}

fn check_driver(options: &Value) -> Vec<ConfigIssue> {
    let issue = |key: &String, message: &str| ConfigIssue {
        pointer: format!("/{}", key.replace('~', "~0").replace('/', "~1")),
        message: message.to_owned(),
        cure: None,
    };
    let table = options.as_object().expect("options are a table");
    let wrong = table.iter().filter_map(|(key, value)| match (key.as_str(), value) {
        ("rootless", Value::Bool(_)) => None,
        ("rootless", _) => Some(issue(key, "is not a boolean")),
        _ => Some(issue(key, "unknown option")),
    });
    wrong.collect()
}

/// Root's sources with a file `chiton.toml`.
fn file(text: &str) -> Sources {
    Sources {
        file: Some((PathBuf::from("chiton.toml"), text.to_owned())),
        env: BTreeMap::new(),
        flags: Flags::default(),
        uid: 0,
        cwd: PathBuf::from("/home/ann"),
    }
}

fn env(mut sources: Sources, name: &str, value: &str) -> Sources {
    sources.env.insert(name.to_owned(), value.to_owned());
    sources
}

fn good(sources: &Sources) -> Config {
    load(sources, &compiled()).unwrap_or_else(|errors| panic!("{}", lines(&errors)))
}

/// The drivers that the config lists, and the default of them.
fn listed(config: &Config) -> (&[DriverConfig], &str) {
    match &config.compute.drivers {
        Drivers::Listed { drivers, default } => (drivers, default.as_str()),
        Drivers::Detect(_) => panic!("no driver is listed"),
    }
}

fn lines(errors: &[ConfigError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Every error, one a line, as an operator sees them.
fn bad(sources: &Sources) -> String {
    match load(sources, &compiled()) {
        Ok(config) => panic!("this config was taken: {config:?}"),
        Err(errors) => lines(&errors),
    }
}
