//! `[compute.policy."x"]`: the operator's rules about one extension. Whatever is unclear about who gets an extension is
//! refused: a rule that restricts nothing must be written as what it is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chiton_lifecycle::policy::{Activation, FailurePolicy, Match, Policy};
use chiton_model::{ExtensionName, WorkspaceName, label};

use super::error::{Origin, join, quote};
use super::reader::{Field, Notes, Section};
use super::shape::unknown_name;
use super::types::Catalog;

pub(super) fn policies(
    compute: &Section<'_>,
    chain: &[ExtensionName],
    catalog: &dyn Catalog,
    notes: &mut Notes,
) -> BTreeMap<ExtensionName, Policy> {
    let known = catalog.extensions();
    let mut policies = BTreeMap::new();
    for (text, field) in compute.section("policy").fields() {
        let section = field.section();
        let policy = policy(text, &section, chain, &known, notes);
        let name = match ExtensionName::new(text) {
            Ok(name) if policy.abandon || known.iter().any(|known| known == text) => name,
            Ok(_) => {
                let (message, cure) = unknown_name("extension", text, &known);
                let cure = format!("{cure}; if it was removed for good, set abandon = true");
                notes.wrong(field.origin(), &field.path, message, cure);
                continue;
            }
            Err(error) => {
                notes.wrong(
                    field.origin(),
                    &field.path,
                    format!("{} is not an extension name", quote(text)),
                    error.cure.unwrap_or_default(),
                );
                continue;
            }
        };
        policies.insert(name, policy);
    }
    policies
}

fn policy(
    extension: &str,
    section: &Section<'_>,
    chain: &[ExtensionName],
    known: &[String],
    notes: &mut Notes,
) -> Policy {
    let default = Policy::default();
    Policy {
        activation: activation(section, notes),
        failure: section.choice(
            notes,
            "failure",
            &[
                ("required", FailurePolicy::Required),
                ("optional", FailurePolicy::Optional),
                ("observe", FailurePolicy::Observe),
            ],
        ),
        deadline: section.duration(notes, "deadline", default.deadline, Duration::from_millis(1)),
        authoritative: section.choice(notes, "reconcile", &[("advisory", false), ("authoritative", true)]),
        abandon: abandon(section, notes),
        concurrency: concurrency(section, notes),
        overrides: overrides(extension, section, chain, known, notes),
    }
}

fn activation(section: &Section<'_>, notes: &mut Notes) -> Activation {
    #[derive(Clone, Copy, PartialEq)]
    enum Word {
        Always,
        OnRequest,
        Match,
    }
    let errors = notes.errors.len();
    let word = section.choice(
        notes,
        "activation",
        &[("always", Word::Always), ("on-request", Word::OnRequest), ("match", Word::Match)],
    );
    let word_is_sound = notes.errors.len() == errors && section.field("activation").is_none_or(|field| !field.is_bad());
    let mut rules = ["match", "allow"].map(|name| section.field(name).map(|field| (rule(&field, true, notes), field)));
    if !word_is_sound {
        return Activation::Always;
    }
    let [matches, allows] = &mut rules;
    for (rule, wanted, name, cure) in [
        (&*matches, Word::Match, "match", "write activation = \"match\", or remove it"),
        (&*allows, Word::OnRequest, "allow", "write activation = \"on-request\", or remove it"),
    ] {
        if let Some((_, field)) = rule
            && word != wanted
        {
            notes.wrong(field.origin(), &field.path, format!("{name:?} does nothing with this activation"), cure);
        }
    }
    let place = section.field("activation").map_or(Origin::Default, |field| field.origin().clone());
    let mut needed = |rule: &mut Option<(Match, Field<'_>)>, name: &str, cure: &str| {
        if let Some((rule, _)) = rule.take() {
            return rule;
        }
        notes.wrong(&place, &join(&section.path, name), format!("activation needs a table {name:?}"), cure);
        Match::default()
    };
    match word {
        Word::Always => Activation::Always,
        Word::Match => Activation::Match(needed(
            matches,
            "match",
            "say for whom, for example match = { workspaces = [\"default\"] }",
        )),
        Word::OnRequest => Activation::OnRequest(needed(
            allows,
            "allow",
            "say who may ask, for example allow = { workspaces = [\"default\"] }",
        )),
    }
}

