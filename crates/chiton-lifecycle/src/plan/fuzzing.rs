//! What the fuzz targets call of plans.

use std::sync::Arc;

use chiton_driver::{ComputeDriver, DefaultPlan, FieldRule, Rule};
use chiton_model::{Error, ExtensionName};
use serde_json::Value;

use super::diff::diff;
use super::rules::{Rules, below};
use super::{PlanBuilder, PlanView, SealedPlan};
use crate::journal::FrozenChain;

/// One changed field.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The field; an element of a keyed list is named by its key.
    pub path: String,
    /// Where the value stands.
    pub place: String,
    /// What stood there.
    pub before: Option<Value>,
    /// What stands there now.
    pub after: Option<Value>,
    /// Why it breaks its list's rule, if it does.
    pub broken: Option<String>,
}

/// What changed between two documents.
pub fn differences(before: &Value, after: &Value, rules: &[FieldRule]) -> Vec<Difference> {
    diff(before, after, &Rules::new(rules))
        .into_iter()
        .map(|change| Difference {
            path: change.path,
            place: change.place,
            before: change.before,
            after: change.after,
            broken: change.broken,
        })
        .collect()
}

/// The rule that governs a path, and the prefix of the path at which it is anchored.
pub fn govern(rules: &[FieldRule], pointer: &str) -> Option<(Rule, String)> {
    Rules::new(rules).govern(pointer).map(|governed| (governed.rule.clone(), governed.anchor))
}

/// Whether `path` is `ancestor` or below it.
pub fn is_below(path: &str, ancestor: &str) -> bool {
    below(path, ancestor)
}

/// A plan that extensions write to.
pub struct Writing(PlanBuilder);

impl Writing {
    /// Begins with a driver's plan.
    pub fn new(driver: Arc<dyn ComputeDriver>, default: DefaultPlan) -> Self {
        Self(PlanBuilder::new(driver, default))
    }

    /// Takes what an extension made of the plan, or refuses it. `slots` are those that it declares.
    pub fn write(
        &mut self,
        who: &ExtensionName,
        after: Value,
        slots: &[(String, Option<String>)],
        overrides: bool,
    ) -> Result<(), Error> {
        let mut draft = self.0.draft(who);
        draft.plan = after;
        draft.slots.extend(slots.iter().cloned());
        self.0.apply(who, draft, &|_, _| overrides)
    }

    /// The plan with its owners.
    pub fn view(&self) -> PlanView {
        self.0.view()
    }

    /// Ends the writing.
    pub fn seal(self, chain: &FrozenChain) -> Result<SealedPlan, Error> {
        self.0.seal(chain)
    }
}
