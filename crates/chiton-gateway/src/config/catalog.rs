//! What a configuration is checked against: the plug-ins that this distribution was built with.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use chiton_lifecycle::extension::ConfigIssue;
use chiton_model::{Error, ExtensionName};
use serde_json::Value;

use super::Catalog;
use super::shape::unknown_name;
use crate::plugin::Plugins;

/// When a kind that looks at the machine is given up. Each has a deadline of its own, which is shorter; this one is for a
/// look that hangs, so that one broken part of a machine cannot hold up a start.
const PROBE: Duration = Duration::from_secs(3);

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
        self.drivers().iter().map(|kind| kind.kind.to_owned()).collect()
    }

    fn check_driver(&self, kind: &str, _id: &str, options: &Value) -> Vec<ConfigIssue> {
        match self.driver_kind(kind) {
            Some(driver) => (driver.check)(options),
            None => unknown("driver kind", kind, &self.driver_kinds()),
        }
    }

    fn probe_driver(&self, kind: &str, options: &Value) -> Result<String, Error> {
        let Some(driver) = self.driver_kind(kind) else {
            let (message, cure) = unknown_name("driver kind", kind, &self.driver_kinds());
            return Err(Error::not_found(message).cure(cure));
        };
        let (probe, options) = (driver.probe, options.clone());
        let (answer, answered) = sync_channel(1);
        // On a thread of its own: it may block, and nothing can end one that hangs but the end of the process.
        let thread = thread::Builder::new().name("probe".to_owned()).spawn(move || drop(answer.send(probe(&options))));
        thread.map_err(|error| Error::internal(format!("a thread cannot be started: {error}")))?;
        answered.recv_timeout(PROBE).unwrap_or_else(|error| {
            Err(match error {
                RecvTimeoutError::Timeout => {
                    Error::deadline(format!("the look at this machine did not end within {} s", PROBE.as_secs()))
                        .cure("look at what the driver needs: chiton doctor")
                }
                RecvTimeoutError::Disconnected => Error::internal("the look at this machine ended without an answer"),
            })
        })
    }
}

fn unknown(what: &str, name: &str, known: &[String]) -> Vec<ConfigIssue> {
    let (message, cure) = unknown_name(what, name, known);
    vec![ConfigIssue { pointer: String::new(), message, cure: Some(cure) }]
}
