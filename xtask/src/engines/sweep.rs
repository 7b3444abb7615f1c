//! What engines leave on the machine outside of processes and the packet filter.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, umount2};

use super::layout::Layout;
use super::processes;
use super::state::{RUNC, State};

/// Unmounts everything below the set's folder, the last first.
pub(crate) fn mounts(layout: &Layout) {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points: Vec<&str> = text.lines().filter_map(|line| line.split(' ').nth(4)).collect();
    for point in points
        .into_iter()
        .rev()
        .filter(|point| [&layout.home, &layout.runtime()].iter().any(|folder| Path::new(point).starts_with(folder)))
    {
        // What stays shows when the folder cannot be removed.
        let _ = umount2(point, MntFlags::MNT_DETACH);
    }
}

/// Interfaces with an address of the set's networks.
pub(crate) fn interfaces(state: &State) -> Vec<String> {
    let output = Command::new("ip").args(["-4", "-o", "addr"]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let ours = format!(" 10.{}.", state.network);
    text.lines()
        .filter(|line| line.contains(&ours))
        .filter_map(|line| line.split_whitespace().nth(1).map(ToOwned::to_owned))
        .collect()
}

pub(crate) fn remove_interfaces(names: impl IntoIterator<Item = String>) {
    for name in names {
        // Not there is what is wanted.
        drop(Command::new("ip").args(["link", "delete", &name]).output());
    }
}

/// A cgroup of this name in each hierarchy that has it.
pub(crate) fn cgroups(name: &str) -> impl Iterator<Item = PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found: Vec<PathBuf> = text
        .lines()
        .filter(|line| line.contains(" - cgroup"))
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| Path::new(point).join(name))
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    found.dedup();
    found.into_iter()
}

/// Removes cgroups, the innermost first; what has processes stays.
pub(crate) fn remove_cgroups(name: &str) {
    fn remove(folder: &Path) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove(&entry.path());
            }
        }
        drop(fs::remove_dir(folder));
    }
    cgroups(name).for_each(|folder| remove(&folder));
}

/// Where podman and `ip netns` keep network namespaces by name.
pub(crate) const NETNS: &str = "/run/netns";

pub(crate) fn is_mount(place: &str) -> bool {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines().any(|line| line.split(' ').nth(4) == Some(place))
}

pub(crate) fn named_namespaces() -> BTreeSet<String> {
    let names = fs::read_dir(NETNS).into_iter().flatten().flatten();
    names.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Takes away network namespaces that podman left, and their folder where podman made it, unless somebody has one in there.
fn netns(state: &State) {
    // Podman's are called so, and no other podman runs.
    for name in named_namespaces().difference(&state.netns_names).filter(|name| name.starts_with("netns-")) {
        let place = Path::new(NETNS).join(name);
        let _ = umount2(&place, MntFlags::MNT_DETACH);
        drop(fs::remove_file(place));
    }
    let is_empty = named_namespaces().is_empty();
    if is_empty && !state.netns_mounted {
        let _ = umount2(NETNS, MntFlags::empty());
    }
    if is_empty && !state.netns {
        // It fails for a folder that has got something in it meanwhile, as it should.
        drop(fs::remove_dir(NETNS));
    }
}

/// Removes runc's notes of containers that it could not be asked to remove.
pub(crate) fn runc(layout: &Layout) {
    for container in fs::read_dir(RUNC).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let notes = fs::read_to_string(container.join("state.json")).unwrap_or_default();
        if layout.is_named_in(&notes) {
            drop(fs::remove_dir_all(container));
        }
    }
}

/// Removes the places that all engines share, unless another engine has them now.
pub(crate) fn shared(layout: &Layout, state: &State) {
    if processes::another_dockerd(layout) || processes::another_podman(layout) {
        return;
    }
    netns(state);
    for place in state.absent.iter().map(Path::new) {
        if place == Path::new(RUNC) {
            // Only when it is empty: it may also be used without an engine.
            drop(fs::remove_dir(place));
        } else if place.is_dir() {
            drop(fs::remove_dir_all(place));
        } else {
            drop(fs::remove_file(place));
        }
    }
}
