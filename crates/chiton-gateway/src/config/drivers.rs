//! `compute.drivers`, `compute.default_driver` and the drivers' tables. No look at the machine is taken here.

use std::collections::BTreeMap;

use chiton_model::{DriverId, nearest};
use serde_json::{Value, json};

use super::compute::{document, issues};
use super::error::{Origin, join, quote};
use super::external::{EXTERNAL_KIND, derived_id, is_external, prefixed};
use super::reader::{Field, Notes, Section};
use super::shape::unknown_name;
use super::tree::Node;
use super::types::{Catalog, DriverConfig, Drivers};

/// The drivers that the operator named, and where.
struct Listed {
    ids: Vec<(DriverId, Origin)>,
    at: Origin,
    key: &'static str,
}

/// What each id that has a sound table says.
type Tables = BTreeMap<String, Sound>;

struct Sound {
    kind: String,
    required: bool,
    options: Value,
}

impl Sound {
    fn config(self, id: DriverId) -> DriverConfig {
        DriverConfig { id, kind: self.kind, required: self.required, options: self.options }
    }
}

/// What a kind runs with that has no table.
fn bare(id: DriverId) -> DriverConfig {
    DriverConfig { kind: id.to_string(), id, required: false, options: json!({}) }
}

const LIST: &str = "compute.drivers";
const DEFAULT: &str = "compute.default_driver";

pub(super) fn drivers(section: &Section<'_>, catalog: &dyn Catalog, notes: &mut Notes) -> Option<Drivers> {
    let kinds = catalog.driver_kinds();
    let listed = listed(section, notes);
    // Also the tables of drivers that are not listed must be sound: the command line may have left them out.
    let mut tables = tables(section, &kinds, catalog, notes);
    let Some(listed) = listed else {
        notes.show(&Origin::Default, LIST, "(the first kind that can run)");
        notes.show(&Origin::Default, DEFAULT, "(the same)");
        // As if each had been listed alone; but without a table an external driver is nowhere.
        let candidate = |id: DriverId| match tables.remove(id.as_str()) {
            Some(sound) => Some(sound.config(id)),
            None => (id.as_str() != EXTERNAL_KIND).then(|| bare(id)),
        };
        let kinds = kinds.iter().filter_map(|kind| DriverId::new(kind.as_str()).ok());
        return Some(Drivers::Detect(kinds.filter_map(candidate).collect()));
    };
    let drivers = configs(section, &listed, &kinds, tables, catalog, notes);
    let default = default_driver(section, &listed, notes)?;
    Some(Drivers::Listed { drivers, default })
}

/// The drivers that somebody named; none when that was left to the gateway.
fn listed(section: &Section<'_>, notes: &mut Notes) -> Option<Listed> {
    let Some(field) = section.field("drivers") else {
        // Whoever names the default and nothing else has named one: it is what runs, and nothing is looked for.
        let field = section.field("default_driver")?;
        let at = field.origin().clone();
        let ids = field.text().and_then(|text| driver_id(section, &field, text, notes)).map(|id| (id, at.clone()));
        let ids: Vec<_> = ids.into_iter().collect();
        show(&field, LIST, &ids, notes);
        return Some(Listed { ids, at, key: DEFAULT });
    };
    let mut ids: Vec<(DriverId, Origin)> = Vec::new();
    for (item, text) in field.texts() {
        let Some(id) = driver_id(section, &item, text, notes) else { continue };
        if ids.iter().any(|(known, _)| *known == id) {
            let message = format!("driver {text:?} is listed twice");
            notes.wrong(item.origin(), &item.path, message, "remove one of them");
        } else {
            ids.push((id, item.origin().clone()));
        }
    }
    if field.items().is_empty() && !field.is_bad() {
        let cure = "name a driver, for example drivers = [\"oci\"]; without the key the first that can run is used";
        notes.wrong(field.origin(), &field.path, "the list is empty", cure);
    }
    show(&field, LIST, &ids, notes);
    Some(Listed { ids, at: field.origin().clone(), key: LIST })
}

fn show(field: &Field<'_>, key: &str, ids: &[(DriverId, Origin)], notes: &mut Notes) {
    let shown: Vec<&str> = ids.iter().map(|(id, _)| id.as_str()).collect();
    notes.show(field.origin(), key, format!("{shown:?}"));
}

fn driver_id(section: &Section<'_>, field: &Field<'_>, text: &str, notes: &mut Notes) -> Option<DriverId> {
    if let Some(path) = prefixed(text) {
        // In the list it would have become an id by now.
        let message = "an external driver is named by its id here";
        let cure = format!("list it in {LIST} and write its id, {:?}", derived_id(path));
        notes.wrong(field.origin(), &field.path, message, cure);
        return None;
    }
    if text.eq_ignore_ascii_case(EXTERNAL_KIND) && section.section("driver").field(EXTERNAL_KIND).is_none() {
        let message = "an external driver needs the path of its socket, and none is given";
        let cure = "write external:/run/NAME.sock, or a table [compute.driver.NAME] with socket and list NAME";
        notes.wrong(field.origin(), &field.path, message, cure);
        return None;
    }
    match DriverId::new(text) {
        Ok(id) => Some(id),
        Err(error) => {
            let message = format!("{} is not a driver id", quote(text));
            notes.wrong(field.origin(), &field.path, message, error.cure.unwrap_or_default());
            None
        }
    }
}

