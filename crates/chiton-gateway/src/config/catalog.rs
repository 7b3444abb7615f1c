//! What a configuration is checked against: the plug-ins that this distribution was built with.

use chiton_lifecycle::extension::ConfigIssue;
use chiton_model::ExtensionName;
use serde_json::Value;

use super::Catalog;
use super::shape::unknown_name;
use crate::plugin::Plugins;

impl Catalog for Plugins {
    fn extensions(&self) -> Vec<String> {
        self.extensions.iter().map(|kind| kind.descriptor().name.to_string()).collect()
    }

    fn check_extension(&self, name: &str, document: &Value) -> Vec<ConfigIssue> {
        match ExtensionName::new(name).ok().and_then(|name| self.extensions.get(&name)) {
            Some(kind) => kind.check(document),
            None => unknown("extension", name, &Catalog::extensions(self)),
        }
    }

    fn driver_kinds(&self) -> Vec<String> {
        self.drivers.keys().map(ToString::to_string).collect()
    }

    fn check_driver(&self, kind: &str, _id: &str, options: &Value) -> Vec<ConfigIssue> {
        match self.drivers.get(kind) {
            Some(driver) => (driver.check)(options),
            None => unknown("driver kind", kind, &self.driver_kinds()),
        }
    }
}

fn unknown(what: &str, name: &str, known: &[String]) -> Vec<ConfigIssue> {
    let (message, cure) = unknown_name(what, name, known);
    vec![ConfigIssue { pointer: String::new(), message, cure: Some(cure) }]
}
