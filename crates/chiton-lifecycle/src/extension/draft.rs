//! A plan while extensions write to it.

use std::collections::BTreeMap;
use std::sync::Arc;

use chiton_driver::{ComputeDriver, PortableWrite, marker};
use chiton_model::{DriverId, Error, ExtensionName};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{StepError, StepResult};

/// Who carries out driver-independent writes on a plan.
pub trait PortableWriter: Send + Sync + 'static {
    /// The driver whose plan it is.
    fn driver(&self) -> DriverId;
    /// Applies a write, or says that the driver does not offer the point.
    fn write(&self, plan: &mut Value, write: &PortableWrite) -> Result<(), Error>;
}

struct ByDriver(Arc<dyn ComputeDriver>);

impl PortableWriter for ByDriver {
    fn driver(&self) -> DriverId {
        self.0.capabilities().id.clone()
    }

    fn write(&self, plan: &mut Value, write: &PortableWrite) -> Result<(), Error> {
        self.0.write_portable(plan, write)
    }
}

/// A plan that one extension may write to. The engine compares before and after, so no write needs to be announced.
#[derive(Clone)]
pub struct Draft {
    pub(crate) plan: Value,
    pub(crate) slots: BTreeMap<String, Option<String>>,
    extension: ExtensionName,
    writer: Arc<dyn PortableWriter>,
}

impl Draft {
    pub(crate) fn new(plan: Value, extension: ExtensionName, driver: Arc<dyn ComputeDriver>) -> Self {
        Self::by(plan, extension, Arc::new(ByDriver(driver)))
    }

    /// A draft whose portable writes go to the writer: for who serves an extension to an engine in another process.
    pub fn by(plan: Value, extension: ExtensionName, writer: Arc<dyn PortableWriter>) -> Self {
        Self { plan, slots: BTreeMap::new(), extension, writer }
    }

    /// The plan as JSON.
    pub fn json(&self) -> &Value {
        &self.plan
    }

    /// The plan as JSON, to write to.
    pub fn json_mut(&mut self) -> &mut Value {
        &mut self.plan
    }

    /// The slots that were declared on it: name, and the default if there is one.
    pub fn slots(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.slots.iter().map(|(name, default)| (name.as_str(), default.as_deref()))
    }

    /// Writes through the driver's own plan type; fails when the plan is not of that type.
    pub fn typed<P: Serialize + DeserializeOwned>(&mut self, write: impl FnOnce(&mut P)) -> StepResult {
        let wrong = |error: serde_json::Error| {
            StepError::fatal(format!(
                "the plan of driver {:?} is not a {}: {error}",
                self.writer.driver().as_str(),
                std::any::type_name::<P>()
            ))
        };
        let mut plan: P = serde_json::from_value(self.plan.clone()).map_err(wrong)?;
        write(&mut plan);
        self.plan = serde_json::to_value(&plan).map_err(wrong)?;
        Ok(())
    }

    /// Writes that work on every driver that offers the point.
    pub fn portable(&mut self) -> PortableDraft<'_> {
        PortableDraft { draft: self }
    }

    /// Declares a slot and gives the text to put into a string field: the value is known after `before_create`.
    pub fn slot(&mut self, name: &str) -> String {
        self.slots.insert(name.to_owned(), None);
        marker(&format!("{}.{name}", self.extension))
    }

    /// As [`Draft::slot`], with the value to use when an optional extension fails before it could give one.
    pub fn slot_or(&mut self, name: &str, default: &str) -> String {
        self.slots.insert(name.to_owned(), Some(default.to_owned()));
        marker(&format!("{}.{name}", self.extension))
    }
}

/// Driver-independent writes.
pub struct PortableDraft<'a> {
    draft: &'a mut Draft,
}

impl PortableDraft<'_> {
    fn write(self, write: &PortableWrite) -> StepResult {
        self.draft.writer.write(&mut self.draft.plan, write).map_err(StepError::from)
    }

    /// Sets an environment variable.
    pub fn env(self, name: &str, value: &str) -> StepResult {
        self.write(&PortableWrite::Env { name: name.to_owned(), value: value.to_owned() })
    }

    /// Sets a label.
    pub fn label(self, key: &str, value: &str) -> StepResult {
        self.write(&PortableWrite::Label { key: key.to_owned(), value: value.to_owned() })
    }

    /// Sets an annotation.
    pub fn annotation(self, key: &str, value: &str) -> StepResult {
        self.write(&PortableWrite::Annotation { key: key.to_owned(), value: value.to_owned() })
    }

    /// Shows a host path in the sandbox.
    pub fn mount(self, source: &str, target: &str, read_only: bool) -> StepResult {
        self.write(&PortableWrite::Mount { source: source.to_owned(), target: target.to_owned(), read_only })
    }

    /// Shows a host device in the sandbox.
    pub fn device(self, path: &str) -> StepResult {
        self.write(&PortableWrite::Device { path: path.to_owned() })
    }

    /// Sets the sandbox's address.
    pub fn network(self, address: &str) -> StepResult {
        self.write(&PortableWrite::Network { address: address.to_owned() })
    }

    /// Sets a limit.
    pub fn resource(self, name: &str, quantity: &str) -> StepResult {
        self.write(&PortableWrite::Resource { name: name.to_owned(), quantity: quantity.to_owned() })
    }
}
