//! A gateway with a sandbox that attacks and one that must not notice, and things on the host that must stay as they are.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::PROGRAM;
use super::control::{ATTACKER, Results, results};
use crate::harness::user::By;
use crate::harness::{Gateway, Share};

/// What stands in the host's file that a sandbox must neither read nor change.
pub(super) const CANARY: &str = "the host's own words\n";
/// What stands in the neighbour's.
const MINE: &str = "the neighbour's own words";

/// A gateway, the sandbox `box` with the attacker in it, and the sandbox `neighbour`.
pub(crate) struct Scene {
    pub(crate) gateway: Gateway,
    /// A folder on the host that any uid may enter, with a file that any uid may write: whoever gets out can show it.
    outside: TempDir,
    host: BTreeMap<String, String>,
    neighbour: Value,
    /// How many have connected to the host's sockets.
    visitors: Arc<AtomicUsize>,
    pub(super) tcp: SocketAddr,
}

impl Scene {
    /// Makes both sandboxes.
    #[track_caller]
    pub(crate) fn new(by: By) -> Self {
        Self::with(by, &[])
    }

    /// The same, alone on the machine: for tests that measure.
    #[track_caller]
    pub(crate) fn alone(by: By, arguments: &[&str]) -> Self {
        Self::sharing(by, arguments, Share::Whole)
    }

    /// The same, with more arguments for the create of `box`.
    #[track_caller]
    pub(crate) fn with(by: By, arguments: &[&str]) -> Self {
        Self::sharing(by, arguments, Share::Part)
    }

    #[track_caller]
    fn sharing(by: By, arguments: &[&str], share: Share) -> Self {
        let outside = tempfile::Builder::new().prefix("chiton-outside-").tempdir_in("/var/tmp").expect("a folder");
        fs::set_permissions(outside.path(), fs::Permissions::from_mode(0o777)).expect("a mode");
        let canary = outside.path().join("canary");
        fs::write(&canary, CANARY).expect("a file");
        fs::set_permissions(&canary, fs::Permissions::from_mode(0o666)).expect("a mode");

        // At this level it says who connected, for which the tests wait.
        let gateway = Gateway::run_by("[log]\nlevel = \"debug\"\n", share, by);
        gateway.chiton(&[&["sandbox", "create", "box"], arguments].concat()).ok();
        gateway.chiton(&["sandbox", "create", "neighbour"]).ok();
        gateway.chiton(&["sandbox", "cp", ATTACKER, &format!("box:{PROGRAM}")]).ok();
        gateway.shell("neighbour", &format!("printf %s {MINE:?} > /workspace/mine")).ok();
        let neighbour = gateway.get("neighbour");
        let visitors = Arc::<AtomicUsize>::default();
        let tcp = listen(&outside, &visitors);
        Self { gateway, outside, host: fingerprint(), neighbour, visitors, tcp }
    }

    /// The host's file, as a path on the host.
    pub(crate) fn canary(&self) -> PathBuf {
        self.outside.path().join("canary")
    }

    /// The folder that it is in.
    pub(crate) fn outside(&self) -> &std::path::Path {
        self.outside.path()
    }

    /// A socket of the host's that has no file.
    pub(crate) fn abstract_name(&self) -> String {
        abstract_name(&self.outside)
    }

    /// What came of attacks that were tried in `box`.
    #[track_caller]
    pub(crate) fn attack(&self, attacks: &[&str]) -> Results {
        let printed = self.gateway.chiton(&[&["sandbox", "exec", "box", "--", PROGRAM], attacks].concat()).ok();
        results(attacks, &printed)
    }

