//! What a gateway could have left on this machine, looked for without asking it.

use std::fs;
use std::path::Path;

use chiton_model::Error;

type Found = Vec<(&'static str, Vec<String>)>;

/// Looks for everything that carries the gateway's id, and for what its folders hold.
pub(super) fn look(gateway: &str, folder: &Path) -> Result<Found, Error> {
    let unreadable = |error: std::io::Error| Error::internal(format!("this machine cannot be looked at: {error}"));
    Ok(vec![
        ("processes", processes(gateway).map_err(unreadable)?),
        ("control groups", cgroups(Path::new("/sys/fs/cgroup"), gateway)),
        ("mounts", mounts(folder).map_err(unreadable)?),
        ("sandbox folders", entries(&folder.join("data/drivers/oci"), "s-")),
        ("leases", entries(&folder.join("leases"), "")),
    ])
}

/// Processes in one of its control groups, and its monitors.
fn processes(gateway: &str) -> std::io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.parse::<u32>().is_err() {
            continue;
        }
        let groups = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if groups.contains(gateway) || (command.contains(" monitor ") && command.contains(gateway)) {
            found.push(format!("{name} ({})", command.trim()));
        }
    }
    Ok(found)
}

fn cgroups(root: &Path, gateway: &str) -> Vec<String> {
    let Ok(listing) = fs::read_dir(root) else { return Vec::new() };
    let folders = listing.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders
        .flat_map(|entry| {
            let path = entry.path();
            let mut found = cgroups(&path, gateway);
            // The gateway's own parent group is empty and goes with its last sandbox.
            if path.to_string_lossy().contains(gateway) {
                found.push(path.display().to_string());
            }
            found
        })
        .collect()
}

fn mounts(folder: &Path) -> std::io::Result<Vec<String>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let folder = folder.to_string_lossy();
    Ok(table.lines().filter(|line| line.contains(&*folder)).map(str::to_owned).collect())
}

/// Entries of a folder and of its folders whose names begin with the prefix.
fn entries(folder: &Path, prefix: &str) -> Vec<String> {
    let Ok(listing) = fs::read_dir(folder) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in listing.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        // What a deleted sandbox leaves on purpose: a note that its id must not come back.
        if [".deleted", ".lock"].iter().any(|ending| name.ends_with(ending)) {
            continue;
        }
        if name.starts_with(prefix) {
            found.push(name);
        } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(entries(&entry.path(), prefix));
        }
    }
    found
}
