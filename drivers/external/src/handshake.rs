//! What the process says of itself, remembered for when it is away.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use chiton_compute_wire::names::features;
use chiton_compute_wire::text::{NAME, told};
use chiton_compute_wire::v1::GetCapabilitiesResponse;
use chiton_driver::{Capabilities, Feature, Limit, Locality, Point, WhoseAgent, replace_file};
use serde::{Deserialize, Serialize};

use crate::options::ExternalOptions;
use crate::plan::PLAN_SCHEMA;

/// The answer to the greeting, as far as it matters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Handshake {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) default_image: String,
    pub(crate) manages: bool,
    pub(crate) contract: u32,
    pub(crate) points: BTreeSet<Point>,
    pub(crate) features: BTreeSet<String>,
    pub(crate) backend: String,
}

fn text(said: &str) -> String {
    told(said, NAME)
}

impl Handshake {
    pub(crate) fn new(said: &GetCapabilitiesResponse) -> Self {
        let points = if said.contract_version == 0 {
            // The contract's own fields.
            BTreeSet::from([Point::Env, Point::Label, Point::Resource])
        } else {
            let known = [Point::Env, Point::Label, Point::Annotation, Point::Resource];
            known.into_iter().filter(|point| said.plan_fields.iter().any(|field| field == point.as_str())).collect()
        };
        // What nobody here asks for is not kept, however much of it there is.
        let features = features::ALL.iter().filter(|feature| said.features.get(**feature).is_some_and(|can| *can));
        Self {
            name: text(&said.driver_name),
            version: text(&said.driver_version),
            default_image: text(&said.default_image),
            manages: said.gateway_manages_lifecycle,
            contract: said.contract_version,
            points,
            features: features.map(|feature| (*feature).to_owned()).collect(),
            backend: text(&said.backend_id),
        }
    }

    pub(crate) fn can(&self, feature: &str) -> bool {
        self.features.contains(feature)
    }

    /// What it was when it was here last.
    pub(crate) fn load(folder: &Path) -> Option<Self> {
        // Only a memory: one that cannot be read is none.
        serde_json::from_slice(&fs::read(folder.join(FILE)).ok()?).ok()
    }

    /// Remembers it. That this fails changes nothing but what is known while the process is away.
    pub(crate) fn store(&self, folder: &Path) {
        // A driver that flaps says the same each time: no reason to write to disk.
        if Self::load(folder).as_ref() == Some(self) {
            return;
        }
        let text = serde_json::to_vec(self).map_err(std::io::Error::from);
        if let Err(error) = text.and_then(|text| replace_file(&folder.join(FILE), &text)) {
            tracing::warn!(folder = %folder.display(), %error, "what the driver says of itself could not be kept");
        }
    }

    /// What the engine makes of it.
    pub(crate) fn capabilities(&self, options: &ExternalOptions) -> Capabilities {
        let mut limits = BTreeSet::new();
        if self.points.contains(&Point::Resource) {
            limits.extend([Limit::Cpu, Limit::Memory]);
        }
        let known = self.can(features::WORKSPACES) || self.contract == 0;
        Capabilities {
            id: options.id.clone(),
            kind: if self.name.is_empty() { "external".to_owned() } else { self.name.clone() },
            version: if self.version.is_empty() { "0".to_owned() } else { self.version.clone() },
            default_image: self.default_image.clone(),
            gateway_manages_lifecycle: self.manages,
            // What knows only the public contract may be at work for a create after its delete. A deletion by the additions'
            // contract is final.
            locality: if self.contract == 0 { Locality::Deferred } else { Locality::Remote },
            points: self.points.clone(),
            limits,
            networks: BTreeSet::new(),
            features: if known { BTreeSet::from([Feature::Workspaces]) } else { BTreeSet::new() },
            plan_schema: PLAN_SCHEMA,
            agent: options.agent != WhoseAgent::None,
        }
    }
}

const FILE: &str = "handshake.json";
