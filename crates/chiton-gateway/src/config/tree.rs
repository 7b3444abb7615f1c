//! The configuration as a tree whose every value knows where it was set: the file's, with environment and flags laid
//! over it. Later stages do not care which of them a value came from, and can still say so.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Number, Value};
use toml_edit::{Document, Item, Table, TableLike};

use super::error::{ConfigError, Origin};

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) origin: Origin,
    pub(super) tree: Tree,
}

/// A value.
#[derive(Clone, Debug)]
pub(super) enum Tree {
    Text(String),
    Integer(i64),
    Float(f64),
    Bool(bool),
    /// A date or time, as written.
    Moment(String),
    List(Vec<Node>),
    Table(BTreeMap<String, Node>),
    /// Present but wrong, and reported as such: whoever reads it must not report it again.
    Bad,
}

impl Tree {
    /// What it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Bool(_) => "a boolean",
            Self::Moment(_) => "a date or time",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Bad => "not usable",
        }
    }
}

impl Node {
    /// An empty table of that origin.
    pub(super) fn table(origin: Origin) -> Self {
        Self { origin, tree: Tree::Table(BTreeMap::new()) }
    }

    /// The value below a path of keys.
    pub(super) fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |node, key| node.entries()?.get(*key))
    }

    /// The entries, if it is a table.
    pub(super) fn entries(&self) -> Option<&BTreeMap<String, Self>> {
        match &self.tree {
            Tree::Table(entries) => Some(entries),
            _ => None,
        }
    }

    /// Lays a value over whatever is at the path.
    pub(super) fn set(&mut self, path: &[&str], value: Self) {
        let Some((key, rest)) = path.split_first() else {
            *self = value;
            return;
        };
        if !matches!(self.tree, Tree::Table(_)) {
            self.tree = Tree::Table(BTreeMap::new());
        }
        if let Tree::Table(entries) = &mut self.tree {
            let origin = value.origin.clone();
            entries.entry((*key).to_owned()).or_insert_with(|| Self::table(origin)).set(rest, value);
        }
    }

    /// The deepest value that a JSON pointer leads to, and how many of its parts lead there.
    pub(super) fn follow<'a>(&'a self, parts: &[String]) -> &'a Self {
        let mut node = self;
        for part in parts {
            let next = match &node.tree {
                Tree::Table(entries) => entries.get(part),
                Tree::List(items) => part.parse::<usize>().ok().and_then(|index| items.get(index)),
                _ => None,
            };
            let Some(next) = next else { break };
            node = next;
        }
        node
    }

    /// As JSON; `None` where a value is one that JSON does not have (not a number, infinity).
    pub(super) fn json(&self) -> Option<Value> {
        Some(match &self.tree {
            Tree::Text(text) | Tree::Moment(text) => Value::String(text.clone()),
            Tree::Integer(number) => Value::Number((*number).into()),
            Tree::Float(number) => Value::Number(Number::from_f64(*number)?),
            Tree::Bool(flag) => Value::Bool(*flag),
            Tree::List(items) => Value::Array(items.iter().map(Self::json).collect::<Option<_>>()?),
            Tree::Table(entries) => Value::Object(
                entries.iter().map(|(key, node)| Some((key.clone(), node.json()?))).collect::<Option<_>>()?,
            ),
            Tree::Bad => return None,
        })
    }
}

/// Reads TOML; the tree's root is a table.
pub(super) fn parse(path: &Path, text: &str) -> Result<Node, ConfigError> {
    let places = Places::new(path, text);
    match Document::parse(text) {
        Ok(document) => {
            let origin = Origin::File { path: path.to_owned(), line: None };
            Ok(Node { tree: places.table(document.as_table(), &origin), origin })
        }
        Err(error) => Err(ConfigError {
            origin: places.at(error.span().map_or(0, |span| span.start)),
            key: String::new(),
            // The message alone: the library's own display repeats the line, which may hold what must not be shown.
            message: format!("not valid TOML: {}", error.message().replace('\n', ", ")),
            cure: None,
        }),
    }
}

struct Places {
    path: PathBuf,
    /// Byte offsets at which lines begin.
    starts: Vec<usize>,
}

impl Places {
    fn new(path: &Path, text: &str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(index, _)| index + 1)).collect();
        Self { path: path.to_owned(), starts }
    }

    fn at(&self, offset: usize) -> Origin {
        let line = self.starts.partition_point(|start| *start <= offset);
        Origin::File { path: self.path.clone(), line: Some(line) }
    }

    fn item(&self, item: &Item, key: Origin) -> Node {
        let tree = match item {
            Item::None => Tree::Bad,
            Item::Value(value) => return self.value(value, key),
            Item::Table(table) => self.table(table, &key),
            Item::ArrayOfTables(tables) => {
                Tree::List(tables.iter().map(|table| self.list_table(table, &key)).collect())
            }
        };
        Node { origin: key, tree }
    }

    fn list_table(&self, table: &Table, outer: &Origin) -> Node {
        let origin = table.span().map_or_else(|| outer.clone(), |span| self.at(span.start));
        Node { tree: self.table(table, &origin), origin }
    }

    fn value(&self, value: &toml_edit::Value, origin: Origin) -> Node {
        use toml_edit::Value;
        let tree = match value {
            Value::String(text) => Tree::Text(text.value().clone()),
            Value::Integer(number) => Tree::Integer(*number.value()),
            Value::Float(number) => Tree::Float(*number.value()),
            Value::Boolean(flag) => Tree::Bool(*flag.value()),
            Value::Datetime(moment) => Tree::Moment(moment.value().to_string()),
            Value::Array(items) => Tree::List(
                items
                    .iter()
                    .map(|item| {
                        self.value(item, item.span().map_or_else(|| origin.clone(), |span| self.at(span.start)))
                    })
                    .collect(),
            ),
            Value::InlineTable(table) => self.table(table, &origin),
        };
        Node { origin, tree }
    }

    fn table(&self, table: &dyn TableLike, outer: &Origin) -> Tree {
        let place = |key: &str, item: &Item| {
            let span = table.key(key).and_then(toml_edit::Key::span).or_else(|| item.span());
            span.map_or_else(|| outer.clone(), |span| self.at(span.start))
        };
        Tree::Table(table.iter().map(|(key, item)| (key.to_owned(), self.item(item, place(key, item)))).collect())
    }
}
