//! The profile of paths.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use crate::error::ProfileError;

/// What may be done below a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Right {
    /// Execute files.
    Execute,
    /// Read files and list folders.
    Read,
    /// Write and truncate files that exist.
    Write,
    /// Make, remove, rename and link files, folders, links, pipes and sockets. Device nodes can never be made.
    Change,
    /// Control devices (ioctl).
    Devices,
}

/// What does not reach beyond the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Connections to abstract Unix sockets, which a shared network namespace would show.
    AbstractUnixSockets,
    /// Signals.
    Signals,
}

/// What of TCP is left to Landlock; sockets and routes decide the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum TcpRule {
    /// No port may be bound and no connection made, the loopback interface included.
    Nothing,
    /// Landlock does not look.
    Unchecked,
}

/// Rights below a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PathRule {
    /// An absolute path in the sandbox, which exists when it starts.
    pub path: String,
    /// What may be done there and below.
    pub rights: BTreeSet<Right>,
}

/// Which paths may be used for what. A right that no rule gives is refused with `EACCES`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Landlock {
    /// Whether the sandbox is refused where the kernel cannot enforce all of this. Otherwise it enforces what it can.
    pub required: bool,
    /// The rules; rights of several rules add up.
    pub rules: Vec<PathRule>,
    /// What stays inside.
    pub scopes: BTreeSet<Scope>,
    /// TCP.
    pub tcp: TcpRule,
}

const USE: [Right; 4] = [Right::Execute, Right::Read, Right::Write, Right::Change];

impl Landlock {
    /// The standard profile: the root is the sandbox's own and mounts say what of it is writable, so that rights differ
    /// for devices only; nothing reaches out by abstract sockets or signals.
    pub fn standard() -> Self {
        Self {
            required: false,
            rules: vec![rule("/", &USE), rule("/dev", &[Right::Devices])],
            scopes: BTreeSet::from([Scope::AbstractUnixSockets, Scope::Signals]),
            tcp: TcpRule::Unchecked,
        }
    }

    /// Leaves only these paths writable, and what no program can do without: devices that exist, and a process's own
    /// files in `/proc`.
    pub fn writable(&mut self, paths: &[String]) -> Result<(), ProfileError> {
        for path in paths {
            check_path(path)?;
        }
        self.rules = vec![
            rule("/", &[Right::Execute, Right::Read]),
            rule("/dev", &[Right::Write, Right::Devices]),
            rule("/proc", &[Right::Write]),
        ];
        self.rules.extend(paths.iter().map(|path| rule(path, &[Right::Write, Right::Change])));
        Ok(())
    }

    /// Checks what the types do not.
    pub fn check(&self) -> Result<(), ProfileError> {
        self.rules.iter().try_for_each(|rule| check_path(&rule.path))
    }

    /// Whether this profile allows nothing that the other refuses. Paths are compared as they are written, hence only
    /// where they are plain; see [`Landlock::check`].
    pub fn at_least_as_tight(&self, other: &Self) -> bool {
        let covered = self.rules.iter().all(|rule| {
            let theirs = other.rules.iter().filter(|their| Path::new(&rule.path).starts_with(&their.path));
            let granted: BTreeSet<Right> = theirs.flat_map(|their| their.rights.iter().copied()).collect();
            rule.rights.is_subset(&granted)
        });
        covered
            && self.required >= other.required
            && self.scopes.is_superset(&other.scopes)
            && self.tcp <= other.tcp
            && self.check().is_ok()
    }
}

fn rule(path: &str, rights: &[Right]) -> PathRule {
    PathRule { path: path.to_owned(), rights: rights.iter().copied().collect() }
}

fn check_path(path: &str) -> Result<(), ProfileError> {
    let plain = Path::new(path).components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let plain = plain && path.starts_with('/') && !path.contains('\0');
    if plain { Ok(()) } else { Err(ProfileError::Path(path.to_owned())) }
}
