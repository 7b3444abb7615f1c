//! A plan on its way to seal: who wrote what so far.

use std::collections::BTreeMap;
use std::sync::Arc;

use chiton_driver::{ComputeDriver, DefaultPlan, Rule, marker, slots};
use chiton_model::spec::{DEEPEST, is_shallow};
use chiton_model::{Error, ExtensionName};
use serde_json::Value;

use super::diff::{Change, diff};
use super::rules::{Rules, below};
use super::sealed::{PlanView, PlanWrite, Slot, SlotOwner, Writer};
use crate::extension::Draft;

/// Collects writes.
pub(crate) struct PlanBuilder {
    pub(crate) driver: Arc<dyn ComputeDriver>,
    pub(crate) plan: Value,
    pub(crate) slots: BTreeMap<String, Slot>,
    pub(crate) owners: BTreeMap<String, Writer>,
    pub(crate) writes: Vec<(ExtensionName, Vec<PlanWrite>)>,
    pub(crate) notes: Vec<String>,
}

/// Says whose write an extension may replace at a path.
pub(crate) type Overrides<'a> = &'a dyn Fn(&ExtensionName, &str) -> bool;

impl PlanBuilder {
    pub(crate) fn new(driver: Arc<dyn ComputeDriver>, default: DefaultPlan) -> Self {
        let slots = default
            .slots
            .into_iter()
            .map(|(pointer, name)| {
                let owner = if name.starts_with(slots::SECRET_PREFIX) { SlotOwner::Secret } else { SlotOwner::Gateway };
                (pointer, Slot { name, owner, default: None })
            })
            .collect();
        let from_image = default.from_image.into_iter().map(|pointer| (pointer, Writer::Image));
        let from_request = default.from_request.into_iter().map(|pointer| (pointer, Writer::Request));
        // A pointer in both is the caller's: what the request says replaces what the image says.
        let owners = from_image.chain(from_request).collect();
        Self { driver, plan: default.plan, slots, owners, writes: Vec::new(), notes: Vec::new() }
    }

    /// A draft for an extension to write to.
    pub(crate) fn draft(&self, extension: &ExtensionName) -> Draft {
        Draft::new(self.plan.clone(), extension.clone(), Arc::clone(&self.driver))
    }

    /// The plan with its owners.
    pub(crate) fn view(&self) -> PlanView {
        PlanView { plan: self.plan.clone(), owners: self.owners.clone() }
    }

    /// Takes an extension's writes, or refuses them all.
    pub(crate) fn apply(
        &mut self,
        extension: &ExtensionName,
        draft: Draft,
        overrides: Overrides<'_>,
    ) -> Result<(), Error> {
        if !is_shallow(&draft.plan) {
            return Err(Error::refused(
                extension.as_str(),
                format!("extension {:?} nests the plan more than {DEEPEST} levels deep", extension.as_str()),
            )
            .cure("write the plan flatter"));
        }
        let driver = Arc::clone(&self.driver);
        let rules = Rules::new(driver.field_rules());
        let changes = diff(&self.plan, &draft.plan, &rules);
        let mut writes = Vec::with_capacity(changes.len());
        for change in &changes {
            let overridden = self.check(extension, change, &rules, overrides)?;
            writes.push(PlanWrite {
                path: change.path.clone(),
                before: change.before.clone(),
                after: change.after.clone(),
                overrides: overridden,
            });
        }
        let slots = place_slots(extension, &draft, &changes)?;
        for change in &changes {
            // What an override replaced is no longer anybody's: neither its owner entries nor its slots.
            self.owners.retain(|path, _| !below(path, &change.path));
            self.slots.retain(|pointer, _| !below(pointer, &change.place));
            self.owners.insert(change.path.clone(), Writer::Extension(extension.clone()));
        }
        self.slots.extend(slots);
        self.plan = draft.plan;
        if !writes.is_empty() {
            self.writes.push((extension.clone(), writes));
        }
        Ok(())
    }

    /// Checks one change against its rule and against earlier writers; names whom it overrides.
    fn check(
        &self,
        extension: &ExtensionName,
        change: &Change,
        rules: &Rules<'_>,
        overrides: Overrides<'_>,
    ) -> Result<Option<ExtensionName>, Error> {
        let path = &change.path;
        let refuse = |why: String| {
            Error::refused(
                extension.as_str(),
                format!("extension {:?} may not write {path}: {why}", extension.as_str()),
            )
        };
        if let Some(why) = &change.broken {
            return Err(refuse(why.clone()).cure("append with a key of its own"));
        }
        match rules.govern(path).map(|governed| governed.rule) {
            None | Some(Rule::Sealed) => {
                return Err(refuse("the field is sealed; only the driver and the gateway set it".to_owned())
                    .cure("write a field that the driver's field rules open (chiton drivers --json lists them)"));
            }
            Some(Rule::SetOnce | Rule::MergeMap | Rule::Append { .. }) => {}
        }
        if self
            .slots
            .iter()
            .any(|(pointer, slot)| below(pointer, &change.place) && !matches!(slot.owner, SlotOwner::Extension(_)))
        {
            return Err(refuse("the gateway fills it later".to_owned()));
        }
        let mut replaced = None;
        for (written, writer) in &self.owners {
            let Writer::Extension(earlier) = writer else { continue };
            if earlier == extension || !(below(path, written) || below(written, path)) {
                continue;
            }
            if !overrides(earlier, written) {
                return Err(Error::refused(
                    extension.as_str(),
                    format!("extensions {:?} and {:?} both write {path}", earlier.as_str(), extension.as_str()),
                )
                .cure(format!(
                    "take one of them off this sandbox, or let the later one win: [compute.policy.{:?}] overrides = [\"{earlier}:{written}\"]",
                    extension.as_str()
                )));
            }
            replaced = Some(earlier.clone());
        }
        Ok(replaced)
    }
}

/// Finds the strings in an extension's own changes that hold its slots' markers.
fn place_slots(extension: &ExtensionName, draft: &Draft, changes: &[Change]) -> Result<BTreeMap<String, Slot>, Error> {
    let mut placed = BTreeMap::new();
    for (name, default) in &draft.slots {
        let full = format!("{extension}.{name}");
        let text = marker(&full);
        let before = placed.len();
        for change in changes {
            if let Some(after) = &change.after {
                find(&change.place, after, &text, &mut |pointer| {
                    placed.insert(
                        pointer,
                        Slot {
                            name: full.clone(),
                            owner: SlotOwner::Extension(extension.clone()),
                            default: default.clone(),
                        },
                    );
                });
            }
        }
        if placed.len() == before {
            return Err(Error::refused(
                extension.as_str(),
                format!(
                    "extension {:?} declares slot {name:?} and puts it into no field that it owns",
                    extension.as_str()
                ),
            )
            .cure("put the text that draft.slot() gives into a whole string field, or do not declare the slot"));
        }
    }
    Ok(placed)
}

fn find(pointer: &str, value: &Value, text: &str, found: &mut impl FnMut(String)) {
    match value {
        Value::String(string) if string == text => found(pointer.to_owned()),
        Value::Array(elements) => {
            for (index, element) in elements.iter().enumerate() {
                find(&format!("{pointer}/{index}"), element, text, found);
            }
        }
        Value::Object(fields) => {
            for (key, field) in fields {
                find(&format!("{pointer}/{}", super::rules::escape(key)), field, text, found);
            }
        }
        _ => {}
    }
}
