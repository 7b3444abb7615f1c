//! Control groups: found, made, limited, emptied and removed by ourselves.
//!
//! The container library's own manager for the first version of cgroups costs more than the rest of a create, and its
//! attach by `cgroup.procs` waits for an RCU grace period. A process that writes `0` to `tasks` moves itself, at once;
//! into the unified hierarchy it is born (`CLONE_INTO_CGROUP`).
//! Only the controllers that carry a limit are used, and the unified hierarchy beside them, because `cgroup.kill`
//! exists only there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// The controllers that limits need.
pub const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// The period of processor time quotas, in microseconds.
const PERIOD: u64 = 100_000;

/// Limits in the units of the kernel's files. An absent one is not set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Thousandths of a processor.
    pub cpu_millicores: Option<u64>,
    /// Bytes.
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u32>,
}

/// One mounted hierarchy of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// Where it is mounted.
    pub root: PathBuf,
    /// Whether it is the unified one (version 2).
    pub unified: bool,
    /// Which of [`CONTROLLERS`] it has.
    pub controllers: Vec<String>,
}

/// One cgroup of one sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hierarchy {
    /// The hierarchy's mount point.
    pub root: PathBuf,
    /// The sandbox's folder below it.
    pub dir: PathBuf,
    /// Whether it is the unified one.
    pub unified: bool,
    /// Which of [`CONTROLLERS`] are used here.
    pub controllers: Vec<String>,
}

/// Finds the hierarchies below `/sys/fs/cgroup` that matter: every one with a controller of [`CONTROLLERS`], and the
/// unified one.
pub fn detect() -> io::Result<Vec<Mounted>> {
    Ok(parse_mounts(&fs::read_to_string("/proc/self/mountinfo")?, |root| {
        fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default()
    }))
}

/// [`detect`] on a given `mountinfo` (proc(5)): field 5 is the mount point; after the `-` come type, source, options.
fn parse_mounts(mountinfo: &str, unified_controllers: impl Fn(&Path) -> String) -> Vec<Mounted> {
    let mut found: Vec<Mounted> = Vec::new();
    for line in mountinfo.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let Some(point) = before.split(' ').nth(4) else { continue };
        let mut after = after.split(' ');
        let (kind, options) = (after.next().unwrap_or_default(), after.nth(1).unwrap_or_default());
        if !point.starts_with("/sys/fs/cgroup") || found.iter().any(|known| known.root == Path::new(point)) {
            continue;
        }
        let known = |list: &str, separator: char| -> Vec<String> {
            CONTROLLERS
                .iter()
                .filter(|name| list.trim().split(separator).any(|word| word == **name))
                .map(|name| (*name).to_owned())
                .collect()
        };
        let root = PathBuf::from(point);
        match kind {
            "cgroup2" => {
                let controllers = known(&unified_controllers(&root), ' ');
                found.push(Mounted { root, unified: true, controllers });
            }
            "cgroup" => {
                let controllers = known(options, ',');
                if !controllers.is_empty() {
                    found.push(Mounted { root, unified: false, controllers });
                }
            }
            _ => {}
        }
    }
    found
}

/// Where a sandbox's cgroups are.
pub fn layout(mounted: &[Mounted], parent: &str, id: &str) -> Vec<Hierarchy> {
    mounted
        .iter()
        .map(|mounted| Hierarchy {
            root: mounted.root.clone(),
            dir: mounted.root.join(parent).join(id),
            unified: mounted.unified,
            controllers: mounted.controllers.clone(),
        })
        .collect()
}

impl Hierarchy {
    /// The file by which a single-threaded process moves itself in at no cost (by writing `0`); the unified hierarchy
    /// has none.
    pub fn tasks(&self) -> Option<PathBuf> {
        (!self.unified).then(|| self.dir.join("tasks"))
    }

    fn parent(&self) -> &Path {
        self.dir.parent().unwrap_or(&self.root)
    }

    fn make(&self) -> io::Result<()> {
        // The last sandbox to go removes the parent, perhaps between our two steps.
        for _ in 0..100 {
            mkdir(self.parent())?;
            if self.unified && !self.controllers.is_empty() {
                let wanted: Vec<String> = self.controllers.iter().map(|name| format!("+{name}")).collect();
                for above in [self.root.as_path(), self.parent()] {
                    match write(&above.join("cgroup.subtree_control"), &wanted.join(" ")) {
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        other => other?,
                    }
                }
            }
            match mkdir(&self.dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => return other,
            }
        }
        Err(io::Error::other(format!("{} keeps vanishing", self.parent().display())))
    }

