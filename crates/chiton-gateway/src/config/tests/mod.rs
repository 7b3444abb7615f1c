//! Loading against the real extensions' own checks; the driver's table is checked by a stand-in with one strict key.

mod bad_compute;
mod bad_policy;
mod bad_rest;
mod durations;
mod files;
mod fuzz;
mod good;
mod origins;

use std::collections::BTreeMap;
use std::path::PathBuf;

use chiton_lifecycle::extension::{ConfigIssue, Registry};
use chiton_model::ExtensionName;
use serde_json::Value;

use super::{Catalog, Config, ConfigError, Flags, Sources, load};

/// Two real extensions, and the driver kind `oci` whose table has the one key `rootless`.
struct Compiled(Registry);

impl Catalog for Compiled {
    fn extensions(&self) -> Vec<String> {
        self.0.iter().map(|kind| kind.descriptor().name.to_string()).collect()
    }

    fn check_extension(&self, name: &str, document: &Value) -> Vec<ConfigIssue> {
        let name = ExtensionName::new(name).expect("only known names are asked about");
        self.0.get(&name).expect("only known names are asked about").check(document)
    }

    fn driver_kinds(&self) -> Vec<String> {
        vec!["oci".to_owned()]
    }

    fn check_driver(&self, kind: &str, _id: &str, options: &Value) -> Vec<ConfigIssue> {
        assert_eq!(kind, "oci", "only known kinds are asked about");
        let table = options.as_object().expect("options are a table");
        let issue = |key: &String, message: &str| ConfigIssue {
            pointer: format!("/{}", key.replace('~', "~0").replace('/', "~1")),
            message: message.to_owned(),
            cure: None,
        };
        table
            .iter()
            .filter_map(|(key, value)| match (key.as_str(), value) {
                ("rootless", Value::Bool(_)) => None,
                ("rootless", _) => Some(issue(key, "is not a boolean")),
                _ => Some(issue(key, "unknown option")),
            })
            .collect()
    }
}

fn compiled() -> Compiled {
    let mut registry = Registry::default();
    for kind in [chiton_fleet_labels::extension(), chiton_address_lease::extension()] {
        registry.register(kind.expect("its name is sound")).expect("names differ");
    }
    Compiled(registry)
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
