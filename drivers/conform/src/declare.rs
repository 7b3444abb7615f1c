//! Expected failures: a TOML file of lines `"case" = "why"`.

use std::collections::BTreeMap;
use std::path::Path;

use chiton_model::nearest;

use crate::case::{exists, names};

/// Cases that are expected to fail, each with the reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declared(BTreeMap<String, String>);

/// Why a file of declarations cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeclareError {
    /// It cannot be read.
    #[error("{path}: {source}; give the path of a TOML file of lines \"case\" = \"why\"")]
    Unreadable {
        /// The file.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// It is no such file.
    #[error("{path}: {reason}; write lines \"case\" = \"why\"")]
    Malformed {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// It names a case that there is none of: its declaration would never take effect.
    #[error("{path}: there is no case {case:?}; {cure}")]
    Unknown {
        /// The file.
        path: String,
        /// The name.
        case: String,
        /// What may be meant.
        cure: String,
    },
    /// A reason is missing.
    #[error("{path}: case {case:?} is declared without a reason; say why it fails")]
    NoReason {
        /// The file.
        path: String,
        /// The case.
        case: String,
    },
}

impl Declared {
    /// Reads a file.
    ///
    /// # Errors
    /// As [`DeclareError`] says.
    pub fn read(path: &Path) -> Result<Self, DeclareError> {
        let shown = path.display().to_string();
        let text =
            std::fs::read_to_string(path).map_err(|source| DeclareError::Unreadable { path: shown.clone(), source })?;
        Self::parse(&shown, &text)
    }

    /// Reads the text of a file; `path` is what errors call it.
    ///
    /// # Errors
    /// As [`DeclareError`] says.
    pub fn parse(path: &str, text: &str) -> Result<Self, DeclareError> {
        let path = path.to_owned();
        let map: BTreeMap<String, String> = toml::from_str(text)
            .map_err(|error| DeclareError::Malformed { path: path.clone(), reason: error.message().to_owned() })?;
        for (case, why) in &map {
            if !exists(case) {
                let known: Vec<String> = names().collect();
                let cure = match nearest(case, known.iter().map(String::as_str)) {
                    Some(near) => format!("did you mean {near:?}?"),
                    None => "docs/driver-conformance.md lists them".to_owned(),
                };
                return Err(DeclareError::Unknown { path, case: case.clone(), cure });
            }
            if why.trim().is_empty() {
                return Err(DeclareError::NoReason { path, case: case.clone() });
            }
        }
        Ok(Self(map))
    }

    /// Why this case is expected to fail, if it is.
    pub fn why(&self, case: &str) -> Option<&str> {
        self.0.get(case).map(String::as_str)
    }
}
