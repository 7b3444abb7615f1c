//! What a gateway could have left on this machine, looked for without asking it.

use std::fs;
use std::path::Path;

/// Everything that carries the gateway's id, that its folder is mounted or used by, and what its folder holds.
/// Empty when nothing is left.
pub(crate) fn look(gateway: &str, folder: &Path) -> Vec<String> {
    let mut found = processes(gateway, folder);
    cgroups(Path::new("/sys/fs/cgroup"), gateway, &mut found);
    let table = fs::read_to_string("/proc/self/mountinfo").expect("this process's mounts");
    let place = folder.to_string_lossy();
    found.extend(table.lines().filter(|line| line.contains(&*place)).map(|line| format!("mount {line}")));
    for part in [
        "data/drivers/oci/sandboxes",
        "data/run/drivers/oci/monitors",
        "data/run/drivers/oci/agent",
        "leases",
        "effects",
    ] {
        let Ok(listing) = fs::read_dir(folder.join(part)) else { continue };
        found.extend(listing.flatten().map(|entry| entry.path().display().to_string()));
    }
    found
}

/// Processes that are in one of the gateway's groups, that were started with its id or folder, or whose view of the
/// file system shows its folder: also a process that left every group is found by what is mounted for it.
pub(crate) fn pids(gateway: &str, folder: &Path) -> Vec<(i32, String)> {
    let place = folder.to_string_lossy().into_owned();
    let own = i32::try_from(std::process::id()).expect("a process id");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if pid == own {
            continue;
        }
        let text = |name: &str| {
            let bytes = fs::read(entry.path().join(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\0', " ")
        };
        let command = text("cmdline");
        let why = if !gateway.is_empty() && text("cgroup").contains(gateway) {
            "in a control group of the gateway"
        } else if command.contains(&place) || (!gateway.is_empty() && command.contains(gateway)) {
            "started with the gateway's id or folder"
        } else if text("mountinfo").contains(&place) {
            "sees a mount of the gateway's folder"
        } else {
            continue;
        };
        let groups = text("cgroup");
        let group = groups.lines().find(|line| line.contains(gateway)).unwrap_or_default().to_owned();
        found.push((pid, format!("{why} ({group}): {}", command.trim())));
    }
    found
}

fn processes(gateway: &str, folder: &Path) -> Vec<String> {
    pids(gateway, folder).into_iter().map(|(pid, what)| format!("process {pid} {what}")).collect()
}

fn cgroups(root: &Path, gateway: &str, found: &mut Vec<String>) {
    let Ok(listing) = fs::read_dir(root) else { return };
    for entry in listing.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        cgroups(&entry.path(), gateway, found);
        if entry.path().to_string_lossy().contains(gateway) {
            found.push(format!("control group {}", entry.path().display()));
        }
    }
}

/// After a test that failed: ends what is left, so that the next test does not stumble over it.
pub(crate) fn sweep(gateway: &str, folder: &Path) {
    use rustix::process::{Pid, Signal, kill_process};
    for (pid, _) in pids(gateway, folder) {
        if let Some(pid) = Pid::from_raw(pid) {
            _ = kill_process(pid, Signal::KILL);
        }
    }
    let mut groups = Vec::new();
    cgroups(Path::new("/sys/fs/cgroup"), gateway, &mut groups);
    for group in groups {
        drop(fs::remove_dir(group.trim_start_matches("control group ")));
    }
}
