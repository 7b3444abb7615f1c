//! Labels from the operator's config on every sandbox, on every driver that has labels.
//!
//! A fleet's tools find objects by label. Which labels those are is the operator's business, not the caller's: so they
//! come from the config, they are written into the plan like any other value, and `chiton explain` shows who set them. A
//! request that sets the same key to another value is overruled; another extension that does is a conflict.
//!
//! The extension has no effects of its own, so it owes no cleanup.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

use std::collections::BTreeMap;

use async_trait::async_trait;
use chiton_driver::Point;
use chiton_lifecycle::extension::{
    ConfigIssue, Descriptor, Draft, Extension, ExtensionKind, RequestContext, StepResult,
};
use chiton_model::{Error, Phase, label};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The config: `[compute.extension."fleet-labels"]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The labels: Kubernetes label syntax, no reserved prefix.
    pub labels: BTreeMap<String, String>,
}

/// The extension.
#[derive(Debug)]
pub struct FleetLabels {
    config: Config,
}

/// What a distribution registers.
///
/// # Errors
/// None in practice: the name is a constant of the right form.
pub fn extension() -> Result<ExtensionKind, Error> {
    let version = env!("CARGO_PKG_VERSION");
    let summary = "Puts the operator's labels on every sandbox";
    let mut descriptor = Descriptor::new("fleet-labels", version, summary, [Phase::PreparePlan])?;
    descriptor.needs.points.insert(Point::Label);
    descriptor.local_effects = true;
    Ok(ExtensionKind::new(descriptor, check, |config| Ok(FleetLabels { config })))
}

fn check(config: &Config) -> Vec<ConfigIssue> {
    let issue = |key: &str, message: String, cure: Option<String>| ConfigIssue {
        pointer: format!("/labels/{}", key.replace('~', "~0").replace('/', "~1")),
        message,
        cure,
    };
    let mut issues = Vec::new();
    if config.labels.is_empty() {
        let cure = Some("name at least one label, or take the extension off the list".to_owned());
        issues.push(ConfigIssue {
            pointer: "/labels".to_owned(),
            message: "there are no labels to set".to_owned(),
            cure,
        });
    }
    for (key, value) in &config.labels {
        let one = BTreeMap::from([(key.clone(), value.clone())]);
        if let Err(error) = label::check_request_labels("labels", &one) {
            issues.push(issue(key, error.message, error.cure));
        }
    }
    issues
}

#[async_trait]
impl Extension for FleetLabels {
    async fn prepare_plan(&self, _cx: &RequestContext, draft: &mut Draft) -> StepResult {
        for (key, value) in &self.config.labels {
            draft.portable().label(key, value)?;
        }
        Ok(())
    }
}
