//! `[compute]`: which drivers run, and which extensions new sandboxes get.

use std::collections::BTreeMap;
use std::time::Duration;

use chiton_lifecycle::extension::ConfigIssue;
use chiton_lifecycle::policy::Policy;
use chiton_lifecycle::{EngineConfig, ExtensionConfig, Missing};
use chiton_model::ExtensionName;
use serde_json::{Value, json};

use super::drivers;
use super::error::{Origin, join};
use super::gateway::SHORTEST_INTERVAL;
use super::policy;
use super::processes::{WithProcesses, processes};
use super::reader::{Field, Notes, Section};
use super::shape::unknown_name;
use super::tree::{Node, Tree};
use super::types::{Catalog, ComputeConfig};

pub(super) fn compute(root: &Section<'_>, catalog: &dyn Catalog, notes: &mut Notes) -> Option<ComputeConfig> {
    let section = root.section("compute");
    let drivers = drivers::drivers(&section, catalog, notes);
    let missing = section.choice(notes, "missing", &[("refuse", Missing::Refuse), ("hold", Missing::Hold)]);
    let drain = section.duration(notes, "drain", Duration::from_mins(1), Duration::ZERO);
    let late_effects = section.duration(notes, "late_effects", EngineConfig::LATE_EFFECTS, SHORTEST_INTERVAL);
    let processes = processes(&section, catalog, notes);
    let catalog: &dyn Catalog = &WithProcesses { built_in: catalog, processes: &processes };
    let chain = chain(&section, catalog, notes);
    let documents = documents(&section, &chain, catalog, notes);
    let mut policies = policy::policies(&section, &chain_names(&chain), catalog, notes);
    let extensions = chain
        .into_iter()
        .map(|(name, _)| ExtensionConfig {
            document: documents.get(&name).cloned().unwrap_or_else(|| json!({})),
            policy: policies.remove(&name).unwrap_or_default(),
            name,
        })
        .collect();
    let other_policies: BTreeMap<ExtensionName, Policy> = policies;
    Some(ComputeConfig { drivers: drivers?, processes, extensions, other_policies, missing, drain, late_effects })
}

fn chain_names(chain: &[(ExtensionName, Origin)]) -> Vec<ExtensionName> {
    chain.iter().map(|(name, _)| name.clone()).collect()
}

/// Reports what another part found in its own table, each at the line that its pointer leads to.
pub(super) fn issues(field: &Field<'_>, found: Vec<ConfigIssue>, notes: &mut Notes) {
    for issue in found {
        let parts: Vec<String> =
            issue.pointer.split('/').skip(1).map(|part| part.replace("~1", "/").replace("~0", "~")).collect();
        let key = parts.iter().fold(field.path.clone(), |path, part| join(&path, part));
        notes.errors.push(super::ConfigError {
            origin: field.node.follow(&parts).origin.clone(),
            key,
            message: issue.message,
            cure: issue.cure,
        });
    }
}

/// A free table as JSON; says so when it holds what JSON cannot.
pub(super) fn document(field: &Field<'_>, notes: &mut Notes) -> Option<Value> {
    if let Some(document) = field.node.json() {
        return Some(document);
    }
    odd(field.node, &field.path, notes);
    None
}

fn odd(node: &Node, path: &str, notes: &mut Notes) {
    match &node.tree {
        Tree::Float(number) if !number.is_finite() => {
            notes.wrong(&node.origin, path, format!("{number} is not a finite number"), "write a finite number");
        }
        Tree::List(items) => {
            for (index, item) in items.iter().enumerate() {
                odd(item, &format!("{path}[{index}]"), notes);
            }
        }
        Tree::Table(entries) => {
            for (name, entry) in entries {
                odd(entry, &join(path, name), notes);
            }
        }
        _ => {}
    }
}

/// The listed extensions in order, each with the place where it is listed.
fn chain(section: &Section<'_>, catalog: &dyn Catalog, notes: &mut Notes) -> Vec<(ExtensionName, Origin)> {
    let Some(field) = section.field("extensions") else {
        notes.show(&Origin::Default, "compute.extensions", "[]");
        return Vec::new();
    };
    let known = catalog.extensions();
    let mut chain: Vec<(ExtensionName, Origin)> = Vec::new();
    for (item, text) in field.texts() {
        match ExtensionName::new(text) {
            Ok(name) if chain.iter().any(|(listed, _)| *listed == name) => {
                notes.wrong(
                    item.origin(),
                    &item.path,
                    format!("extension {text:?} is listed twice"),
                    "remove one of them",
                );
            }
            Ok(name) if known.iter().any(|known| known == text) => chain.push((name, item.origin().clone())),
            _ => {
                let (message, cure) = unknown_name("extension", text, &known);
                notes.wrong(item.origin(), &item.path, message, cure);
            }
        }
    }
    let shown: Vec<&str> = chain.iter().map(|(name, _)| name.as_str()).collect();
    notes.show(field.origin(), &field.path, format!("{shown:?}"));
    chain
}

/// The extensions' own tables, checked: all that are there, and an empty one for each listed extension without.
fn documents(
    section: &Section<'_>,
    chain: &[(ExtensionName, Origin)],
    catalog: &dyn Catalog,
    notes: &mut Notes,
) -> BTreeMap<ExtensionName, Value> {
    let tables = section.section("extension");
    let known = catalog.extensions();
    let mut documents = BTreeMap::new();
    for (text, field) in tables.fields() {
        let Some(name) = ExtensionName::new(text).ok().filter(|_| known.iter().any(|known| known == text)) else {
            let (message, cure) = unknown_name("extension", text, &known);
            notes.wrong(field.origin(), &field.path, message, cure);
            continue;
        };
        let Some(document) = document(&field, notes) else { continue };
        notes.show_tree(&field);
        issues(&field, catalog.check_extension(text, &document), notes);
        documents.insert(name, document);
    }
    for (name, origin) in chain {
        if tables.field(name.as_str()).is_none() {
            let empty = Node::table(origin.clone());
            let field = Field { path: join("compute.extension", name.as_str()), node: &empty };
            let mut found = catalog.check_extension(name.as_str(), &json!({}));
            for issue in &mut found {
                issue.cure = Some(format!("add a table [{}]", field.path));
            }
            issues(&field, found, notes);
        }
    }
    documents
}
