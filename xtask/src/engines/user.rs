//! The ordinary user whose engine is the third of a set: without a password, with 65 536 granted ids.

use std::fs;
use std::ops::RangeInclusive;
use std::process::Command;
use std::time::Duration;

use nix::unistd::{Uid, User};

use super::layout::Layout;
use super::processes;

/// How many ids a user of containers needs: those that images use.
const GRANT: u32 = 65_536;
/// Where to look for ids that are granted to nobody; far from what distributions choose.
const FIRST: u32 = 3_100_000_000;

/// How long the last processes of a user may be ending.
const ENDING: Duration = Duration::from_secs(10);

const GRANTS: [(&str, &str); 2] = [("/etc/subuid", "--add-subuids"), ("/etc/subgid", "--add-subgids")];

/// The user, made when it is not there.
pub(crate) fn make(layout: &Layout) -> Result<User, String> {
    let name = layout.user();
    if find(&name).is_none() {
        run(Command::new("useradd")
            .args(["--no-create-home", "--shell", "/usr/sbin/nologin", "--home-dir"])
            .args([&layout.of(super::layout::Engine::Rootless).join("home").display().to_string(), &name]))?;
    }
    // The system's settings decide whether a range comes with a user.
    for (file, add) in GRANTS {
        let text = fs::read_to_string(file).unwrap_or_default();
        if granted(&text, &name).is_none() {
            let first = free(&text).ok_or_else(|| format!("{file}: no {GRANT} ids are left to grant"))?;
            run(Command::new("usermod").args([add, &format!("{first}-{}", first + GRANT - 1), &name]))?;
        }
    }
    find(&name).ok_or_else(|| format!("user {name} was made and is not found"))
}

/// Its own id and those that it was granted.
pub(crate) fn ids(layout: &Layout) -> Vec<RangeInclusive<u32>> {
    let Some(user) = find(&layout.user()) else { return Vec::new() };
    let text = fs::read_to_string(GRANTS[0].0).unwrap_or_default();
    let own = user.uid.as_raw();
    std::iter::once(own..=own).chain(granted(&text, &user.name)).collect()
}

pub(crate) fn remove(layout: &Layout) -> Result<(), String> {
    let name = layout.user();
    match find(&name) {
        Some(user) if user.uid != Uid::from_raw(0) => {
            // A process that nobody has waited for yet counts as one that runs.
            let mut removed = Ok(());
            processes::wait(ENDING, || {
                removed = run(Command::new("userdel").arg(&name));
                removed.is_ok()
            });
            removed
        }
        _ => Ok(()),
    }
}

fn find(name: &str) -> Option<User> {
    User::from_name(name).ok().flatten()
}

/// The range that a line of subuid(5) grants to a user.
pub(super) fn granted(text: &str, name: &str) -> Option<RangeInclusive<u32>> {
    text.lines().map(fields).find_map(|(user, range)| if user == name { range } else { None })
}

fn fields(line: &str) -> (&str, Option<RangeInclusive<u32>>) {
    let mut words = line.split(':');
    let user = words.next().unwrap_or_default();
    let mut number = || words.next()?.trim().parse::<u32>().ok();
    let range =
        number().zip(number()).and_then(|(first, count)| Some(first..=first.checked_add(count.checked_sub(1)?)?));
    (user, range)
}

/// The first of ids that no line has.
pub(super) fn free(text: &str) -> Option<u32> {
    let taken: Vec<_> = text.lines().filter_map(|line| fields(line).1).collect();
    let mut candidates = (FIRST..u32::MAX - GRANT).step_by(GRANT as usize);
    candidates.find(|first| !taken.iter().any(|range| *range.start() < first + GRANT && *range.end() >= *first))
}

/// Runs one of the programs that keep the lists of users.
fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?} cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
