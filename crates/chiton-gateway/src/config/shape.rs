//! The first look at the whole tree: no unknown key, no wrong type. What fails is marked, so that decoding meets only
//! values of the right shape and nothing is reported twice.

use chiton_model::nearest;

use super::error::{ConfigError, join, quote};
use super::keys::{self, Shape};
use super::tree::{Node, Tree};

/// Checks a table against the known keys below `pattern`; `path` is the same place with the operator's names.
pub(super) fn check(node: &mut Node, pattern: &str, path: &str, errors: &mut Vec<ConfigError>) {
    let Tree::Table(entries) = &mut node.tree else { return };
    for (name, entry) in entries.iter_mut() {
        let here = join(path, name);
        let known = keys::below(pattern).find(|(key, _)| *key == "*" || *key == name);
        let Some((key, shape)) = known else {
            errors.push(unknown(entry, pattern, &here, name));
            entry.tree = Tree::Bad;
            continue;
        };
        let before = errors.len();
        typed(entry, shape, &here, errors);
        if errors.len() == before && shape == Shape::Section {
            let pattern = if pattern.is_empty() { key.to_owned() } else { format!("{pattern}.{key}") };
            check(entry, &pattern, &here, errors);
        }
    }
}

fn unknown(node: &Node, pattern: &str, path: &str, name: &str) -> ConfigError {
    let known: Vec<&str> = keys::below(pattern).map(|(key, _)| key).collect();
    let cure = match (nearest(name, known.iter().copied()), keys::elsewhere(name)) {
        (Some(near), _) => format!("did you mean {near:?}?"),
        (None, Some(other)) => format!("did you mean {other}?"),
        (None, None) => format!("remove it; known here: {}", known.join(", ")),
    };
    ConfigError {
        origin: node.origin.clone(),
        key: path.to_owned(),
        message: "unknown key".to_owned(),
        cure: Some(cure),
    }
}

fn typed(node: &mut Node, shape: Shape, path: &str, errors: &mut Vec<ConfigError>) {
    let mut report = |node: &mut Node, path: String, expected: Shape| {
        // A value of the wrong type may be a secret in the wrong place: only its type is shown.
        errors.push(ConfigError {
            origin: node.origin.clone(),
            key: path,
            message: format!("is {}", node.tree.kind()),
            cure: Some(format!("write {}", expected.expected())),
        });
        node.tree = Tree::Bad;
    };
    match (shape, &mut node.tree) {
        (_, Tree::Bad)
        | (Shape::Text | Shape::Span, Tree::Text(_))
        | (Shape::Integer, Tree::Integer(_))
        | (Shape::Flag, Tree::Bool(_))
        | (Shape::Section | Shape::Free, Tree::Table(_)) => {}
        (Shape::Texts, Tree::List(items)) => {
            for (index, item) in items.iter_mut().enumerate() {
                if !matches!(item.tree, Tree::Text(_)) {
                    report(item, format!("{path}[{index}]"), Shape::Text);
                }
            }
        }
        (Shape::Integers, Tree::List(items)) => {
            for (index, item) in items.iter_mut().enumerate() {
                if !matches!(item.tree, Tree::Integer(_)) {
                    report(item, format!("{path}[{index}]"), Shape::Integer);
                }
            }
        }
        (Shape::TextTable, Tree::Table(entries)) => {
            for (name, entry) in entries.iter_mut() {
                if !matches!(entry.tree, Tree::Text(_)) {
                    report(entry, join(path, name), Shape::Text);
                }
            }
        }
        _ => report(node, path.to_owned(), shape),
    }
}

/// A name that is not among the known ones.
pub(super) fn unknown_name(what: &str, name: &str, known: &[String]) -> (String, String) {
    let cure = match nearest(name, known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {near:?}?"),
        None if known.is_empty() => format!("remove it; this build has no {what}"),
        None => format!("known: {}", known.join(", ")),
    };
    (format!("unknown {what} {}", quote(name)), cure)
}