/// A table of workspaces, principals and labels that restricts something.
pub(super) fn rule(field: &Field<'_>, with_labels: bool, notes: &mut Notes) -> Match {
    let section = field.section();
    if field.is_bad() {
        return Match::default();
    }
    let names = |name: &str, notes: &mut Notes, check: &dyn Fn(&str) -> Result<(), String>| {
        let Some(list) = section.field(name) else { return BTreeSet::new() };
        if list.items().is_empty() && !list.is_bad() {
            notes.wrong(
                list.origin(),
                &list.path,
                "an empty list restricts nothing",
                "name at least one, or remove it",
            );
        }
        let mut names = BTreeSet::new();
        for (item, text) in list.texts() {
            if let Err(message) = check(text) {
                notes.wrong(item.origin(), &item.path, message, "correct the name");
            } else if !names.insert(text.to_owned()) {
                notes.wrong(
                    item.origin(),
                    &item.path,
                    format!("{} is listed twice", quote(text)),
                    "remove one of them",
                );
            }
        }
        notes.show(list.origin(), &list.path, format!("{:?}", names.iter().collect::<Vec<_>>()));
        names
    };
    let workspaces =
        names("workspaces", notes, &|text| WorkspaceName::new(text).map(drop).map_err(|error| error.message));
    let principals = names("principals", notes, &|text| {
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err(format!("{} is not a principal's subject", quote(text)));
        }
        Ok(())
    });
    let labels = if with_labels { labels(&section, notes) } else { BTreeMap::new() };
    if field.node.entries().is_some_and(BTreeMap::is_empty) {
        let (kinds, example) = if with_labels {
            ("workspaces, principals or labels", "{ workspaces = [\"default\"] }")
        } else {
            ("workspaces or principals", "{ workspaces = [\"default\"] }")
        };
        notes.wrong(
            field.origin(),
            &field.path,
            "an empty table would mean everybody",
            format!("say who: {kinds}, for example {example}"),
        );
    }
    Match { workspaces, principals, labels }
}

fn labels(section: &Section<'_>, notes: &mut Notes) -> BTreeMap<String, String> {
    let Some(table) = section.field("labels") else { return BTreeMap::new() };
    if table.node.entries().is_some_and(BTreeMap::is_empty) {
        notes.wrong(
            table.origin(),
            &table.path,
            "an empty table restricts nothing",
            "name at least one label, or remove it",
        );
    }
    let mut labels = BTreeMap::new();
    for (key, field) in table.section().fields() {
        let Some(value) = field.text() else { continue };
        let one = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        match label::check_request_labels("labels", &one) {
            Ok(()) => {
                notes.show(field.origin(), &field.path, format!("{value:?}"));
                labels.extend(one);
            }
            Err(error) if label::is_reserved(key) => notes.wrong(
                field.origin(),
                &field.path,
                error.message,
                "no request carries such a label: choose a key without a reserved prefix",
            ),
            Err(error) => notes.wrong(field.origin(), &field.path, error.message, error.cure.unwrap_or_default()),
        }
    }
    labels
}

fn abandon(section: &Section<'_>, notes: &mut Notes) -> bool {
    let Some(field) = section.field("abandon") else {
        notes.show(&Origin::Default, &join(&section.path, "abandon"), "false");
        return false;
    };
    let Some(flag) = field.flag() else { return false };
    notes.show(field.origin(), &field.path, flag.to_string());
    flag
}

fn concurrency(section: &Section<'_>, notes: &mut Notes) -> Option<u32> {
    let Some(field) = section.field("concurrency") else {
        notes.show(&Origin::Default, &join(&section.path, "concurrency"), "(what the extension declares)");
        return None;
    };
    let number = field.integer()?;
    match u32::try_from(number) {
        Ok(number) if number > 0 => {
            notes.show(field.origin(), &field.path, number.to_string());
            Some(number)
        }
        _ => {
            notes.wrong(
                field.origin(),
                &field.path,
                format!("{number} hooks at once are not possible"),
                format!("write a number from 1 to {}", u32::MAX),
            );
            None
        }
    }
}

/// Each names an extension that writes earlier, and a JSON pointer (RFC 6901) into the plan.
fn overrides(
    extension: &str,
    section: &Section<'_>,
    chain: &[ExtensionName],
    known: &[String],
    notes: &mut Notes,
) -> Vec<(ExtensionName, String)> {
    let Some(field) = section.field("overrides") else {
        notes.show(&Origin::Default, &join(&section.path, "overrides"), "[]");
        return Vec::new();
    };
    let position = |name: &str| chain.iter().position(|listed| listed.as_str() == name);
    let mut overrides = Vec::new();
    for (item, text) in field.texts() {
        let (origin, key) = (item.origin(), item.path.as_str());
        let parts = text.split_once(':').filter(|(_, pointer)| is_pointer(pointer));
        let Some((name, pointer)) = parts else {
            let message = format!("{} is not extension:/pointer", quote(text));
            notes.wrong(origin, key, message, "write for example \"fleet-labels:/labels/fleet\"");
            continue;
        };
        let Some(earlier) = ExtensionName::new(name).ok().filter(|_| known.iter().any(|known| known == name)) else {
            let (message, cure) = unknown_name("extension", name, known);
            notes.wrong(origin, key, message, cure);
            continue;
        };
        if name == extension {
            notes.wrong(origin, key, "an extension may always replace its own writes", "remove it");
        } else if let (Some(own), Some(other)) = (position(extension), position(name))
            && other > own
        {
            let message = format!("extension {name:?} writes after {extension:?}: there is nothing to replace");
            notes.wrong(origin, key, message, "put it earlier in compute.extensions, or remove the override");
        } else if overrides.contains(&(earlier.clone(), pointer.to_owned())) {
            notes.wrong(origin, key, format!("{} is listed twice", quote(text)), "remove one of them");
        } else {
            overrides.push((earlier, pointer.to_owned()));
        }
    }
    let shown: Vec<String> = overrides.iter().map(|(name, pointer)| format!("{name}:{pointer}")).collect();
    notes.show(field.origin(), &field.path, format!("{shown:?}"));
    overrides
}

fn is_pointer(text: &str) -> bool {
    text.starts_with('/') && text.len() > 1 && text.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']))
}
