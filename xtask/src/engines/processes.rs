//! Which processes are a set's: found by what they are, never by an id in a file, which may be another's by now.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::layout::{Engine, Layout};
use super::user;

/// Programs of engines, as `comm` has them: 15 bytes at most.
const PROGRAMS: [&str; 15] = [
    "dockerd",
    "containerd",
    "containerd-shim",
    "docker-proxy",
    "docker-init",
    "podman",
    "podman pause",
    "conmon",
    "runc",
    "slirp4netns",
    "rootlessport",
    "netavark",
    "aardvark-dns",
    "fuse-overlayfs",
    "catatonit",
];

/// How often a process that ends is looked for.
const LOOK: Duration = Duration::from_millis(20);

/// What is told of a process.
#[derive(Debug)]
pub(crate) struct Process {
    pid: i32,
    parent: u32,
    uid: u32,
    name: String,
    command: String,
    environment: String,
    zombie: bool,
    stopped: bool,
}

impl Process {
    fn read(pid: i32) -> Option<Self> {
        let folder = format!("/proc/{pid}");
        let status = fs::read_to_string(format!("{folder}/status")).ok()?;
        let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
        let text = |name: &str| {
            let bytes = fs::read(format!("{folder}/{name}")).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\0', " ")
        };
        Some(Self {
            pid,
            uid: line("Uid:").split_whitespace().next()?.parse().ok()?,
            parent: line("PPid:").parse().ok()?,
            name: line("Name:").to_owned(),
            command: text("cmdline"),
            environment: text("environ"),
            zombie: line("State:").starts_with('Z'),
            stopped: line("State:").starts_with('T'),
        })
    }

    fn is_program(&self) -> bool {
        PROGRAMS.contains(&self.name.as_str()) || self.name.starts_with("exe")
    }

    /// Whether its root file system is made of layers below the folder: a process of a container whose keeper was killed.
    fn is_contained(&self, layout: &Layout) -> bool {
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", self.pid)).unwrap_or_default();
        mounts.lines().any(|line| line.split(' ').nth(4) == Some("/") && layout.is_named_in(line))
    }
}

fn all() -> impl Iterator<Item = Process> {
    let names = fs::read_dir("/proc").into_iter().flatten().flatten();
    names.filter_map(|entry| Process::read(entry.file_name().to_str()?.parse().ok()?)).filter(|process| !process.zombie)
}

/// Whether a process is there, and more than a record of how it ended.
pub(crate) fn lives(pid: i32) -> bool {
    Process::read(pid).is_some_and(|process| !process.zombie)
}

/// Everything that runs for the set: engines, their keepers and helpers, containers, and all of its user.
fn of(layout: &Layout) -> Vec<Process> {
    let ids = user::ids(layout);
    let marker = layout.marker();
    let found = all().filter(|process| {
        let by_name = process.is_program()
            && (layout.is_named_in(&process.command)
                || process.environment.split(' ').any(|word| word == marker)
                || layout.is_named_in(&process.environment));
        by_name || ids.iter().any(|range| range.contains(&process.uid)) || process.is_contained(layout)
    });
    found.collect()
}

/// The processes that serve one engine's API.
fn serving(layout: &Layout, engine: Engine) -> Vec<Process> {
    let socket = format!("unix://{}", layout.socket(engine).display());
    let program = if engine == Engine::Docker { "dockerd" } else { "podman" };
    all().filter(|process| process.name == program && process.command.split(' ').any(|word| word == socket)).collect()
}

pub(crate) fn is_serving(layout: &Layout, engine: Engine) -> bool {
    !serving(layout, engine).is_empty()
}

/// Whether a dockerd that is not this set's writes rules into the packet filter.
pub(crate) fn another_dockerd(layout: &Layout) -> bool {
    let network = fs::read_link("/proc/self/ns/net").ok();
    all().any(|process| {
        process.name == "dockerd"
            && !layout.is_named_in(&process.command)
            && !process.command.contains("--iptables=false")
            && fs::read_link(format!("/proc/{}/ns/net", process.pid)).ok() == network
    })
}

/// Whether a podman that is not this set's runs or keeps containers.
pub(crate) fn another_podman(layout: &Layout) -> bool {
    let marker = layout.marker();
    all().any(|process| {
        ["podman", "conmon", "aardvark-dns"].contains(&process.name.as_str())
            && process.uid == 0
            && !layout.is_named_in(&process.command)
            && !layout.is_named_in(&process.environment)
            && !process.environment.contains(&marker)
    })
}

/// Ends who serves an engine's API, at once or in its own way, and everything else when it takes longer than `patience`.
pub(crate) fn end(layout: &Layout, engine: Engine, gently: bool, patience: Duration) -> Result<(), String> {
    if gently {
        signal(&serving(layout, engine), Signal::SIGTERM);
        if wait(patience, || serving(layout, engine).is_empty()) {
            return Ok(());
        }
    }
    signal(&serving(layout, engine), Signal::SIGKILL);
    if wait(patience, || serving(layout, engine).is_empty()) {
        return Ok(());
    }
    Err(format!("{} does not end: {:?}", engine.name(), names(&serving(layout, engine))))
}

/// Kills whatever of the set still runs, until nothing does.
pub(crate) fn end_all(layout: &Layout, patience: Duration) -> Result<(), String> {
    let none_left = || {
        let left = of(layout);
        signal(&left, Signal::SIGKILL);
        left.is_empty()
    };
    if wait(patience, none_left) {
        return Ok(());
    }
    Err(format!("these do not end: {:?}", names(&of(layout))))
}

fn names(processes: &[Process]) -> Vec<String> {
    processes.iter().map(|process| format!("{} {}", process.pid, process.command)).collect()
}

fn signal(processes: &[Process], signal: Signal) {
    for process in processes {
        // One that ended meanwhile is what was wanted.
        let _ = kill(Pid::from_raw(process.pid), signal);
    }
}

/// Whether `done` becomes true in time.
pub(crate) fn wait(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if done() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        #[expect(clippy::disallowed_methods, reason = "processes that are not children and sockets tell of no event")]
        std::thread::sleep(LOOK);
    }
}

/// Tells a process and all that it started to end. They are stopped first: one that starts another while the list is made
/// and then ends would leave a process that is nobody's.
pub(crate) fn end_family(pid: u32) {
    let mut family: Vec<u32> = vec![pid];
    wait(Duration::from_secs(2), || {
        let processes: Vec<Process> = all().collect();
        let mut at = 0;
        while let Some(parent) = family.get(at).copied() {
            let children = processes.iter().filter(|process| process.parent == parent).map(|process| process.pid);
            let new: Vec<u32> =
                children.filter_map(|pid| pid.try_into().ok()).filter(|pid| !family.contains(pid)).collect();
            family.extend(new);
            at += 1;
        }
        let awake =
            |process: &&Process| !process.stopped && family.iter().any(|pid| i32::try_from(*pid) == Ok(process.pid));
        let awake: Vec<&Process> = processes.iter().filter(awake).collect();
        for process in &awake {
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGSTOP);
        }
        awake.is_empty()
    });
    for signal in [Signal::SIGTERM, Signal::SIGCONT] {
        for pid in family.iter().filter_map(|pid| i32::try_from(*pid).ok()) {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
}
