//! Namespaces for one test, and what is asked of the engines in them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A process of a world.
struct Process {
    pid: String,
    parent: String,
    name: String,
    command: String,
}

/// Mounts, network and processes of a test, and a folder for its engines.
pub(crate) struct World {
    holder: Child,
    /// Process 1 in there.
    first: String,
    folder: tempfile::TempDir,
}

impl World {
    /// None where it cannot be had, which is then said.
    pub(crate) fn new(test: &str) -> Option<Self> {
        let required = std::env::var_os("ENGINES_REQUIRED").is_some();
        let root = fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
        let missing = ["/usr/sbin/dockerd", "/usr/bin/podman", "/usr/bin/catatonit"]
            .iter()
            .find(|path| !Path::new(path).exists());
        if !root || missing.is_some() {
            assert!(!required, "engines are required: root: {root}, missing: {missing:?}");
            eprintln!("SKIPPED {test}: it needs root and container engines (cargo xtask test installs them)");
            return None;
        }
        // Who is process 1 waits for all that lose their parents. `/run`, `/opt` and `/var/cache` are this world's alone, because engines
        // share places there.
        let script = "while umount /run/netns 2> /dev/null; do :; done; mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /opt && mount -t tmpfs tmpfs /var/cache && ip link set lo up && echo ready && \
                      exec catatonit -P";
        let mut holder = Command::new("unshare")
            .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--", "sh", "-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let parent = format!("PPid:\t{}\n", holder.id());
        let first = processes()
            .into_iter()
            .find(|pid| fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| status.contains(&parent)));
        // Not in `/tmp`: it may be a file system that takes no layers.
        let folder = tempfile::Builder::new().prefix("engines-").tempdir_in("/var/tmp").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Some(Self { holder, first: first.unwrap(), folder })
    }

    /// The folder of the set.
    pub(crate) fn home(&self) -> PathBuf {
        self.folder.path().join("set")
    }

    fn command(&self, program: &str) -> Command {
        // Each with a deadline; what it started has the same one.
        let mut command = Command::new("timeout");
        command
            .args([
                "--kill-after=5",
                "300",
                "nsenter",
                "--target",
                &self.first,
                "--mount",
                "--net",
                "--pid",
                "--",
                program,
            ])
            .current_dir("/");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ENGINES_")) {
            command.env_remove(name);
        }
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(program).args(arguments).output().unwrap();
        assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn engines(&self, words: &[&str]) -> Output {
        let home = self.home().display().to_string();
        let mut command = self.command(env!("CARGO_BIN_EXE_xtask"));
        command.args(["engines", "--dir", &home]).args(words).output().unwrap()
    }

    /// What an order that succeeds prints.
    pub(crate) fn orders(&self, words: &[&str]) -> String {
        let output = self.engines(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What an order that fails says.
    pub(crate) fn refused(&self, words: &[&str]) -> String {
        let output = self.engines(words);
        assert!(!output.status.success(), "{words:?} succeeds");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    pub(crate) fn up(&self) -> Set<'_> {
        let printed = self.orders(&["up"]);
        assert_eq!(printed, self.orders(&["env"]));
        self.set()
    }

    /// The set that is up.
    pub(crate) fn set(&self) -> Set<'_> {
        let text = fs::read_to_string(self.home().join("env")).unwrap();
        let pairs = text.lines().map(|line| line.strip_prefix("export ").unwrap().split_once('=').unwrap());
        Set { world: self, variables: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect() }
    }

    pub(crate) fn down(&self) {
        self.orders(&["down"]);
    }

    /// Processes in there; those that only wait to be asked how they ended do not count.
    fn processes(&self) -> Vec<Process> {
        let text = self.run("ps", &["-eo", "pid=,ppid=,stat=,comm=,args=", "--cols", "4000"]);
        let words = text.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            let (pid, parent, state, name) = (words.next()?, words.next()?, words.next()?, words.next()?);
            let command = words.collect::<Vec<_>>().join(" ");
            let own = |text: &str| text.to_owned();
            let found = || Process { pid: own(pid), parent: own(parent), name: own(name), command };
            (!state.starts_with('Z') && name != "ps").then(found)
        });
        words.collect()
    }

    /// Who serves which engine's API, by name of the engine.
    pub(crate) fn daemons(&self) -> BTreeMap<String, BTreeSet<String>> {
        let (mut found, all) = (BTreeMap::new(), self.processes());
        for (engine, socket) in
            [("docker", "docker.sock"), ("podman", "podman.sock"), ("rootless", "rootless/podman.sock")]
        {
            let socket = format!("unix://{}", self.home().join(socket).display());
            let serves = |process: &&Process| {
                process.command.ends_with(&socket) || process.command.contains(&format!("--host {socket}"))
            };
            let pids: BTreeSet<&str> = all.iter().filter(serves).map(|process| process.pid.as_str()).collect();
            // A child that is not executed yet has the words of its parent.
            let first = all.iter().filter(serves).filter(|process| !pids.contains(process.parent.as_str()));
            let first: BTreeSet<String> = first.map(|process| process.pid.clone()).collect();
            if !first.is_empty() {
                found.insert(engine.to_owned(), first);
            }
        }
        found
    }

    /// Kills engines, keepers and helpers, and leaves containers to themselves.
    pub(crate) fn kill_everything_of_engines(&self) {
        let ours = ["dockerd", "containerd", "containerd-shim", "podman", "conmon", "slirp4netns", "docker-proxy"];
        let found = self.processes();
        let ours = found.iter().filter(|process| ours.contains(&process.name.as_str()));
        let pids: Vec<&str> = ours.map(|process| process.pid.as_str()).collect();
        // In one order: some of them start others again. The first may have taken the last with it.
        drop(self.command("kill").arg("-9").args(pids).output().unwrap());
    }

    /// Waits until nobody serves: who was killed is gone when it has had its turn.
    pub(crate) fn until_no_daemons(&self) {
        let end = Instant::now() + Duration::from_mins(1);
        loop {
            let left = self.daemons();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < end, "{left:?}");
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The user is outside of the namespaces.
            let output = self.engines(&["down"]);
            eprintln!("down after a failure: {}", String::from_utf8_lossy(&output.stderr));
        }
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}

