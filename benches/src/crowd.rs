//! Many sandboxes at once: what one more costs, in time and in memory, and that nothing is left of any.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Instant;

use crate::figures::{Figures, millis};
use crate::gateway::{Done, Gateway, create, delete, spec};
use crate::library;

/// How many creates one line of the table sums up.
const STEP: usize = 25;

pub(crate) async fn run(count: usize) -> Done<()> {
    let folder = tempfile::Builder::new().prefix("chiton-crowd-").tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711))?;
    library::image(&folder.path().join("image"), 0)?;
    let gateway = Gateway::start(folder.path())?;
    let mut client = gateway.client().await?;
    let image = format!("dir:{}", folder.path().join("image").display());
    create(&mut client, "warm", spec(&image)).await?;
    delete(&mut client, "warm").await?;
    let strangers = left(folder.path())?;
    let before = Used::look(folder.path(), &gateway)?;
    println!("\n# {count} sandboxes at once, driver oci, an agent in each");
    let mut step = Figures::default();
    for number in 0..count {
        let begin = Instant::now();
        create(&mut client, &format!("crowd-{number}"), spec(&image)).await?;
        step.add(begin.elapsed());
        if (number + 1) % STEP == 0 || number + 1 == count {
            let (p50, p99) = (millis(step.percentile(50)), millis(step.percentile(99)));
            println!("create {:>4}: p50 {p50:8.3} ms  p99 {p99:8.3} ms", number + 1);
            step = Figures::default();
        }
    }
    let after = Used::look(folder.path(), &gateway)?;
    let each = |one: u64, other: u64| one.saturating_sub(other) / u64::try_from(count).unwrap_or(1).max(1);
    println!(
        "memory per sandbox, KiB: gateway {}, monitor {}, agent {}, kernel {} (all of the machine {})",
        each(after.gateway, before.gateway),
        each(after.monitors, before.monitors),
        each(after.agents, before.agents),
        each(after.kernel, before.kernel),
        each(before.available, after.available)
    );
    let mut gone = Figures::default();
    for number in 0..count {
        let begin = Instant::now();
        delete(&mut client, &format!("crowd-{number}")).await?;
        gone.add(begin.elapsed());
    }
    gone.report("delete");
    let left: Vec<String> = left(folder.path())?.difference(&strangers).cloned().collect();
    if !left.is_empty() {
        return Err(format!("left behind: {left:#?}").into());
    }
    println!("left behind: nothing");
    Ok(())
}

/// KiB in use.
struct Used {
    gateway: u64,
    monitors: u64,
    agents: u64,
    kernel: u64,
    available: u64,
}

impl Used {
    fn look(folder: &Path, gateway: &Gateway) -> Done<Self> {
        let (mut monitors, mut agents) = (0, 0);
        for (pid, mode) in programs(folder)? {
            let private = figure(&format!("/proc/{pid}/smaps_rollup"), "Private_Dirty:").unwrap_or_default();
            *(if mode == "monitor" { &mut monitors } else { &mut agents }) += private;
        }
        let kernel = ["Slab:", "KernelStack:", "PageTables:", "Percpu:"];
        let kernel = kernel.iter().filter_map(|field| figure("/proc/meminfo", field)).sum();
        Ok(Self {
            gateway: gateway.memory("Private_Dirty:")?,
            monitors,
            agents,
            kernel,
            available: figure("/proc/meminfo", "MemAvailable:").ok_or("no MemAvailable")?,
        })
    }
}

fn figure(file: &str, field: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(field))?.split_whitespace().next()?.parse().ok()
}

/// Process ids of monitors and agents, with their mode. Both run the program that the driver installed below the folder;
/// an agent sees it under another path, so the words that it was started with tell.
fn programs(folder: &Path) -> Done<Vec<(u32, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<String> =
            words.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        let ours = words
            .first()
            .is_some_and(|program| Path::new(program).starts_with(folder) || program == "/run/chiton-agent");
        if let (true, Some(mode @ ("monitor" | "agent"))) = (ours, words.get(1).map(String::as_str)) {
            found.push((pid, mode.to_owned()));
        }
    }
    Ok(found)
}

/// What is still there of sandboxes: processes, cgroups, mounts, folders.
fn left(folder: &Path) -> Done<BTreeSet<String>> {
    let mut left: BTreeSet<String> =
        programs(folder)?.into_iter().map(|(pid, mode)| format!("process {pid} ({mode})")).collect();
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let path = folder.to_string_lossy().into_owned();
    left.extend(mounts.lines().filter(|line| line.contains(&path)).map(|line| format!("mount {line}")));
    for root in [folder, Path::new("/sys/fs/cgroup")] {
        folders(root, 6, &mut left);
    }
    Ok(left)
}

/// Folders named by a sandbox's id.
fn folders(at: &Path, depth: usize, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(at).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if entry.file_name().to_string_lossy().starts_with("s-") {
            found.insert(entry.path().display().to_string());
        } else if depth > 0 {
            folders(&entry.path(), depth - 1, found);
        }
    }
}
