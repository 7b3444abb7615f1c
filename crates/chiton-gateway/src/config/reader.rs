//! Reading one value: every read notes the value and its origin, every failure is collected and decoding goes on.

use std::path::{Path, PathBuf};
use std::time::Duration;

use chiton_model::nearest;

use super::duration;
use super::error::{ConfigError, Origin, join, quote};
use super::tree::{Node, Tree};

/// A value as `config show --origin` prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The key's path.
    pub key: String,
    /// The value as TOML would write it. Secrets appear as references.
    pub value: String,
    /// Where it was set.
    pub origin: Origin,
}

/// What decoding collects.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) errors: Vec<ConfigError>,
    pub(super) shown: Vec<Shown>,
}

impl Notes {
    pub(super) fn wrong(&mut self, origin: &Origin, key: &str, message: impl Into<String>, cure: impl Into<String>) {
        self.errors.push(ConfigError {
            origin: origin.clone(),
            key: key.to_owned(),
            message: message.into(),
            cure: Some(cure.into()),
        });
    }

    pub(super) fn show(&mut self, origin: &Origin, key: &str, value: impl Into<String>) {
        self.shown.push(Shown { key: key.to_owned(), value: value.into(), origin: origin.clone() });
    }

    /// Notes every leaf below a node.
    pub(super) fn show_tree(&mut self, field: &Field<'_>) {
        match &field.node.tree {
            Tree::Table(entries) if !entries.is_empty() => {
                for (name, node) in entries {
                    self.show_tree(&Field { path: join(&field.path, name), node });
                }
            }
            _ => {
                let value = field.node.json().map(|value| value.to_string()).unwrap_or_default();
                self.show(&field.node.origin, &field.path, value);
            }
        }
    }
}

/// A value and its path.
#[derive(Clone, Debug)]
pub(super) struct Field<'a> {
    pub(super) path: String,
    pub(super) node: &'a Node,
}

impl<'a> Field<'a> {
    pub(super) fn origin(&self) -> &'a Origin {
        &self.node.origin
    }

    /// The text, unless it was reported as wrong.
    pub(super) fn text(&self) -> Option<&'a str> {
        match &self.node.tree {
            Tree::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn integer(&self) -> Option<i64> {
        match self.node.tree {
            Tree::Integer(number) => Some(number),
            _ => None,
        }
    }

    pub(super) fn flag(&self) -> Option<bool> {
        match self.node.tree {
            Tree::Bool(flag) => Some(flag),
            _ => None,
        }
    }

    /// The items, each with its index in its path.
    pub(super) fn items(&self) -> Vec<Field<'a>> {
        match &self.node.tree {
            Tree::List(items) => items
                .iter()
                .enumerate()
                .map(|(index, node)| Field { path: format!("{}[{index}]", self.path), node })
                .collect(),
            _ => Vec::new(),
        }
    }

    /// The items that are text.
    pub(super) fn texts(&self) -> Vec<(Field<'a>, &'a str)> {
        self.items().into_iter().filter_map(|item| item.text().map(|text| (item, text))).collect()
    }

    pub(super) fn section(&self) -> Section<'a> {
        Section { path: self.path.clone(), node: Some(self.node) }
    }

    /// Whether it was reported as wrong, itself or one of its items.
    pub(super) fn is_bad(&self) -> bool {
        match &self.node.tree {
            Tree::Bad => true,
            Tree::List(items) => items.iter().any(|item| matches!(item.tree, Tree::Bad)),
            _ => false,
        }
    }
}

/// A table that may be absent, and its path.
#[derive(Clone, Debug)]
pub(super) struct Section<'a> {
    pub(super) path: String,
    node: Option<&'a Node>,
}

impl<'a> Section<'a> {
    pub(super) fn root(node: &'a Node) -> Self {
        Self { path: String::new(), node: Some(node) }
    }

    pub(super) fn section(&self, name: &str) -> Section<'a> {
        Section { path: join(&self.path, name), node: self.node.and_then(|node| node.at(&[name])) }
    }

    pub(super) fn field(&self, name: &str) -> Option<Field<'a>> {
        Some(Field { path: join(&self.path, name), node: self.node?.at(&[name])? })
    }

    /// All its entries that can be used, by name.
    pub(super) fn fields(&self) -> Vec<(&'a str, Field<'a>)> {
        let entries = self.node.and_then(Node::entries).into_iter().flatten();
        entries
            .filter(|(_, node)| !matches!(node.tree, Tree::Bad))
            .map(|(name, node)| (name.as_str(), Field { path: join(&self.path, name), node }))
            .collect()
    }

    /// One of a few words; the first is the default.
    pub(super) fn choice<T: Copy>(&self, notes: &mut Notes, name: &str, choices: &[(&'static str, T)]) -> T {
        let (default_word, default) = choices[0];
        let Some(field) = self.field(name) else {
            notes.show(&Origin::Default, &join(&self.path, name), format!("{default_word:?}"));
            return default;
        };
        let Some(text) = field.text() else { return default };
        if let Some((word, value)) = choices.iter().find(|(word, _)| *word == text) {
            notes.show(field.origin(), &field.path, format!("{word:?}"));
            return *value;
        }
        let cure = match nearest(text, choices.iter().map(|(word, _)| *word)) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!(
                "write one of {}",
                choices.iter().map(|(word, _)| format!("{word:?}")).collect::<Vec<_>>().join(", ")
            ),
        };
        notes.wrong(field.origin(), &field.path, format!("unknown value {}", quote(text)), cure);
        default
    }

    /// A duration of at least `least`.
    pub(super) fn duration(&self, notes: &mut Notes, name: &str, default: Duration, least: Duration) -> Duration {
        let Some(field) = self.field(name) else {
            notes.show(&Origin::Default, &join(&self.path, name), format!("{:?}", duration::format(default)));
            return default;
        };
        let Some(text) = field.text() else { return default };
        match duration::parse(text) {
            Ok(value) if value >= least => {
                notes.show(field.origin(), &field.path, format!("{text:?}"));
                value
            }
            Ok(_) => {
                let least = duration::format(least);
                notes.wrong(
                    field.origin(),
                    &field.path,
                    format!("duration {} is too short", quote(text)),
                    format!("write at least {least:?}"),
                );
                default
            }
            Err(error) => {
                notes.wrong(
                    field.origin(),
                    &field.path,
                    format!("duration {} is not valid: {error}", quote(text)),
                    format!("write a number and a unit, for example {:?}", duration::format(default)),
                );
                default
            }
        }
    }
}

/// A path that must be absolute; one from the command line is taken relative to the working folder.
pub(super) fn path(notes: &mut Notes, field: &Field<'_>, text: &str, cwd: &Path) -> Option<PathBuf> {
    let given = Path::new(text);
    let why = if text.is_empty() {
        "the path is empty"
    } else if text.contains('\0') {
        "the path contains a NUL byte"
    } else if given.is_absolute() {
        return Some(given.to_owned());
    } else if matches!(field.origin(), Origin::Flag(_)) {
        return Some(cwd.join(given));
    } else {
        "the path is relative"
    };
    notes.wrong(field.origin(), &field.path, why, "write an absolute path, beginning with \"/\"");
    None
}
