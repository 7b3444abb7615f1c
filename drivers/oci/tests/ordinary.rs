//! The driver as an ordinary user: as root this makes throw-away users, one with a range of ids and one with its own id
//! alone, and runs the other tests' bodies as each of them, from copies that they may execute.
#![allow(clippy::duplicate_mod)] // Each of those files brings it along, as a test of its own does.

mod common;
#[path = "confinement.rs"]
mod confinement;
#[path = "crash.rs"]
mod crash;
#[path = "lifecycle.rs"]
mod lifecycle;
#[path = "logs.rs"]
mod logs;
#[path = "table.rs"]
mod table;
#[path = "volumes.rs"]
mod volumes;
#[path = "without_root.rs"]
mod without_root;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use common::{PATIENCE, is_root};
use parking_lot::Mutex;

/// Held while users are made and removed: their programs wait for each other's locks for some seconds only.
static ACCOUNTS: Mutex<()> = Mutex::new(());

/// A user that exists as long as this does.
struct User {
    name: String,
    folder: tempfile::TempDir,
}

impl User {
    fn new(granted: bool) -> Self {
        /// Ranges that were granted here; each user has its own.
        static RANGES: AtomicU32 = AtomicU32::new(0);
        let accounts = ACCOUNTS.lock();
        let name = format!("cht{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
        run(Command::new("useradd").args(["--no-create-home", "--home-dir", "/nonexistent", &name]));
        let first = 3_000_000_000 + RANGES.fetch_add(65_536, Ordering::Relaxed);
        // The system's settings decide whether a range comes with a user.
        for (file, add) in [("/etc/subuid", "--add-subuids"), ("/etc/subgid", "--add-subgids")] {
            let has =
                fs::read_to_string(file).unwrap_or_default().lines().any(|line| line.starts_with(&format!("{name}:")));
            let remove = add.replace("add", "del");
            let range = format!("{first}-{}", first + 65_535);
            match (granted, has) {
                (true, false) => run(Command::new("usermod").args([add, &range, &name])),
                (false, true) => {
                    let text = fs::read_to_string(file).unwrap();
                    let line = text.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap();
                    let words: Vec<u64> = line.split(':').skip(1).map(|word| word.parse().unwrap()).collect();
                    let range = format!("{}-{}", words[0], words[0] + words[1] - 1);
                    run(Command::new("usermod").args([&*remove, &range, &name]));
                }
                _ => {}
            }
        }
        drop(accounts);
        let folder = tempfile::Builder::new().prefix("chiton-user-").tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for part in ["deps", "examples"] {
            fs::create_dir(folder.path().join(part)).unwrap();
        }
        let helper = folder.path().join("examples/oci-host");
        // Without what debuggers read it is a third as large, and each test writes it once.
        let stripped = Command::new("strip").arg("-g").arg("-o").arg(&helper).arg(common::helper()).status();
        // By a program of its own: what this process writes, a neighbour's child that was forked meanwhile has open,
        // too, until it executes its own program, and what is open for writing is not executed.
        let copy = |from: &Path, to: &Path| run(Command::new("cp").arg("--preserve=mode").args([from, to]));
        if !stripped.is_ok_and(|status| status.success()) {
            copy(&common::helper(), &helper);
        }
        copy(&std::env::current_exe().unwrap(), &folder.path().join("deps/ordinary"));
        let temporary = folder.path().join("tmp");
        fs::create_dir(&temporary).unwrap();
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o1777)).unwrap();
        Self { name, folder }
    }

    /// Runs all tests of this binary but those that make users; `filter` chooses among them, and `cgroup` is where.
    fn test(&self, filter: Option<&str>, cgroup: Option<&Path>) -> String {
        let id = |option: &str| {
            let output = Command::new("id").args([option, &self.name]).output().unwrap();
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        // It becomes what it runs, so that nothing else is in the cgroup.
        let enter = r#"[ -z "$0" ] || echo $$ > "$0/cgroup.procs"; exec "$@""#;
        let output = Command::new("sh")
            .args(["-c", enter])
            .arg(cgroup.unwrap_or(Path::new("")))
            .arg("setpriv")
            .args([format!("--reuid={}", id("-u")), format!("--regid={}", id("-g")), "--clear-groups".to_owned()])
            .arg(self.folder.path().join("deps/ordinary"))
            .args(["--test-threads=1", "--nocapture", "--skip", "as_an_ordinary_user"])
            .args(filter)
            .current_dir("/")
            .env_clear()
            .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
            .env("USER", &self.name)
            .env("TMPDIR", self.folder.path().join("tmp"))
            .env("OCI_TEST_ORDINARY", "1")
            .output()
            .unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{text}");
        text
    }
}

