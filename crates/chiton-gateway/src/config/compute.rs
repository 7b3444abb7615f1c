//! `[compute]`: which drivers run, and which extensions new sandboxes get.

use std::collections::BTreeMap;
use std::time::Duration;

use chiton_lifecycle::extension::ConfigIssue;
use chiton_lifecycle::policy::Policy;
use chiton_lifecycle::{ExtensionConfig, Missing};
use chiton_model::{DriverId, ExtensionName, nearest};
use serde_json::{Value, json};

use super::error::{Origin, join, quote};
use super::policy;
use super::reader::{Field, Notes, Section};
use super::shape::unknown_name;
use super::tree::{Node, Tree};
use super::types::{Catalog, ComputeConfig, DriverConfig};

/// The driver of a gateway that was told none.
const EMBEDDED: &str = "oci";

pub(super) fn compute(root: &Section<'_>, catalog: &dyn Catalog, notes: &mut Notes) -> Option<ComputeConfig> {
    let section = root.section("compute");
    let (ids, listed_at) = driver_ids(&section, notes);
    let drivers = drivers(&section, &ids, catalog, notes);
    let default_driver = default_driver(&section, &ids, &listed_at, notes);
    let missing = section.choice(notes, "missing", &[("refuse", Missing::Refuse), ("hold", Missing::Hold)]);
    let drain = section.duration(notes, "drain", Duration::from_mins(1), Duration::ZERO);
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
    Some(ComputeConfig { drivers, default_driver: default_driver?, extensions, other_policies, missing, drain })
}

fn chain_names(chain: &[(ExtensionName, Origin)]) -> Vec<ExtensionName> {
    chain.iter().map(|(name, _)| name.clone()).collect()
}

