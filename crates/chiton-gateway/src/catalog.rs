//! What is compiled in, as the configuration asks.

use chiton_lifecycle::extension::ConfigIssue;
use chiton_model::ExtensionName;
use serde_json::Value;

use crate::config::Catalog;
use crate::plugin::Plugins;

impl Catalog for Plugins {
    fn extensions(&self) -> Vec<String> {
        self.extensions.iter().map(|kind| kind.descriptor().name.to_string()).collect()
    }

    fn check_extension(&self, name: &str, document: &Value) -> Vec<ConfigIssue> {
        let kind = ExtensionName::new(name).ok().and_then(|name| self.extensions.get(&name).cloned());
        kind.map(|kind| kind.check(document)).unwrap_or_default()
    }

    fn driver_kinds(&self) -> Vec<String> {
        self.drivers.keys().map(|kind| (*kind).to_owned()).collect()
    }

    fn check_driver(&self, kind: &str, _id: &str, options: &Value) -> Vec<ConfigIssue> {
        self.drivers.get(kind).map(|kind| (kind.check)(options)).unwrap_or_default()
    }
}
