//! Which host ids sandboxes can have.
//!
//! An ordinary user may map its own id, and the ranges that the system's `/etc/subuid` and `/etc/subgid` grant it, by
//! the programs `newuidmap` and `newgidmap` (subuid(5), newuidmap(1)). All of them are mapped once, into one user
//! namespace: 0 is the user itself, 1 and up are the granted ids in the files' order. A sandbox's own namespace is made
//! below it and gets a window of these.

use std::fs;
use std::path::{Path, PathBuf};

/// How many ids a sandbox has where there are enough.
pub(crate) const IDS: u32 = 65_536;
/// How many lines a map of a user namespace can have (`user_namespaces(7)`); one is the user's own.
const LINES: usize = 339;

/// A granted range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    /// The first host id.
    pub(crate) first: u32,
    /// How many.
    pub(crate) count: u32,
}

/// What a user was granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ranges {
    pub(crate) uids: Vec<Range>,
    pub(crate) gids: Vec<Range>,
    pub(crate) newuidmap: PathBuf,
    pub(crate) newgidmap: PathBuf,
}

/// Which host ids sandboxes can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ids {
    /// Root: all.
    Any,
    /// The user's own id alone: why, and how to get more.
    One { why: String, cure: String },
    /// Its own and those it was granted.
    Ranges(Ranges),
}

impl Ranges {
    /// How many ids were granted, of users and of groups alike.
    pub(crate) fn total(&self) -> u32 {
        let sum = |ranges: &[Range]| ranges.iter().fold(0_u32, |sum, range| sum.saturating_add(range.count));
        sum(&self.uids).min(sum(&self.gids))
    }

    /// The windows of the user's namespace that sandboxes can have: whole ones, or the largest piece where none is. The
    /// kernel takes a map only if each of its lines lies within one line of the namespace above (`user_namespaces(7)`).
    pub(crate) fn windows(&self) -> Vec<Range> {
        let ends = |ranges: &[Range]| {
            ranges
                .iter()
                .scan(0_u32, |sum, range| {
                    *sum = sum.saturating_add(range.count);
                    Some(*sum)
                })
                .collect::<Vec<u32>>()
        };
        let mut ends: Vec<u32> = [ends(&self.uids), ends(&self.gids)].concat();
        ends.retain(|end| *end <= self.total());
        ends.sort_unstable();
        let mut pieces = Vec::new();
        let mut begin = 0;
        for end in ends {
            // 0 of the namespace is the user itself.
            pieces.push(Range { first: begin + 1, count: end - begin });
            begin = end;
        }
        let whole: Vec<Range> = pieces
            .iter()
            .flat_map(|piece| (0..piece.count / IDS).map(|n| Range { first: piece.first + n * IDS, count: IDS }))
            .collect();
        if whole.is_empty() { pieces.into_iter().max_by_key(|piece| piece.count).into_iter().collect() } else { whole }
    }
}

impl Ids {
    /// Looks at what a user was granted.
    pub(crate) fn of_user(uid: u32, gid: u32) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let name = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok().flatten().map(|user| user.name);
        let program = |name: &str| {
            ["/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/sbin"]
                .iter()
                .map(|folder| Path::new(folder).join(name))
                .find(|path| path.is_file())
        };
        Self::from_grants(
            (uid, gid, name.as_deref()),
            (&read("/etc/subuid"), &read("/etc/subgid")),
            program("newuidmap").zip(program("newgidmap")),
        )
    }

    fn from_grants(user: (u32, u32, Option<&str>), files: (&str, &str), programs: Option<(PathBuf, PathBuf)>) -> Self {
        let (uid, gid, name) = user;
        let (uids, gids) = (granted(files.0, uid, name, uid), granted(files.1, uid, name, gid));
        let shown = name.map_or_else(|| uid.to_string(), str::to_owned);
        let missing = match (uids.is_empty(), gids.is_empty()) {
            (true, true) => Some("/etc/subuid and /etc/subgid grant"),
            (true, false) => Some("/etc/subuid grants"),
            (false, true) => Some("/etc/subgid grants"),
            (false, false) => None,
        };
        if let Some(missing) = missing {
            return Self::One {
                why: format!("{missing} user {shown} no range"),
                cure: format!(
                    "grant one as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {shown}"
                ),
            };
        }
        match programs {
            Some(programs) => Self::Ranges(Ranges { uids, gids, newuidmap: programs.0, newgidmap: programs.1 }),
            None => Self::One {
                why: "newuidmap and newgidmap are not installed".to_owned(),
                cure: "install them (Debian: apt install uidmap)".to_owned(),
            },
        }
    }
}

/// A user's ranges in one of the two files (subuid(5)): `user:first:count`, the user by name or number. What is not
/// such a line is not for us to judge; what could clash with the user's own id is left out.
fn granted(file: &str, uid: u32, name: Option<&str>, own: u32) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    for line in file.lines() {
        let mut words = line.trim().split(':');
        let (Some(user), Some(first), Some(count), None) = (words.next(), words.next(), words.next(), words.next())
        else {
            continue;
        };
        if Some(user) != name && user.parse() != Ok(uid) {
            continue;
        }
        let (Ok(first), Ok(count)) = (first.parse::<u32>(), count.parse::<u32>()) else { continue };
        let Some(end) = first.checked_add(count) else { continue };
        let overlaps = ranges.iter().any(|known| first < known.first + known.count && known.first < end);
        if count > 0 && !overlaps && !(first..end).contains(&own) && ranges.len() < LINES {
            ranges.push(Range { first, count });
        }
    }
    ranges
}

#[cfg(test)]
mod tests;