    /// Tries attacks in `box` and asserts that each was refused with one of its errors (`EPERM|EACCES`), and that nobody
    /// was harmed.
    #[track_caller]
    pub(crate) fn refused(&self, attacks: &[(&str, &str)]) {
        let names: Vec<&str> = attacks.iter().map(|(name, _)| *name).collect();
        let found = self.attack(&names);
        let wrong: Vec<String> = attacks
            .iter()
            .filter_map(|(name, wanted)| {
                let said = &found[*name];
                let as_wanted =
                    said.strip_prefix("refused ").is_some_and(|error| wanted.split('|').any(|one| one == error));
                (!as_wanted).then(|| format!("{name}: {said}, not refused with {wanted}"))
            })
            .collect();
        self.unharmed();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    /// The median time of an exec in the neighbour, over the command line.
    #[track_caller]
    pub(crate) fn latency(&self) -> Duration {
        let mut times: Vec<Duration> = (0..15)
            .map(|_| {
                let begin = Instant::now();
                self.gateway.chiton(&["sandbox", "exec", "neighbour", "--", "true"]).ok();
                begin.elapsed()
            })
            .collect();
        times.sort();
        times[times.len() / 2]
    }

    /// The host's process id of the init of a sandbox: its agent.
    #[track_caller]
    pub(crate) fn agent(&self, name: &str) -> i32 {
        let sandbox = self.gateway.get(name);
        let id = sandbox["id"].as_str().expect("an id").to_owned();
        let end = Instant::now() + Duration::from_mins(1);
        loop {
            if let Some(found) = Self::init(&id) {
                return found;
            }
            // One whose parents end while they are looked at is not seen.
            assert!(Instant::now() < end, "the sandbox has no init");
        }
    }

    fn init(id: &str) -> Option<i32> {
        let processes = fs::read_dir("/proc").expect("processes").flatten();
        let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.find(|pid| {
            // For an ordinary user the monitor is the first of a process namespace, too.
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let agent = command.starts_with(b"/run/chiton-agent\0agent");
            let status = status(*pid);
            agent && status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1")) && below(*pid, id)
        })
    }

    /// Looks from outside: the machine is as it was, the neighbour lives and has what it had, the gateway answers.
    #[track_caller]
    pub(crate) fn unharmed(&self) {
        assert_eq!(fs::read_to_string(self.canary()).ok().as_deref(), Some(CANARY), "the host's file was changed");
        let listing = fs::read_dir(self.outside.path()).expect("a folder");
        let mut names: Vec<_> = listing.map(|entry| entry.expect("an entry").file_name()).collect();
        names.sort();
        assert_eq!(names, ["canary", "socket"], "something was made in the host's folder");
        assert_eq!(fingerprint(), self.host, "the host's settings were changed");
        assert_eq!(self.visitors.load(Ordering::SeqCst), 0, "somebody connected to the host's sockets");
        assert_eq!(self.gateway.shell("neighbour", "cat /workspace/mine").ok(), MINE);
        assert_eq!(self.gateway.get("neighbour"), self.neighbour, "the neighbour is another");
        let (head, _) = self.gateway.http("data/gateway.sock", "/healthz");
        assert!(head.starts_with("http/1.1 200"), "{head}");
        let said = self.gateway.said();
        assert!(!said.contains("panicked"), "{said}");
    }
}

fn status(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default()
}

/// Whether a process descends from one that was started with this word: a sandbox's monitor, with its id.
fn below(mut pid: i32, word: &str) -> bool {
    while pid > 1 {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if command.split(|byte| *byte == 0).any(|part| part == word.as_bytes()) {
            return true;
        }
        let parent = status(pid).lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok());
        pid = parent.unwrap_or(0);
    }
    false
}

fn abstract_name(outside: &TempDir) -> String {
    outside.path().file_name().expect("a name").to_string_lossy().into_owned()
}

/// Listens on the host in every way in which a sandbox might get to a service of it.
fn listen(outside: &TempDir, visitors: &Arc<AtomicUsize>) -> SocketAddr {
    let file = UnixListener::bind(outside.path().join("socket")).expect("a socket");
    let mode = fs::Permissions::from_mode(0o777);
    fs::set_permissions(outside.path().join("socket"), mode).expect("a mode");
    let name = UnixAddress::from_abstract_name(abstract_name(outside)).expect("a name");
    let nameless = UnixListener::bind_addr(&name).expect("a socket");
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = tcp.local_addr().expect("an address");
    for listener in [file, nameless] {
        let visitors = Arc::clone(visitors);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                welcome(stream, &visitors);
            }
        });
    }
    let visitors = Arc::clone(visitors);
    std::thread::spawn(move || {
        for stream in tcp.incoming().map_while(Result::ok) {
            welcome(stream, &visitors);
        }
    });
    address
}

fn welcome(mut stream: impl std::io::Read + std::io::Write, visitors: &AtomicUsize) {
    visitors.fetch_add(1, Ordering::SeqCst);
    drop(stream.write_all(b"come in\n"));
    drop(stream.read(&mut [0; 64]));
}

/// Settings of the machine that an attack might change, as far as no other test changes them.
fn fingerprint() -> BTreeMap<String, String> {
    let settings = [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/hostname",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/kernel/randomize_va_space",
        "/proc/sys/kernel/sysrq",
        "/proc/sys/fs/suid_dumpable",
        "/proc/sys/vm/overcommit_memory",
        "/sys/kernel/uevent_helper",
    ];
    let mut found: BTreeMap<String, String> =
        settings.iter().map(|path| ((*path).to_owned(), fs::read_to_string(path).unwrap_or_default())).collect();
    // How much of each is used changes by itself.
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    found.insert("swaps".to_owned(), swaps.lines().filter_map(|line| line.split_whitespace().next()).collect());
    // In a hierarchy of one root the groups of other tests come and go here.
    found.insert("attack".to_owned(), fs::exists("/sys/fs/cgroup/attack").is_ok_and(|there| there).to_string());
    for group in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        let path = group.path().join("release_agent");
        if let Ok(text) = fs::read_to_string(&path) {
            found.insert(path.display().to_string(), text);
        }
        let made = group.path().join("attack");
        if made.exists() {
            found.insert(made.display().to_string(), "made".to_owned());
        }
    }
    // Nothing that the attacker mounts may appear here, and none of its keys.
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    found.insert("mounts".to_owned(), table.lines().filter(|line| line.contains("attack")).collect());
    // The sixth word is the owner: those of root are of the same attacks outside of a sandbox, in other tests.
    let keys = fs::read_to_string("/proc/keys").unwrap_or_default();
    let theirs = |line: &&str| line.contains("chiton-attack") && line.split_whitespace().nth(5) != Some("0");
    found.insert("keys".to_owned(), keys.lines().filter(theirs).collect());
    found
}
