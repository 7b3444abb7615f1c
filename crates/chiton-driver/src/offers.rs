//! Whether a driver offers what a request asks for: a limit that would be ignored is worse than a refusal.

use chiton_model::{Error, NetworkMode, NetworkSpec, Resources, VolumeMount};

use crate::capabilities::{Capabilities, Feature, Limit, NetworkKind};

impl Capabilities {
    /// Refuses limits, networks and volumes that the driver does not have. What it has and this machine lacks, the driver
    /// itself refuses when it is shown the plan.
    pub fn check_offers(
        &self,
        resources: &Resources,
        network: &NetworkSpec,
        volumes: &[VolumeMount],
    ) -> Result<(), Error> {
        if let Some(limit) = Limit::asked(resources).find(|limit| !self.limits.contains(limit)) {
            let known: Vec<&str> = self.limits.iter().map(|limit| limit.as_str()).collect();
            let point = format!("resources.{}", limit.as_str());
            return Err(self.lacks(&point, &format!("cannot limit {}", limit.as_str()), &known, "limits"));
        }
        let kind = match network.mode {
            NetworkMode::None => None,
            NetworkMode::Host => Some(NetworkKind::Host),
            NetworkMode::Bridge => Some(NetworkKind::Bridge),
            NetworkMode::Named(_) => Some(NetworkKind::Named),
        };
        if kind.is_some_and(|kind| !self.networks.contains(&kind)) {
            let known: Vec<&str> =
                std::iter::once("none").chain(self.networks.iter().map(|kind| kind.as_str())).collect();
            let what = format!("has no network {:?}", network.mode.to_string());
            return Err(self.lacks("network.mode", &what, &known, "networks"));
        }
        if !volumes.is_empty() && !self.features.contains(&Feature::Volumes) {
            return Err(self.lacks("volumes", "keeps no named volumes", &[], ""));
        }
        Ok(())
    }

    fn lacks(&self, point: &str, what: &str, known: &[&str], of: &str) -> Error {
        let cure = match known {
            [] => "leave it out, or choose another driver".to_owned(),
            known => format!("its {of} are {}; leave it out, or choose another driver", known.join(", ")),
        };
        Error::unsupported(self.id.as_str(), point, format!("driver {:?} {what}", self.id.as_str())).cure(cure)
    }
}