    fn limit(&self, limits: &Limits) -> io::Result<()> {
        let has = |name: &str| self.controllers.iter().any(|controller| controller == name);
        if let (true, Some(cpu)) = (has("cpu"), limits.cpu_millicores) {
            let quota = (cpu.saturating_mul(PERIOD) / 1000).max(1000);
            if self.unified {
                write(&self.dir.join("cpu.max"), &format!("{quota} {PERIOD}"))?;
            } else {
                write(&self.dir.join("cpu.cfs_period_us"), &PERIOD.to_string())?;
                write(&self.dir.join("cpu.cfs_quota_us"), &quota.to_string())?;
            }
        }
        if let (true, Some(memory)) = (has("memory"), limits.memory_bytes) {
            let (limit, swap, swap_value) = if self.unified {
                ("memory.max", "memory.swap.max", 0)
            } else {
                ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", memory)
            };
            write(&self.dir.join(limit), &memory.to_string())?;
            // Absent where the kernel does not account swap; then there is none to limit.
            match write(&self.dir.join(swap), &swap_value.to_string()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        if let (true, Some(pids)) = (has("pids"), limits.pids) {
            write(&self.dir.join("pids.max"), &pids.to_string())?;
        }
        Ok(())
    }
}

fn mkdir(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(|error| named(path, &error)),
    }
}

/// Writes a control file; never makes one.
fn write(path: &Path, value: &str) -> io::Result<()> {
    use std::io::Write;
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(value.as_bytes()))
        .map_err(|error| named(path, &error))
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Makes a sandbox's cgroups and sets its limits. A limit whose controller is nowhere is an error, never ignored.
pub fn create(cgroups: &[Hierarchy], limits: &Limits) -> io::Result<()> {
    let wanted = [
        ("cpu", limits.cpu_millicores.is_some()),
        ("memory", limits.memory_bytes.is_some()),
        ("pids", limits.pids.is_some()),
    ];
    for (name, wanted) in wanted {
        if wanted && !cgroups.iter().any(|cgroup| cgroup.controllers.iter().any(|controller| controller == name)) {
            return Err(io::Error::other(format!("no cgroup hierarchy has the controller {name:?}")));
        }
    }
    for cgroup in cgroups {
        cgroup.make()?;
        cgroup.limit(limits)?;
    }
    Ok(())
}

/// Whether the kernel's out-of-memory killer struck in the sandbox.
pub fn oom(cgroups: &[Hierarchy]) -> bool {
    cgroups.iter().filter(|cgroup| cgroup.controllers.iter().any(|name| name == "memory")).any(|cgroup| {
        let file = if cgroup.unified { "memory.events" } else { "memory.oom_control" };
        fs::read_to_string(cgroup.dir.join(file)).is_ok_and(|text| {
            text.lines()
                .filter_map(|line| line.strip_prefix("oom_kill "))
                .any(|count| count.trim().parse::<u64>().is_ok_and(|count| count > 0))
        })
    })
}

/// Everybody who is in one of the cgroups now.
pub fn members(cgroups: &[Hierarchy]) -> Vec<i32> {
    let mut found: Vec<i32> = cgroups
        .iter()
        .filter_map(|cgroup| fs::read_to_string(cgroup.dir.join("cgroup.procs")).ok())
        .flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<i32>>())
        .filter(|pid| *pid > 0)
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// Sends SIGKILL to everybody in the cgroups: at once by `cgroup.kill` where there is a unified hierarchy, and one by
/// one for who is only in the others (a launch child that had not finished moving).
pub fn kill_all(cgroups: &[Hierarchy]) {
    for cgroup in cgroups.iter().filter(|cgroup| cgroup.unified) {
        // Absent before Linux 5.14; the loop below does the work then.
        let _ = write(&cgroup.dir.join("cgroup.kill"), "1");
    }
    for pid in members(cgroups) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// Kills all, waits until nobody is left and removes the folders, and their parents when these are empty.
pub fn destroy(cgroups: &[Hierarchy], within: Duration) -> io::Result<()> {
    let deadline = Instant::now() + within;
    let mut pause = Duration::from_micros(50);
    loop {
        kill_all(cgroups);
        // Neither version tells of the last exit of a killed group in a way that both have, so the wait doubles.
        if members(cgroups).is_empty() {
            match remove(cgroups) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {}
                other => return other,
            }
        } else if Instant::now() >= deadline {
            let left = members(cgroups);
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("processes {left:?} do not end")));
        }
        #[expect(clippy::disallowed_methods, reason = "the kernel tells of this by no event")]
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn remove(cgroups: &[Hierarchy]) -> io::Result<()> {
    for cgroup in cgroups {
        match fs::remove_dir(&cgroup.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(named(&cgroup.dir, &error)),
            _ => {}
        }
        // Other sandboxes may be in it: then it stays, and the last one removes it.
        let _ = fs::remove_dir(cgroup.parent());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