/// Checks the tables of all drivers.
fn tables(section: &Section<'_>, kinds: &[String], catalog: &dyn Catalog, notes: &mut Notes) -> Tables {
    let mut checked = Tables::new();
    for (id, field) in section.section("driver").fields() {
        let Some(mut options) = document(&field, notes) else { continue };
        notes.show_tree(&field);
        let kind = match take(&mut options, "kind") {
            None if is_external(id, field.node, kinds) => {
                notes.show(&Origin::Default, &join(&field.path, "kind"), format!("{EXTERNAL_KIND:?}"));
                EXTERNAL_KIND.to_owned()
            }
            None => id.to_owned(),
            Some(Value::String(kind)) => kind,
            Some(_) => {
                wrong_at(&field, "kind", "is not a string", "write a string in quotes", notes);
                continue;
            }
        };
        let required = match take(&mut options, "required") {
            None => false,
            Some(Value::Bool(required)) => required,
            Some(_) => {
                wrong_at(&field, "required", "is neither true nor false", "write true or false", notes);
                continue;
            }
        };
        if kinds.contains(&kind) {
            let found = catalog.check_driver(&kind, id, &options);
            issues(&field, found, notes);
            checked.insert(id.to_owned(), Sound { kind, required, options });
            continue;
        }
        let (message, cure) = unknown_name("driver kind", &kind, kinds);
        if field.node.at(&["kind"]).is_some() {
            wrong_at(&field, "kind", message, cure, notes);
        } else if kind == EXTERNAL_KIND {
            let message = "this is the table of an external driver, and this build has no such kind";
            notes.wrong(field.origin(), &field.path, message, "remove it, or run a build that has the kind external");
        } else {
            let cure = match nearest(&kind, kinds.iter().map(String::as_str)) {
                Some(_) => cure,
                None => format!("{cure}; a name of your own needs its kind, or the socket of an external driver"),
            };
            notes.wrong(field.origin(), &field.path, message, cure);
        }
    }
    checked
}

/// Takes a key that is the gateway's and not the driver's out of a driver's table.
fn take(options: &mut Value, key: &str) -> Option<Value> {
    options.as_object_mut().and_then(|table| table.remove(key))
}

fn wrong_at(field: &Field<'_>, key: &str, message: impl Into<String>, cure: impl Into<String>, notes: &mut Notes) {
    let origin = &field.node.follow(&[key.to_owned()]).origin;
    notes.wrong(origin, &join(&field.path, key), message, cure);
}

/// The configs of the listed drivers.
fn configs(
    section: &Section<'_>,
    listed: &Listed,
    kinds: &[String],
    mut checked: Tables,
    catalog: &dyn Catalog,
    notes: &mut Notes,
) -> Vec<DriverConfig> {
    let tables = section.section("driver");
    let mut drivers = Vec::new();
    for (id, origin) in &listed.ids {
        if let Some(sound) = checked.remove(id.as_str()) {
            drivers.push(sound.config(id.clone()));
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
            drivers.push(bare(id.clone()));
        } else {
            let (message, cure) = unknown_name("driver", id.as_str(), kinds);
            let cure = match nearest(id.as_str(), kinds.iter().map(String::as_str)) {
                Some(_) => cure,
                None => {
                    format!("{cure}; a name of your own needs a table [compute.driver.{id}] with its kind or socket")
                }
            };
            notes.wrong(origin, listed.key, message, cure);
        }
    }
    drivers
}

fn default_driver(section: &Section<'_>, listed: &Listed, notes: &mut Notes) -> Option<DriverId> {
    let ids = &listed.ids;
    if let Some(field) = section.field("default_driver") {
        let text = field.text()?;
        if let Some((id, _)) = ids.iter().find(|(id, _)| id.as_str() == text) {
            notes.show(field.origin(), DEFAULT, format!("{text:?}"));
            return Some(id.clone());
        }
        // A list from the command line or environment replaces the file's list and what the file said about it. A default
        // that stands alone was reported if it is none.
        if listed.at.rank() <= field.origin().rank() && listed.key == LIST {
            let known: Vec<&str> = ids.iter().map(|(id, _)| id.as_str()).collect();
            notes.wrong(
                field.origin(),
                DEFAULT,
                format!("driver {} is not in {LIST}", quote(text)),
                format!("add it there, or choose one of: {}", known.join(", ")),
            );
            return None;
        }
    }
    match ids.as_slice() {
        [] => None,
        [(id, _)] => {
            notes.show(&Origin::Default, DEFAULT, format!("{:?}", id.as_str()));
            Some(id.clone())
        }
        [(first, _), ..] => {
            notes.wrong(
                &listed.at,
                DEFAULT,
                "there are several drivers and no default",
                format!("write default_driver = \"{first}\", or another of them, or set CHITON_COMPUTE_DEFAULT_DRIVER"),
            );
            None
        }
    }
}