impl Drop for User {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What a failed test left would keep the user from being removed.
            let end = "for pid in $(pgrep -u \"$0\"); do kill -9 $pid; done";
            drop(Command::new("sh").args(["-c", end, &self.name]).status());
        }
        let _accounts = ACCOUNTS.lock();
        let begin = Instant::now();
        // A process of the user's that is ending keeps it from being removed until it has ended.
        let (removed, gone) = loop {
            let removed = Command::new("userdel").arg(&self.name).output();
            let gone = removed.as_ref().is_ok_and(|output| output.status.success());
            if gone || std::thread::panicking() || begin.elapsed() > PATIENCE {
                break (removed, gone);
            }
        };
        assert!(gone || std::thread::panicking(), "user {} is not removed: {removed:?}", self.name);
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// Processes of a user and of the ids that it was granted.
fn processes(uid: u32, granted: Option<u32>) -> Vec<String> {
    let ours = |id: u32| id == uid || granted.is_some_and(|first| (first..first + 65_536).contains(&id));
    let found = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
        let id = line("Uid:").split_whitespace().next()?.parse().ok()?;
        // A zombie is for process 1 to reap, in its own time.
        (ours(id) && !line("State:").starts_with('Z')).then(|| format!("{} {}", entry.path().display(), line("Name:")))
    });
    found.collect()
}

/// Whether users can be made; says by name that they cannot.
fn can(test: &str) -> bool {
    let can = is_root() && Path::new("/usr/sbin/useradd").exists();
    if !can {
        eprintln!("SKIPPED {test}: it makes users, which needs root and useradd");
    }
    can
}

/// The families that run as each user.
fn life(granted: bool) {
    let user = User::new(granted);
    let uid = nix_uid(&user.name);
    let first = fs::read_to_string("/etc/subuid").unwrap_or_default().lines().find_map(|line| {
        let rest = line.strip_prefix(&format!("{}:", user.name))?;
        rest.split(':').next()?.parse().ok()
    });
    assert_eq!(first.is_some(), granted);
    let text = user.test(None, None);
    for family in ["confinement::", "crash::", "lifecycle::", "logs::", "table::", "volumes::", "without_root::"] {
        assert!(text.contains(&format!("test {family}")), "nothing of {family}\n{text}");
    }
    let begin = Instant::now();
    loop {
        let left = processes(uid, first);
        if left.is_empty() {
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "left behind: {left:#?}");
        std::thread::yield_now();
    }
    let left: Vec<_> =
        fs::read_dir(user.folder.path().join("tmp")).unwrap().flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "files are left: {left:?}");
}

fn nix_uid(name: &str) -> u32 {
    let output = Command::new("id").args(["-u", name]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

#[test]
fn the_table_of_limits_as_an_ordinary_user() {
    if can("the_table_of_limits_as_an_ordinary_user") {
        let text = User::new(true).test(Some("table::"), None);
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
        assert!(rows.len() > 10, "{text}");
        println!("{}", rows.join("\n"));
    }
}

#[test]
fn everything_as_an_ordinary_user_with_a_range_of_ids() {
    if can("everything_as_an_ordinary_user_with_a_range_of_ids") {
        assert!(Path::new("/usr/bin/newuidmap").exists(), "package uidmap is installed");
        life(true);
    }
}

#[test]
fn everything_as_an_ordinary_user_with_its_own_id_alone() {
    if can("everything_as_an_ordinary_user_with_its_own_id_alone") {
        life(false);
    }
}

/// A cgroup of version 2 that is given to a user, with the controllers that this machine has there.
struct Subtree(std::path::PathBuf);

impl Subtree {
    fn new(uid: u32) -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = mounts.lines().find(|line| line.contains(" - cgroup2 ")).expect("cgroup version 2 is mounted");
        let root = Path::new(line.split(' ').nth(4).unwrap());
        for name in ["cpu", "memory", "pids"] {
            // What this machine has in other hierarchies cannot be had here.
            let _ = fs::write(root.join("cgroup.subtree_control"), format!("+{name}"));
        }
        let made = root.join(format!("chiton-test-{uid}-{}", std::process::id()));
        fs::create_dir(&made).unwrap();
        for file in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
            std::os::unix::fs::chown(made.join(file), Some(uid), Some(uid)).unwrap();
        }
        Self(made)
    }
}

impl Drop for Subtree {
    fn drop(&mut self) {
        let begin = Instant::now();
        // A process that is ending is in it until it has ended.
        let removed = loop {
            let _ = fs::remove_dir(self.0.join("gateway"));
            let removed = fs::remove_dir(&self.0);
            if removed.is_ok() || std::thread::panicking() || begin.elapsed() > PATIENCE {
                break removed;
            }
            std::thread::yield_now();
        };
        if !std::thread::panicking() {
            removed.expect("nothing is left in the delegated cgroup");
        }
    }
}

#[test]
fn a_delegated_cgroup_is_used_as_an_ordinary_user() {
    if !can("a_delegated_cgroup_is_used_as_an_ordinary_user") {
        return;
    }
    let user = User::new(false);
    let subtree = Subtree::new(nix_uid(&user.name));
    let text = user.test(Some("::delegated_"), Some(&subtree.0));
    let skipped = text.matches("SKIPPED").count();
    let controllers = fs::read_to_string(subtree.0.join("cgroup.controllers")).unwrap();
    let all = ["cpu", "memory", "pids"].iter().all(|name| controllers.split_whitespace().any(|word| word == *name));
    assert_eq!(skipped, usize::from(!all), "{text}");
}
