//! What a driver tells an agent on its standard input, where the platform shows a container's environment to others.
//!
//! One line of JSON, ended by a newline. The driver encodes it and the agent decodes it, so it is defined here once, beside
//! the rest of what they say to each other. The confinement is a type parameter: naming the real type would bring the
//! kernel interfaces of the crate that applies it to whoever only hands it over, and a JSON value in its place would be
//! decoded twice, with nothing checked where it is made. Drivers without one leave the default.

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::error::Category;
use zeroize::Zeroizing;

/// The longest line, in bytes, with the newline at its end: 1 MiB.
pub const LIMIT: usize = 1024 * 1024;

/// Names that begin so are the agent's own.
const RESERVED: &str = "CHITON_";
/// The keys of the document, and those that it cannot be without.
const KEYS: [&str; 4] = ["token", "attempt", "env", "confinement"];
const NEEDED: [&str; 2] = ["token", "attempt"];

/// No confinement: the driver, or the platform's engine, confines the sandbox itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unconfined {}

/// Everything an agent is told at its start that must not stand in an environment.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchDocument<C = Unconfined> {
    /// The sandbox's token. Not empty.
    pub token: String,
    /// Which start of the sandbox this is. Not empty.
    pub attempt: String,
    /// Laid over the environment that programs inherit. No name may begin with `CHITON_`.
    #[serde(default = "BTreeMap::new", skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// What the agent applies to itself and thereby to all that it starts.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub confinement: Option<C>,
}

/// By name, because the derived code would otherwise ask `C` for a default of its own.
fn none<C>() -> Option<C> {
    None
}

/// Why a document is none. No message holds anything of the document but names of its keys and of reserved variables.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Too long for one line.
    #[error("the launch document is longer than the {LIMIT} bytes allowed; hand over fewer or shorter variables")]
    TooLong,
    /// No JSON, not all of it, or no object.
    #[error("the launch document is not one JSON object (column {0}); send one, whole, in one line")]
    NotJson(usize),
    /// JSON with a key that has no meaning.
    #[error("the launch document has an unknown key; the keys are token, attempt, env and confinement")]
    UnknownKey,
    /// A key without which there is no launch is missing.
    #[error("the launch document has no {0:?}; token and attempt are needed")]
    Missing(&'static str),
    /// A value is of another type than its key wants, or a key stands there twice.
    #[error(
        "the launch document has a value of the wrong type, or a key twice (column {0}); token and attempt are strings, env an object of strings, confinement as the driver compiled it"
    )]
    WrongType(usize),
    /// A string that may not be empty is.
    #[error("{0:?} of the launch document is empty; give it a value")]
    Empty(&'static str),
    /// A variable that only the agent may have.
    #[error(
        "the launch document sets {0:?}, and names beginning with {RESERVED} are the agent's own; use another name"
    )]
    Reserved(String),
    /// A name that is empty or holds `=` or a zero byte, or a value with a zero byte.
    #[error(
        "the launch document sets a variable that no program can be given; use names without '=' and neither names nor values with a zero byte"
    )]
    Variable,
    /// The confinement cannot be written as JSON.
    #[error("the confinement cannot be encoded")]
    Confinement,
}

impl<C> LaunchDocument<C> {
    /// A document with nothing but the agent's credentials.
    pub fn new(token: impl Into<String>, attempt: impl Into<String>) -> Self {
        Self { token: token.into(), attempt: attempt.into(), env: BTreeMap::new(), confinement: None }
    }

    fn check(&self) -> Result<(), DocumentError> {
        for (key, value) in [("token", &self.token), ("attempt", &self.attempt)] {
            if value.is_empty() {
                return Err(DocumentError::Empty(key));
            }
        }
        for (name, value) in &self.env {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                return Err(DocumentError::Variable);
            }
            if name.starts_with(RESERVED) {
                return Err(DocumentError::Reserved(name.clone()));
            }
        }
        Ok(())
    }
}

impl<C: Serialize> LaunchDocument<C> {
    /// The document as the one line that an agent takes, newline included. Wiped when dropped.
    ///
    /// # Errors
    /// As [`DocumentError`] says; what an agent would refuse is refused here.
    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>, DocumentError> {
        self.check()?;
        // Measured first: a buffer that grows leaves copies of what it held behind.
        let mut length = Measure(0);
        serde_json::to_writer(&mut length, self).map_err(|_| DocumentError::Confinement)?;
        let length = length.0.saturating_add(1);
        if length > LIMIT {
            return Err(DocumentError::TooLong);
        }
        let mut line = Zeroizing::new(Vec::with_capacity(length));
        serde_json::to_writer(&mut *line, self).map_err(|_| DocumentError::Confinement)?;
        line.push(b'\n');
        Ok(line)
    }
}

impl<C: DeserializeOwned> LaunchDocument<C> {
    /// Reads a line, with or without its newline.
    ///
    /// # Errors
    /// As [`DocumentError`] says.
    pub fn decode(line: &[u8]) -> Result<Self, DocumentError> {
        if line.len() > LIMIT {
            return Err(DocumentError::TooLong);
        }
        // The library would also take a list of the values in the order of the keys.
        if line.trim_ascii_start().first().is_some_and(|byte| *byte != b'{') {
            return Err(DocumentError::NotJson(1));
        }
        let document: Self = serde_json::from_slice(line).map_err(|error| explain(line, &error))?;
        document.check()?;
        Ok(document)
    }
}

/// The library's own sentences quote the document, so only its kind of error is kept, and a look at the keys says more.
fn explain(line: &[u8], error: &serde_json::Error) -> DocumentError {
    if error.classify() != Category::Data {
        return DocumentError::NotJson(error.column());
    }
    // What is no object was refused before.
    #[expect(clippy::zero_sized_map_values, reason = "an object is read as a map, and its values do not matter")]
    let keys: BTreeMap<String, IgnoredAny> = serde_json::from_slice(line).unwrap_or_default();
    if keys.keys().any(|key| !KEYS.contains(&key.as_str())) {
        return DocumentError::UnknownKey;
    }
    match NEEDED.into_iter().find(|key| !keys.contains_key(*key)) {
        Some(key) => DocumentError::Missing(key),
        None => DocumentError::WrongType(error.column()),
    }
}

/// Counts what is written.
struct Measure(usize);

impl io::Write for Measure {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.saturating_add(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<C> fmt::Debug for LaunchDocument<C> {
    /// Neither token nor values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LaunchDocument")
            .field("attempt", &self.attempt)
            .field("env", &self.env.keys())
            .field("confined", &self.confinement.is_some())
            .finish_non_exhaustive()
    }
}
