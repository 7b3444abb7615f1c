//! What a gateway could have left on this machine, looked for without asking it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Everything that carries the gateway's id, that its folder is mounted or used by, and what its folder holds.
/// Empty when nothing is left.
pub fn look(gateway: &str, folder: &Path) -> Vec<String> {
    let mut found: Vec<String> =
        pids(gateway, folder).into_iter().map(|(pid, what)| format!("process {pid} {what}")).collect();
    found.extend(cgroups(gateway).into_iter().map(|group| format!("control group {group}")));
    found.extend(mounts(folder).into_iter().map(|mount| format!("mount {mount}")));
    for part in [
        "data/drivers/oci/sandboxes",
        "data/run/drivers/oci/monitors",
        "data/run/drivers/oci/agent",
        "data/run/drivers/docker/agent",
        "data/run/drivers/podman/agent",
        "leases",
        "effects",
        "netns",
    ] {
        let Ok(listing) = fs::read_dir(folder.join(part)) else { continue };
        found.extend(listing.flatten().map(|entry| entry.path().display().to_string()));
    }
    found
}

/// The lines of this process's mount table that name the folder.
pub fn mounts(folder: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let place = folder.to_string_lossy();
    table.lines().filter(|line| line.contains(&*place)).map(ToOwned::to_owned).collect()
}

/// Processes that are in one of the gateway's groups, that were started with its id or folder, or whose view of the
/// file system shows its folder in a way in which this process's does not: also a process that left every group is found
/// by what is mounted for it.
pub fn pids(gateway: &str, folder: &Path) -> Vec<(i32, String)> {
    let place = folder.to_string_lossy().into_owned();
    let own_mounts = fs::read_link("/proc/self/ns/mnt").ok();
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let mut found = Vec::new();
    let Ok(processes) = fs::read_dir("/proc") else { return found };
    for entry in processes.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if pid == own {
            continue;
        }
        let text = |name: &str| {
            let bytes = fs::read(entry.path().join(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\0', " ")
        };
        // It has ended; whoever inherited it has not looked yet.
        if text("stat").rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')) {
            continue;
        }
        // What is mounted for everybody says nothing about one of them.
        let other_mounts = || fs::read_link(entry.path().join("ns/mnt")).is_ok_and(|link| Some(link) != own_mounts);
        let (command, groups) = (text("cmdline"), text("cgroup"));
        let why = if !gateway.is_empty() && groups.contains(gateway) {
            "in a control group of the gateway"
        } else if command.contains(&place) || (!gateway.is_empty() && command.contains(gateway)) {
            "started with the gateway's id or folder"
        } else if other_mounts() && text("mountinfo").contains(&place) {
            "sees a mount of the gateway's folder"
        } else {
            continue;
        };
        let group = groups.lines().find(|line| line.contains(gateway)).unwrap_or_default().to_owned();
        found.push((pid, format!("{why} ({group}): {}", command.trim())));
    }
    found
}

/// Waits until all of [`pids`] have ended, for so long at most; those that have not. Some end by themselves a moment
/// after they have said so: a monitor's last word comes before its end.
pub fn until_ended(gateway: &str, folder: &Path, patience: Duration) -> Vec<(i32, String)> {
    let end = Instant::now() + patience;
    let ended = |pid: i32| {
        // One that cannot be opened has ended.
        let Some(Ok(process)) = Pid::from_raw(pid).map(|pid| pidfd_open(pid, PidfdFlags::empty())) else { return true };
        loop {
            let left = Timespec::try_from(end.saturating_duration_since(Instant::now())).unwrap_or_default();
            match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&left)) {
                Err(rustix::io::Errno::INTR) => {}
                ready => return ready.is_ok_and(|count| count > 0),
            }
        }
    };
    pids(gateway, folder).into_iter().filter(|(pid, _)| !ended(*pid)).collect()
}

/// The gateway's processes and what each is waiting for, for whoever has to find out what happened.
pub fn describe(gateway: &str, folder: &Path) -> String {
    let mut text = String::new();
    for (pid, what) in pids(gateway, folder) {
        let _ = writeln!(text, "\n== {pid} {what}");
        let said = fs::read(format!("/proc/{pid}/status")).unwrap_or_default();
        text.push_str(&String::from_utf8_lossy(&said));
        for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            for name in ["comm", "stack"] {
                let said = fs::read(thread.path().join(name)).unwrap_or_default();
                text.push_str(&String::from_utf8_lossy(&said));
            }
        }
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for descriptor in descriptors.flatten() {
            let target = fs::read_link(descriptor.path()).unwrap_or_default();
            let _ = writeln!(text, "{} -> {}", descriptor.path().display(), target.display());
        }
    }
    text
}

/// The control groups of a gateway, in every hierarchy, parents first.
pub fn cgroups(gateway: &str) -> Vec<String> {
    let mut found = Vec::new();
    walk(Path::new("/sys/fs/cgroup"), gateway, &mut found);
    found.sort();
    found
}

fn walk(root: &Path, gateway: &str, found: &mut Vec<String>) {
    let Ok(listing) = fs::read_dir(root) else { return };
    for entry in listing.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        walk(&entry.path(), gateway, found);
        if entry.path().to_string_lossy().contains(gateway) {
            found.push(entry.path().display().to_string());
        }
    }
}

/// Removes the gateway's control groups that have no process any more.
pub fn remove_groups(gateway: &str) {
    for group in cgroups(gateway).iter().rev() {
        drop(fs::remove_dir(group));
    }
}

/// After a test that failed: ends what is left, so that the next test does not stumble over it.
pub fn sweep(gateway: &str, folder: &Path) {
    use rustix::mount::{UnmountFlags, unmount};
    use rustix::process::{Signal, kill_process};
    for (pid, _) in pids(gateway, folder) {
        if let Some(pid) = Pid::from_raw(pid) {
            _ = kill_process(pid, Signal::KILL);
        }
    }
    remove_groups(gateway);
    for mount in mounts(folder) {
        if let Some(place) = mount.split(' ').nth(4) {
            _ = unmount(place, UnmountFlags::DETACH);
        }
    }
}
