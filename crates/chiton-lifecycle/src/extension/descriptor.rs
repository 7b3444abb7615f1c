//! What an extension declares about itself, so that a mismatch is refused before anything is stored.

use std::collections::BTreeSet;

use chiton_driver::{Capabilities, Feature, Point};
use chiton_model::{Error, ExtensionName, Phase};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What an extension asks of a driver.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needs {
    /// Portable points of the plan.
    pub points: BTreeSet<Point>,
    /// Driver features.
    pub features: BTreeSet<Feature>,
}

impl Needs {
    /// What the driver lacks of it, as words.
    pub fn missing(&self, driver: &Capabilities) -> Vec<&'static str> {
        let points = self.points.difference(&driver.points).map(|point| point.as_str());
        let features = self.features.difference(&driver.features).map(|feature| feature.as_str());
        points.chain(features).collect()
    }
}

/// How far an extension's reconcile can go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReconcileSupport {
    /// It reports drift.
    #[default]
    Advisory,
    /// It can also repair drift, where the operator's policy lets it.
    Authoritative,
}

/// An extension's declaration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Descriptor {
    /// Its name in configs.
    pub name: ExtensionName,
    /// Its version, as semver.
    pub version: String,
    /// One sentence for people.
    pub summary: String,
    /// The phases that it takes part in; no other method is ever called.
    pub phases: BTreeSet<Phase>,
    /// What it cannot do without.
    pub needs: Needs,
    /// What it would use; where missing, the plan says that it is a no-op.
    pub wants: Needs,
    /// The schema version of the state that it writes.
    pub state_schema: u32,
    /// Older schema versions that it can still read.
    pub reads_schemas: BTreeSet<u32>,
    /// How far its reconcile can go.
    pub reconcile: ReconcileSupport,
    /// Its effects end with its process: after a crash nothing of it can still be on its way, so that one cleanup call is
    /// enough.
    pub local_effects: bool,
    /// How many of its hooks may run at once; the operator's policy may lower it.
    pub concurrency: u32,
    /// The JSON schema of its config.
    pub config_schema: Value,
}

impl Descriptor {
    /// A declaration with the usual answers: needs nothing, state schema 1, advisory reconcile, 64 hooks at once.
    pub fn new(
        name: &str,
        version: &str,
        summary: &str,
        phases: impl IntoIterator<Item = Phase>,
    ) -> Result<Self, Error> {
        Ok(Self {
            name: ExtensionName::new(name)?,
            version: version.to_owned(),
            summary: summary.to_owned(),
            phases: phases.into_iter().collect(),
            needs: Needs::default(),
            wants: Needs::default(),
            state_schema: 1,
            reads_schemas: BTreeSet::new(),
            reconcile: ReconcileSupport::Advisory,
            local_effects: false,
            concurrency: 64,
            config_schema: Value::Null,
        })
    }

    /// Whether it takes part in the phase.
    pub fn takes_part(&self, phase: Phase) -> bool {
        self.phases.contains(&phase)
    }

    /// Whether it can read a state of this schema version.
    pub fn reads(&self, version: u32) -> bool {
        version == self.state_schema || self.reads_schemas.contains(&version)
    }

    /// Refuses a driver that lacks what the extension cannot do without.
    pub fn check_driver(&self, driver: &Capabilities) -> Result<(), Error> {
        let missing = self.needs.missing(driver);
        let Some(first) = missing.first() else { return Ok(()) };
        Err(Error::unsupported(
            driver.id.as_str(),
            *first,
            format!(
                "extension {:?} needs {} of driver {:?}, which does not offer it",
                self.name.as_str(),
                missing.join(", "),
                driver.id.as_str()
            ),
        )
        .cure("use a driver that offers it, or take the extension off this sandbox by its activation policy"))
    }
}
