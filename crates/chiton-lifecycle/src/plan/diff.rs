//! What changed between two plans, in units that a field rule can speak about.

use chiton_driver::Rule;
use serde_json::{Map, Value};

use super::rules::{Rules, escape};

/// One changed field.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    /// The field; an element of a keyed list is named by its key.
    pub(crate) path: String,
    /// Where the value stands in the plan: the same as `path` but for list elements, which have an index.
    pub(crate) place: String,
    pub(crate) before: Option<Value>,
    pub(crate) after: Option<Value>,
    /// Set when the change breaks the list's rule: why.
    pub(crate) broken: Option<String>,
}

impl Change {
    fn new(path: String, before: Option<&Value>, after: Option<&Value>) -> Self {
        Self { place: path.clone(), path, before: before.cloned(), after: after.cloned(), broken: None }
    }
}

/// All changes, in path order. Objects are walked; a list with an append rule is compared element by element; any other
/// value is compared whole.
pub(crate) fn diff(before: &Value, after: &Value, rules: &Rules<'_>) -> Vec<Change> {
    let mut changes = Vec::new();
    walk(String::new(), Some(before), Some(after), rules, &mut changes);
    changes
}

fn walk(path: String, before: Option<&Value>, after: Option<&Value>, rules: &Rules<'_>, changes: &mut Vec<Change>) {
    if before == after {
        return;
    }
    let empty = Map::new();
    match (before, after) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => walk_object(&path, old, new, rules, changes),
        // A map that appears or goes is the sum of its keys, so that two writers of one new map do not collide.
        (None | Some(Value::Null), Some(Value::Object(new))) if !new.is_empty() => {
            walk_object(&path, &empty, new, rules, changes);
        }
        (Some(Value::Object(old)), None | Some(Value::Null)) if !old.is_empty() => {
            walk_object(&path, old, &empty, rules, changes);
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) => match rules.govern(&path) {
            Some(governed) if governed.anchor == path => match governed.rule {
                Rule::Append { key } => walk_list(&path, old, new, key.as_deref(), changes),
                _ => changes.push(Change::new(path, before, after)),
            },
            _ => changes.push(Change::new(path, before, after)),
        },
        _ => changes.push(Change::new(path, before, after)),
    }
}

fn walk_object(
    path: &str,
    old: &Map<String, Value>,
    new: &Map<String, Value>,
    rules: &Rules<'_>,
    changes: &mut Vec<Change>,
) {
    let mut keys: Vec<&String> = old.keys().chain(new.keys().filter(|key| !old.contains_key(*key))).collect();
    keys.sort();
    for key in keys {
        walk(format!("{path}/{}", escape(key)), old.get(key), new.get(key), rules, changes);
    }
}

fn walk_list(path: &str, old: &[Value], new: &[Value], key: Option<&str>, changes: &mut Vec<Change>) {
    let broken = |why: &str| {
        let mut change =
            Change::new(path.to_owned(), Some(&Value::Array(old.to_vec())), Some(&Value::Array(new.to_vec())));
        change.broken = Some(why.to_owned());
        change
    };
    let Some(key) = key else {
        if new.len() < old.len() || old != &new[..old.len()] {
            changes.push(broken("its old elements must stay, in order, at the front"));
            return;
        }
        for (index, element) in new.iter().enumerate().skip(old.len()) {
            changes.push(Change::new(format!("{path}/{index}"), None, Some(element)));
        }
        return;
    };
    let named = |element: &Value| element.get(key).and_then(Value::as_str).map(str::to_owned);
    let mut seen = std::collections::BTreeSet::new();
    for (index, element) in new.iter().enumerate() {
        let Some(name) = named(element) else {
            changes.push(broken(&format!("each element needs a string {key:?}")));
            return;
        };
        if !seen.insert(name.clone()) {
            changes.push(broken(&format!("two elements have {key} {name:?}")));
            return;
        }
        let before = old.iter().find(|candidate| named(candidate).as_deref() == Some(&name));
        if before != Some(element) {
            let mut change = Change::new(format!("{path}/{}", escape(&name)), before, Some(element));
            change.place = format!("{path}/{index}");
            changes.push(change);
        }
    }
    for element in old {
        if named(element).is_none_or(|name| !seen.contains(&name)) {
            changes.push(broken("an element was removed, and the list only takes additions"));
            return;
        }
    }
    // Slots are remembered by place: an element that moved would take another's slot with it.
    if old.iter().zip(new).any(|(old, new)| named(old) != named(new)) {
        changes.push(broken("its old elements must stay, in order, at the front"));
    }
}