/// Reports what another part found in its own table, each at the line that its pointer leads to.
fn issues(field: &Field<'_>, found: Vec<ConfigIssue>, notes: &mut Notes) {
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

/// A free table as JSON, without `kind`; says so when it holds what JSON cannot.
fn document(field: &Field<'_>, notes: &mut Notes) -> Option<Value> {
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

fn driver_ids(section: &Section<'_>, notes: &mut Notes) -> (Vec<(DriverId, Origin)>, Origin) {
    let Some(field) = section.field("drivers") else {
        notes.show(&Origin::Default, "compute.drivers", format!("[{EMBEDDED:?}]"));
        let id = DriverId::new(EMBEDDED).map(|id| (id, Origin::Default));
        return (id.into_iter().collect(), Origin::Default);
    };
    let mut ids: Vec<(DriverId, Origin)> = Vec::new();
    for (item, text) in field.texts() {
        if text == "external" || text.starts_with("external:") {
            notes.wrong(
                item.origin(),
                &item.path,
                "external drivers are not supported in this version",
                "name a driver that is built in",
            );
            continue;
        }
        match DriverId::new(text) {
            Ok(id) if ids.iter().any(|(known, _)| *known == id) => {
                notes.wrong(
                    item.origin(),
                    &item.path,
                    format!("driver {text:?} is listed twice"),
                    "remove one of them",
                );
            }
            Ok(id) => ids.push((id, item.origin().clone())),
            Err(error) => notes.wrong(
                item.origin(),
                &item.path,
                format!("{} is not a driver id", quote(text)),
                error.cure.unwrap_or_default(),
            ),
        }
    }
    if field.items().is_empty() && !field.is_bad() {
        notes.wrong(field.origin(), &field.path, "the list is empty", "name a driver, for example drivers = [\"oci\"]");
    }
    let shown: Vec<&str> = ids.iter().map(|(id, _)| id.as_str()).collect();
    notes.show(field.origin(), &field.path, format!("{shown:?}"));
    (ids, field.origin().clone())
}

/// Checks the tables of all drivers, also of those that the command line left out, and makes the configs of the listed.
fn drivers(
    section: &Section<'_>,
    ids: &[(DriverId, Origin)],
    catalog: &dyn Catalog,
    notes: &mut Notes,
) -> Vec<DriverConfig> {
    let tables = section.section("driver");
    let kinds = catalog.driver_kinds();
    let mut checked: BTreeMap<&str, (String, Value)> = BTreeMap::new();
    for (id, field) in tables.fields() {
        let Some(mut options) = document(&field, notes) else { continue };
        notes.show_tree(&field);
        let kind = match options.as_object_mut().and_then(|table| table.remove("kind")) {
            None => id.to_owned(),
            Some(Value::String(kind)) => kind,
            Some(_) => {
                let origin = &field.node.follow(&["kind".to_owned()]).origin;
                notes.wrong(origin, &join(&field.path, "kind"), "is not a string", "write a string in quotes");
                continue;
            }
        };
        if kinds.contains(&kind) {
            let found = catalog.check_driver(&kind, id, &options);
            issues(&field, found, notes);
            checked.insert(id, (kind, options));
        } else {
            let (message, cure) = unknown_name("driver kind", &kind, &kinds);
            let kind = field.node.at(&["kind"]);
            let (origin, key) =
                kind.map_or((field.origin(), field.path.clone()), |kind| (&kind.origin, join(&field.path, "kind")));
            notes.wrong(origin, &key, message, cure);
        }
    }
    let mut drivers = Vec::new();
    for (id, origin) in ids {
        if let Some((kind, options)) = checked.remove(id.as_str()) {
            drivers.push(DriverConfig { id: id.clone(), kind, options });
        } else if tables.field(id.as_str()).is_some() {
            // Its table is wrong and was reported.
        } else if kinds.iter().any(|kind| kind == id.as_str()) {
            let empty = Node::table(origin.clone());
            let field = Field { path: join("compute.driver", id.as_str()), node: &empty };
            let mut found = catalog.check_driver(id.as_str(), id.as_str(), &json!({}));
            for issue in &mut found {
                issue.cure = Some(format!("add a table [{}]", field.path));
            }
            issues(&field, found, notes);
            drivers.push(DriverConfig { id: id.clone(), kind: id.to_string(), options: json!({}) });
        } else {
            let (message, cure) = unknown_name("driver", id.as_str(), &kinds);
            let cure = match nearest(id.as_str(), kinds.iter().map(String::as_str)) {
                Some(_) => cure,
                None => format!("{cure}; a name of your own needs a table [compute.driver.{id}] with its kind"),
            };
            notes.wrong(origin, "compute.drivers", message, cure);
        }
    }
    drivers
}

fn default_driver(
    section: &Section<'_>,
    ids: &[(DriverId, Origin)],
    listed_at: &Origin,
    notes: &mut Notes,
) -> Option<DriverId> {
    let key = "compute.default_driver";
    if let Some(field) = section.field("default_driver") {
        let text = field.text()?;
        if let Some((id, _)) = ids.iter().find(|(id, _)| id.as_str() == text) {
            notes.show(field.origin(), key, format!("{text:?}"));
            return Some(id.clone());
        }
        // A list from the command line or environment replaces the file's list and what the file said about it.
        if listed_at.rank() <= field.origin().rank() {
            let known: Vec<&str> = ids.iter().map(|(id, _)| id.as_str()).collect();
            notes.wrong(
                field.origin(),
                key,
                format!("driver {} is not in compute.drivers", quote(text)),
                format!("add it there, or choose one of: {}", known.join(", ")),
            );
            return None;
        }
    }
    match ids {
        [] => None,
        [(id, _)] => {
            notes.show(&Origin::Default, key, format!("{:?}", id.as_str()));
            Some(id.clone())
        }
        [(first, _), ..] => {
            notes.wrong(
                listed_at,
                key,
                "there are several drivers and no default",
                format!("write default_driver = \"{first}\", or another of them, or set CHITON_COMPUTE_DEFAULT_DRIVER"),
            );
            None
        }
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