fn processes() -> Vec<String> {
    let names = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).collect()
}

/// What engines could leave, of a world.
#[derive(Debug, PartialEq)]
pub(crate) struct Snapshot {
    mounts: BTreeSet<String>,
    interfaces: BTreeSet<String>,
    packet_filter: String,
    processes: BTreeSet<String>,
    files: BTreeSet<String>,
}

impl Snapshot {
    pub(crate) fn of(world: &World) -> Self {
        // Behind the ids, which are given anew.
        let mounts = world.run("cat", &["/proc/self/mountinfo"]);
        let mounts = mounts.lines().filter_map(|line| line.splitn(4, ' ').nth(3).map(ToOwned::to_owned));
        // Those of another set, which were here when this world was made, go when that set lets go of them.
        let mounts = mounts.filter(|line| !line.contains(" /var/cache/") && !line.contains(" /tmp/")).collect();
        let links = world.run("ip", &["-o", "link"]);
        Self {
            mounts,
            interfaces: links.lines().filter_map(|line| line.split(": ").nth(1).map(ToOwned::to_owned)).collect(),
            packet_filter: world.run("nft", &["list", "ruleset"]),
            processes: world.processes().iter().map(|found| format!("{} {}", found.name, found.command)).collect(),
            files: world.run("find", &["/run", "/opt", "/var/cache"]).lines().map(ToOwned::to_owned).collect(),
        }
    }

