//! The operator's rules about extensions: who gets them, what a failure means, how long they may take.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chiton_model::ExtensionName;
use serde::{Deserialize, Serialize};

/// Which requests a rule is about. An empty list does not restrict.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    /// Workspaces by name.
    pub workspaces: BTreeSet<String>,
    /// Principals by subject.
    pub principals: BTreeSet<String>,
    /// Labels that the request must carry.
    pub labels: BTreeMap<String, String>,
}

impl Match {
    /// Whether a request is meant.
    pub fn holds(&self, workspace: &str, principal: &str, labels: &BTreeMap<String, String>) -> bool {
        (self.workspaces.is_empty() || self.workspaces.contains(workspace))
            && (self.principals.is_empty() || self.principals.contains(principal))
            && self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}

/// When an extension is in a chain.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Activation {
    /// In every chain.
    #[default]
    Always,
    /// When a request asks for it and this holds.
    OnRequest(Match),
    /// When this holds.
    Match(Match),
}

impl Activation {
    /// The word that configs and stamps use.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::OnRequest(_) => "on-request",
            Self::Match(_) => "match",
        }
    }
}

/// What an extension's failure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailurePolicy {
    /// The operation fails.
    #[default]
    Required,
    /// A warning; its debts are tracked all the same.
    Optional,
    /// It only watches, on a copy; never an effect phase.
    Observe,
}

/// The operator's rules about one extension. Read live, so that an operator can always unstick things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// When it is in a chain.
    pub activation: Activation,
    /// What its failure means.
    pub failure: FailurePolicy,
    /// How long each of its hooks may take.
    pub deadline: Duration,
    /// Whether its reconcile may mend.
    pub authoritative: bool,
    /// Give up its cleanups when it is not compiled in any more: listed and audited, not retried.
    pub abandon: bool,
    /// How many of its hooks may run at once; absent means what it declares.
    pub concurrency: Option<u32>,
    /// Whose writes it may replace: extension and JSON pointer.
    pub overrides: Vec<(ExtensionName, String)>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            activation: Activation::Always,
            failure: FailurePolicy::Required,
            deadline: Duration::from_secs(30),
            authoritative: false,
            abandon: false,
            concurrency: None,
            overrides: Vec::new(),
        }
    }
}

impl Policy {
    /// Whether it may replace what `earlier` wrote at `path`.
    pub fn may_override(&self, earlier: &ExtensionName, path: &str) -> bool {
        self.overrides.iter().any(|(name, pointer)| name == earlier && pointer == path)
    }
}
