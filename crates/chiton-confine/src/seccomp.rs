//! The profile of system calls.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::check::{Alternative, Check};
use crate::error::ProfileError;
use crate::standard::{ABSENT, ALLOWED, LIMITED, NEEDED, REFUSED};
use crate::table::TABLE;

/// What a refused call returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Errno {
    /// Operation not permitted.
    #[serde(rename = "EPERM")]
    NotPermitted,
    /// Function not implemented.
    #[serde(rename = "ENOSYS")]
    NotImplemented,
}

impl Errno {
    /// The error's number.
    pub fn number(self) -> u32 {
        match self {
            Self::NotPermitted => 1,
            Self::NotImplemented => 38,
        }
    }
}

/// A family of sockets that can be denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    Inet,
    /// IPv6.
    Inet6,
    /// The kernel's own tables.
    Netlink,
}

impl Family {
    /// All, by name.
    pub const ALL: [(&'static str, Self); 3] =
        [("inet", Self::Inet), ("inet6", Self::Inet6), ("netlink", Self::Netlink)];

    fn number(self) -> u32 {
        match self {
            Self::Inet => 2,
            Self::Inet6 => 10,
            Self::Netlink => 16,
        }
    }
}

/// Which system calls are answered, and how. What is in no list gets `default`; a number that is in no table gets
/// `ENOSYS`, as from a kernel that is older than the call. Calls of another ABI of the processor (32-bit) end the
/// process. Names that one processor lacks have no effect there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Seccomp {
    /// What a call gets that is known and in no list.
    pub default: Errno,
    /// Allowed.
    pub allow: BTreeSet<String>,
    /// Allowed when one of the alternatives holds.
    pub limited: BTreeMap<String, Vec<Alternative>>,
    /// Get `ENOSYS`.
    pub absent: BTreeSet<String>,
}

impl Seccomp {
    /// The standard profile.
    pub fn standard() -> Self {
        let owned = |name: &&str| (*name).to_owned();
        // A text that cannot be read would make the list shorter, hence the profile tighter, and fails a test.
        let limits = |texts: &[&str]| texts.iter().filter_map(|text| text.parse().ok()).collect();
        Self {
            default: Errno::NotPermitted,
            allow: ALLOWED.iter().copied().flatten().map(owned).collect(),
            limited: LIMITED.iter().map(|(name, texts)| ((*name).to_owned(), limits(texts))).collect(),
            absent: ABSENT.iter().map(owned).collect(),
        }
    }

    /// Checks what the types do not: known names, each in one list, no limit without an alternative.
    pub fn check(&self) -> Result<(), ProfileError> {
        let names = self.allow.iter().chain(self.limited.keys()).chain(&self.absent);
        let mut seen = BTreeSet::new();
        for name in names {
            known_syscall(name)?;
            if !seen.insert(name) {
                return Err(ProfileError::Twice(name.clone()));
            }
        }
        match self.limited.iter().find(|(_, alternatives)| alternatives.is_empty()) {
            Some((name, _)) => Err(ProfileError::NoAlternative(name.clone())),
            None => Ok(()),
        }
    }

    /// Takes calls away. What a sandbox cannot be started or reached without cannot be taken.
    pub fn deny(&mut self, names: &[String]) -> Result<(), ProfileError> {
        for name in names {
            known_syscall(name)?;
            if NEEDED.contains(&name.as_str()) {
                return Err(ProfileError::Needed(name.clone()));
            }
        }
        for name in names {
            self.allow.remove(name);
            self.limited.remove(name);
        }
        Ok(())
    }

    /// Takes a family of sockets away.
    pub fn deny_family(&mut self, family: Family) {
        if let Some(alternatives) = self.limited.get_mut("socket") {
            let of = Check::Equal { arg: 0, value: family.number() };
            alternatives.retain(|alternative| !alternative.checks().contains(&of));
        }
    }

    /// Whether this profile allows nothing that the other refuses. Conditions are compared as they are written: an
    /// alternative is covered by one of which it has every condition.
    pub fn at_least_as_tight(&self, other: &Self) -> bool {
        self.looser_than(other).is_none()
    }

    /// The first call that this profile allows and the other refuses, or allows with fewer conditions.
    pub fn looser_than<'a>(&'a self, other: &Self) -> Option<&'a str> {
        let free = self.allow.iter().find(|name| !other.allow.contains(*name));
        let limited = self.limited.iter().find(|(name, alternatives)| {
            if other.allow.contains(*name) {
                return false;
            }
            let Some(theirs) = other.limited.get(*name) else { return true };
            // Nothing to demand would be a call that is free.
            alternatives.is_empty()
                || !alternatives.iter().all(|alternative| theirs.iter().any(|their| alternative.implies(their)))
        });
        free.or(limited.map(|(name, _)| name)).map(String::as_str)
    }

    /// Whether a call with these arguments is allowed.
    pub fn allows(&self, name: &str, args: &[u64; 6]) -> bool {
        self.allow.contains(name)
            || self
                .limited
                .get(name)
                .is_some_and(|alternatives| alternatives.iter().any(|alternative| alternative.holds(args)))
    }
}

/// Checks that a system call of this name exists on some supported processor.
pub fn known_syscall(name: &str) -> Result<(), ProfileError> {
    if TABLE.binary_search_by_key(&name, |row| row.0).is_ok() {
        return Ok(());
    }
    let near = TABLE.iter().map(|row| (strsim::damerau_levenshtein(name, row.0), row.0)).min();
    let nearest = near.filter(|(distance, _)| *distance <= 1 + name.len() / 4).map(|(_, known)| known);
    Err(ProfileError::UnknownSyscall { name: name.to_owned(), nearest })
}

/// The names of all system calls that are known, in order.
pub fn syscalls() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|row| row.0)
}

/// Why the standard profile refuses a call; `None` when it does not, or limits it.
pub fn why_refused(name: &str) -> Option<&'static str> {
    let absent = ABSENT.contains(&name).then_some("it is answered as by a kernel that does not have it");
    REFUSED.iter().find(|(_, names)| names.contains(&name)).map(|(why, _)| *why).or(absent)
}
