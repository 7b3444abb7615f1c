//! What the operator decides.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use crate::{Limits, Owner};

/// Everything that the store and its sources go by.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The registry of names that have none; without it such names are refused.
    pub default_registry: Option<String>,
    /// The only registries that may be asked; none means every one.
    pub registries: Option<BTreeSet<String>>,
    /// Registries that are asked over plain HTTP; those on the loopback interface always are.
    pub insecure: BTreeSet<String>,
    /// Who we are to a registry.
    pub credentials: BTreeMap<String, Credential>,
    /// Folders below which layouts and archives may be; none means everywhere.
    pub roots: Option<Vec<PathBuf>>,
    /// What an image may have.
    pub limits: Limits,
    /// Whose unpacked files are.
    pub owner: Owner,
    /// References and digests that are never removed.
    pub pinned: BTreeSet<String>,
    /// How long an image stays that nobody uses.
    pub keep: Duration,
    /// How many unpacked bytes may stay that nobody uses.
    pub keep_bytes: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            default_registry: None,
            registries: None,
            insecure: BTreeSet::new(),
            credentials: BTreeMap::new(),
            roots: None,
            limits: Limits::default(),
            owner: Owner::default(),
            pinned: BTreeSet::new(),
            keep: Duration::from_hours(7 * 24),
            keep_bytes: 20 << 30,
        }
    }
}

/// A name and where its password is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// The user.
    pub username: String,
    /// A file with the password or token; read at each use, so that it can be renewed.
    pub password_file: PathBuf,
}
