//! Where a value came from, and what is wrong with it.

use std::fmt;
use std::path::{Path, PathBuf};

use chiton_model::printable;

/// Where a value was set. Ordered by precedence: a later one wins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// Nobody set it, and a look at the machine decided: what was found.
    Detected(String),
    /// The config file.
    File {
        /// The file as the operator named it.
        path: PathBuf,
        /// The line, counted from 1; absent when the whole file is meant.
        line: Option<usize>,
    },
    /// An environment variable, by name.
    Env(String),
    /// A command line flag, with its dashes.
    Flag(&'static str),
}

impl Origin {
    /// The precedence alone: two places of one file are equal.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::Default | Self::Detected(_) => 0,
            Self::File { .. } => 1,
            Self::Env(_) => 2,
            Self::Flag(_) => 3,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Detected(found) => write!(f, "detected ({})", printable(found)),
            Self::File { path, line: Some(line) } => write!(f, "{}:{line}", path.display()),
            Self::File { path, line: None } => write!(f, "{}", path.display()),
            Self::Env(name) => write!(f, "env {}", printable(name)),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// One thing that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {}{message}{}", prefix(.key), suffix(.cure.as_deref()))]
pub struct ConfigError {
    /// Where the wrong value was set, or should have been.
    pub origin: Origin,
    /// The key's path, `compute.policy.fleet-labels.deadline`; empty when no key is meant.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub cure: Option<String>,
}

impl ConfigError {
    /// The file it is in, if it is in a file.
    pub fn file(&self) -> Option<&Path> {
        match &self.origin {
            Origin::File { path, .. } => Some(path),
            _ => None,
        }
    }

    /// Its line in the file, counted from 1.
    pub fn line(&self) -> Option<usize> {
        match &self.origin {
            Origin::File { line, .. } => *line,
            _ => None,
        }
    }
}

fn prefix(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!("{key}: ") }
}

fn suffix(cure: Option<&str>) -> String {
    cure.map(|cure| format!("; {cure}")).unwrap_or_default()
}

/// Text from outside as it may be shown: quoted, control characters escaped, long ones cut.
pub(super) fn quote(text: &str) -> String {
    const SHOWN: usize = 80;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// A key path with one more key, quoted where TOML would ask for quotes.
pub(super) fn join(path: &str, key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    let key = if bare && key.len() <= 80 { key.to_owned() } else { quote(key) };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}
