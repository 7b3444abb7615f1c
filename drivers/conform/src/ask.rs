//! What is asked for.

use std::collections::{BTreeMap, HashMap};

use chiton_compute_wire::json::to_struct;
use chiton_compute_wire::v1::{DriverResourceRequirements, DriverSandbox, DriverSandboxSpec, DriverSandboxTemplate};
use serde_json::Value;

/// Changes to a request.
pub(crate) trait Ask: Sized {
    /// The specification, to be changed.
    fn spec(&mut self) -> &mut DriverSandboxSpec;

    fn template(&mut self) -> &mut DriverSandboxTemplate {
        self.spec().template.get_or_insert_default()
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn command(self, command: Vec<String>) -> Self {
        self.with(|ask| ask.spec().command = command)
    }

    fn variable(self, name: &str, value: &str) -> Self {
        self.with(|ask| drop(ask.spec().environment.insert(name.to_owned(), value.to_owned())))
    }

    fn label(self, name: &str, value: &str) -> Self {
        self.with(|ask| drop(ask.template().labels.insert(name.to_owned(), value.to_owned())))
    }

    fn resources(self, resources: DriverResourceRequirements) -> Self {
        self.with(|ask| ask.template().resources = Some(resources))
    }

    fn config(self, config: &Value) -> Self {
        self.with(|ask| ask.template().driver_config = Some(to_struct(config)))
    }
}

impl Ask for DriverSandbox {
    fn spec(&mut self) -> &mut DriverSandboxSpec {
        self.spec.get_or_insert_default()
    }
}

/// A request.
pub(crate) struct Plain<'a> {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) workspace: &'a str,
    pub(crate) image: &'a str,
    pub(crate) command: &'a [String],
    pub(crate) token: String,
}

impl From<Plain<'_>> for DriverSandbox {
    fn from(plain: Plain<'_>) -> Self {
        let template = DriverSandboxTemplate { image: plain.image.to_owned(), ..DriverSandboxTemplate::default() };
        let spec = DriverSandboxSpec {
            log_level: "info".to_owned(),
            template: Some(template),
            sandbox_token: plain.token,
            command: plain.command.to_vec(),
            agent_attempt: format!("attempt-{}", plain.id),
            ..DriverSandboxSpec::default()
        };
        Self {
            id: plain.id,
            name: plain.name,
            workspace: plain.workspace.to_owned(),
            spec: Some(spec),
            ..Self::default()
        }
    }
}

/// A map in order, for messages.
pub(crate) fn ordered(map: &HashMap<String, String>) -> BTreeMap<&String, &String> {
    map.iter().collect()
}
