//! What is on this machine of a gateway, found without asking it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Everything that carries the gateway's id, but what belongs to these sandboxes.
pub fn look(gateway: &str, data: &Path, live: &BTreeSet<String>) -> Vec<String> {
    let mut found = Vec::new();
    found.extend(processes(gateway, data).into_iter().map(|what| format!("process {what}")));
    found.extend(cgroups(Path::new("/sys/fs/cgroup"), gateway).into_iter().map(|what| format!("cgroup {what}")));
    found.extend(mounts(data).into_iter().map(|what| format!("mount {what}")));
    for folder in ["drivers/oci", "run/drivers/oci"] {
        found.extend(entries(&data.join(folder)).into_iter().map(|what| format!("folder {what}")));
    }
    found.retain(|what| !live.iter().any(|id| what.contains(id.as_str())));
    found
}

fn processes(gateway: &str, data: &Path) -> Vec<String> {
    let Ok(listing) = fs::read_dir("/proc") else { return vec!["/proc cannot be read".to_owned()] };
    let mut found = Vec::new();
    for entry in listing.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.parse::<u32>().is_err() {
            continue;
        }
        let read = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
        let groups = String::from_utf8_lossy(&read("cgroup")).into_owned();
        let command = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
        // A zombie holds nothing and goes when its parent looks.
        let zombie = String::from_utf8_lossy(&read("status")).contains("State:\tZ");
        let monitor = command.contains(" monitor ") && command.contains(&*data.to_string_lossy());
        if !zombie && (groups.contains(gateway) || monitor) {
            // The sandbox's id stands in the group or in the command.
            found.push(format!(
                "{name} {} {}",
                command.trim(),
                groups.lines().find(|line| line.contains(gateway)).unwrap_or_default()
            ));
        }
    }
    found
}

fn cgroups(root: &Path, gateway: &str) -> Vec<String> {
    let Ok(listing) = fs::read_dir(root) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in listing.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        let path = entry.path();
        found.extend(cgroups(&path, gateway));
        let own = path.file_name().is_some_and(|name| name.to_string_lossy().contains(gateway));
        // The gateway's own group stands as long as one of its sandboxes does.
        let parent = own
            && fs::read_dir(&path)
                .is_ok_and(|mut below| below.any(|entry| entry.is_ok_and(|entry| entry.path().is_dir())));
        if path.to_string_lossy().contains(gateway) && !parent {
            found.push(path.display().to_string());
        }
    }
    found
}

fn mounts(data: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().filter(|line| line.contains(&*data.to_string_lossy())).map(str::to_owned).collect()
}

/// Folders of sandboxes; tombstones and locks stay on purpose.
fn entries(folder: &Path) -> Vec<String> {
    let Ok(listing) = fs::read_dir(folder) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in listing.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if name.starts_with("s-") {
            found.push(entry.path().display().to_string());
        } else {
            found.extend(entries(&entry.path()));
        }
    }
    found
}