    /// Part by part, for a message that can be read.
    pub(crate) fn assert_same(&self, after: &Self) {
        for (what, before, after) in [
            ("processes", &self.processes, &after.processes),
            ("mounts", &self.mounts, &after.mounts),
            ("interfaces", &self.interfaces, &after.interfaces),
            ("files", &self.files, &after.files),
        ] {
            let left: Vec<&String> = after.difference(before).collect();
            let missing: Vec<&String> = before.difference(after).collect();
            assert!(left.is_empty() && missing.is_empty(), "{what}: left {left:#?}, missing {missing:#?}");
        }
        assert_eq!(self.packet_filter, after.packet_filter);
    }
}

/// Users, groups, grants of ids and cgroups with this in their name: these are outside of the namespaces, so only what is
/// called after the set can be told from others'.
pub(crate) fn named(tag: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for file in ["/etc/passwd", "/etc/group", "/etc/subuid", "/etc/subgid"] {
        let text = fs::read_to_string(file).unwrap_or_default();
        found.extend(text.lines().filter(|line| line.contains(tag)).map(|_| file.to_owned()));
    }
    for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let cgroups = fs::read_dir(hierarchy.path()).into_iter().flatten().flatten();
        let ours = cgroups.map(|cgroup| cgroup.path().display().to_string()).filter(|path| path.contains(tag));
        found.extend(ours);
    }
    found
}

/// Engines that are up.
pub(crate) struct Set<'a> {
    world: &'a World,
    variables: BTreeMap<String, String>,
}

impl Set<'_> {
    pub(crate) fn variable(&self, name: &str) -> String {
        self.variables.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.variables)).clone()
    }

    /// What the set's names have in common.
    pub(crate) fn tag(&self) -> String {
        let user = self.variable("ENGINES_PODMAN_ROOTLESS_USER");
        user.rsplit('-').next().unwrap().to_owned()
    }

    /// The way in which a test stops one engine: the program and the folder that the environment names.
    pub(crate) fn control(&self, words: &[&str]) {
        let mut command = self.world.command(&self.variable("ENGINES_CONTROL"));
        let output =
            command.arg("engines").args(words).env("ENGINES_DIR", self.variable("ENGINES_DIR")).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
    }

    fn ask(&self, engine: &str, method: &str, target: &str, body: &str) -> Value {
        let socket = match engine {
            "docker" => "ENGINES_DOCKER",
            "podman" => "ENGINES_PODMAN",
            _ => "ENGINES_PODMAN_ROOTLESS",
        };
        let mut stream = UnixStream::connect(self.variable(socket)).unwrap();
        stream.set_read_timeout(Some(Duration::from_mins(3))).unwrap();
        let length = body.len();
        // 1.0: the answer is in one piece.
        let head = format!("{method} {target} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {length}");
        write!(stream, "{head}\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
        assert!((200..300).contains(&status), "{engine}: {method} {target}: {answer}");
        if body.is_empty() { Value::Null } else { serde_json::from_str(body).unwrap() }
    }

    pub(crate) fn get(&self, engine: &str, target: &str) -> Value {
        self.ask(engine, "GET", target, "")
    }

    pub(crate) fn post(&self, engine: &str, target: &str, body: &Value) -> Value {
        // Docker leaves a body unread that it does not expect, and the connection is then reset.
        self.ask(engine, "POST", target, &if body.is_null() { String::new() } else { body.to_string() })
    }

    /// A description of a container of the image that a variable names.
    pub(crate) fn container(&self, image: &str, script: &str) -> Value {
        json!({
            "Image": self.variable(image),
            "Cmd": ["sh", "-c", script],
            "HostConfig": { "NetworkMode": "none" },
        })
    }

    /// Makes and starts one, and returns its id.
    pub(crate) fn start(&self, engine: &str, container: &Value) -> String {
        let made = self.post(engine, "/containers/create", container);
        let id = made["Id"].as_str().unwrap().to_owned();
        self.post(engine, &format!("/containers/{id}/start"), &Value::Null);
        id
    }

    pub(crate) fn exit_code(&self, engine: &str, image: &str, script: &str) -> i64 {
        let id = self.start(engine, &self.container(image, script));
        self.post(engine, &format!("/containers/{id}/wait"), &Value::Null)["StatusCode"].as_i64().unwrap()
    }
}
