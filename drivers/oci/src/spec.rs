//! From a filled plan to what the launch child is told.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use chiton_driver::AgentLaunch;
use chiton_image::User;
use chiton_oci_monitor::cgroup::Limits;
use rustix::process::{Resource, getrlimit};
use serde_json::{Value, json};

use crate::host::Unpacked;
use crate::launch::{Bind, Entry, Layer, RootDocument, VolumeBind};
use crate::means::{Limit, Means, Way};
use crate::plan::{DiskMeans, ImageKind, NetworkMode, OciPlan};
use crate::record::{Paths, Record};

/// Where the agent's folder is in the sandbox.
pub(crate) const AGENT_FOLDER: &str = "/run/chiton";
/// Where the agent's program is in the sandbox; beside the folder, which belongs to the gateway.
pub(crate) const AGENT_PROGRAM: &str = "/run/chiton-agent";

/// Host folders with programs and libraries.
const PROGRAMS: [&str; 7] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// What of the host's configuration programs need to run; nothing here names the host's users, keys or networks.
const CONFIGURATION: [&str; 10] = [
    "etc/alternatives",
    "etc/ca-certificates",
    "etc/ld.so.cache",
    "etc/ld.so.conf",
    "etc/ld.so.conf.d",
    "etc/localtime",
    "etc/mime.types",
    "etc/protocols",
    "etc/services",
    "etc/ssl/certs",
];

/// The most open files of a process where a plan does not say.
const OPEN_FILES: u64 = 65_536;

/// How many inotify instances a sandbox can have; the host has 128 for each user where nobody raised that.
const INOTIFY_INSTANCES: &str = "24";

/// The most that a sandbox can be given: this process's own hard limit, which it cannot pass.
pub(crate) fn open_files_limit() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

/// The limits of a plan in the kernel's units.
pub(crate) fn limits(plan: &OciPlan, means: &Means) -> Limits {
    Limits {
        cpu_millicores: plan.resources.cpu.as_ref().map(chiton_model::CpuQuantity::millicores),
        memory_bytes: plan.resources.memory.as_ref().map(chiton_model::MemoryQuantity::bytes),
        pids: plan.resources.pids.filter(|_| matches!(means.way(Limit::Pids), Way::Cgroup { .. })),
    }
}

/// The layers and host paths of a sandbox's root.
pub(crate) fn root(
    plan: &OciPlan,
    record: &Record,
    paths: &Paths,
    agent: Option<&Path>,
    volumes: Vec<VolumeBind>,
    image: &Unpacked,
) -> RootDocument {
    let mut skeleton = base(plan, record);
    if plan.image.kind == ImageKind::Oci {
        image_folders(plan, image.user.as_ref(), &mut skeleton);
    }
    let mut binds = Vec::new();
    if plan.image.kind == ImageKind::Host {
        for name in PROGRAMS.into_iter().chain(CONFIGURATION) {
            host_path(name, &mut skeleton, &mut binds);
        }
    }
    if let Some(program) = agent {
        skeleton.push(Entry::Folder(AGENT_FOLDER.to_owned(), 0o755));
        skeleton.push(Entry::File(AGENT_PROGRAM.to_owned(), String::new()));
        let show = |source: &Path, target: &str| Bind {
            source: source.to_owned(),
            target: target.to_owned(),
            read_only: true,
            device: false,
        };
        binds.push(show(&paths.agent, AGENT_FOLDER));
        binds.push(show(program, AGENT_PROGRAM));
    }
    if let Some(file) = crate::network::resolver_file(plan, paths) {
        binds.push(Bind { source: file, target: "/etc/resolv.conf".to_owned(), read_only: true, device: false });
    }
    for mount in &plan.mounts {
        binds.push(Bind {
            source: mount.source.clone().into(),
            target: mount.target.clone(),
            read_only: mount.read_only,
            device: false,
        });
    }
    RootDocument {
        layer: layer(plan, paths),
        // The overlay wants the highest first.
        lowers: plan.image.path.iter().map(Into::into).chain(image.layers.iter().rev().cloned()).collect(),
        first_id: record.first_id,
        ids: record.ids.min(plan.security.mapped_ids),
        skeleton,
        binds,
        volumes,
    }
}

/// Where what the sandbox writes is kept.
fn layer(plan: &OciPlan, paths: &Paths) -> Layer {
    let limits = &plan.resources;
    match (limits.disk_by, &limits.disk) {
        (Some(DiskMeans::Memory), Some(disk)) => {
            let bytes = disk.bytes();
            // Without a limit of its own: an inode for each page, as many as could be filled.
            Layer::Memory { bytes, inodes: limits.inodes.unwrap_or((bytes / 4096).max(1024)) }
        }
        (Some(DiskMeans::Image), _) if limits.limits_disk() => Layer::Image(paths.disk.clone()),
        _ => Layer::Folder { upper: paths.upper.clone(), work: paths.work.clone() },
    }
}

/// What every root has where its image has nothing.
fn base(plan: &OciPlan, record: &Record) -> Vec<Entry> {
    let folder = |path: &str, mode| Entry::Folder(path.to_owned(), mode);
    let file = |path: &str, text: String| Entry::File(path.to_owned(), text);
    let mut entries: Vec<Entry> =
        ["/dev", "/etc", "/etc/ssl", "/home", "/mnt", "/opt", "/proc", "/run", "/srv", "/sys", "/var", "/workspace"]
            .iter()
            .map(|path| folder(path, 0o755))
            .collect();
    entries.extend([folder("/root", 0o700), folder("/tmp", 0o1777), folder("/var/tmp", 0o1777)]);
    entries.extend([
        file("/etc/hostname", format!("{}\n", plan.hostname)),
        file("/etc/hosts", crate::network::hosts_file(plan, record)),
        file("/etc/resolv.conf", crate::network::dns::file(&plan.network.dns)),
        file("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n".to_owned()),
        file(
            "/etc/passwd",
            format!("root:x:0:0:root:{}:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n", home(plan)),
        ),
        file("/etc/group", "root:x:0:\nnogroup:x:65534:\n".to_owned()),
    ]);
    entries
}

/// What runtimes make where an image has none: its working folder, for its user to write in, and that user's
/// `/workspace`. Folders that the image has are as they are there.
fn image_folders(plan: &OciPlan, user: Option<&User>, skeleton: &mut Vec<Entry>) {
    let mut made: Vec<&Path> = Vec::new();
    let workdir = Path::new(&plan.workdir);
    for folder in workdir.ancestors().filter(|folder| *folder != Path::new("/")) {
        let known = |entry: &Entry| matches!(entry, Entry::Folder(path, _) if Path::new(path) == folder);
        if !skeleton.iter().any(known) {
            made.push(folder);
        }
    }
    skeleton.extend(made.iter().rev().map(|folder| Entry::Folder(folder.to_string_lossy().into_owned(), 0o755)));
    if let Some(user) = user {
        let own = made.first().map(|folder| folder.to_string_lossy().into_owned());
        for path in own.into_iter().chain(["/workspace".to_owned()]) {
            skeleton.push(Entry::Owner(path, user.uid, user.gid));
        }
    }
}

fn home(plan: &OciPlan) -> &str {
    plan.env.get("HOME").filter(|home| !home.contains([':', '\n'])).map_or("/root", String::as_str)
}

/// Shows a host path read-only, or repeats the link that it is.
fn host_path(name: &str, skeleton: &mut Vec<Entry>, binds: &mut Vec<Bind>) {
    let source = Path::new("/").join(name);
    let Ok(metadata) = fs::symlink_metadata(&source) else { return };
    let target = format!("/{name}");
    if metadata.is_symlink() {
        if let Some(link) = fs::read_link(&source).ok().and_then(|link| link.into_os_string().into_string().ok()) {
            skeleton.push(Entry::Link(target, link));
        }
        return;
    }
    skeleton.push(if metadata.is_dir() {
        Entry::Folder(target.clone(), 0o755)
    } else {
        Entry::File(target.clone(), String::new())
    });
    binds.push(Bind { source, target, read_only: true, device: false });
}

/// The runtime specification (OCI 1.0), without the root's path.
pub(crate) fn runtime(
    plan: &OciPlan,
    record: &Record,
    agent: Option<&AgentLaunch>,
    means: &Means,
    user: Option<&User>,
) -> Value {
    let ids =
        json!([{ "containerID": 0, "hostID": record.first_id, "size": record.ids.min(plan.security.mapped_ids) }]);
    let namespaces: Vec<Value> = plan.security.namespaces.iter().map(|kind| json!({ "type": kind })).collect();
    let no_capabilities = json!({
        "bounding": [], "effective": [], "inheritable": [], "permitted": [], "ambient": []
    });
    let open_files = plan.resources.open_files.map_or(OPEN_FILES, u64::from).min(open_files_limit());
    let (arguments, folder) = process(plan, agent);
    let mut spec = json!({
        "ociVersion": "1.0.2",
        "hostname": plan.hostname,
        "root": { "path": "", "readonly": plan.image.read_only },
        "process": {
            "terminal": false,
            // The agent too: nothing in the sandbox has the capability to become somebody else.
            "user": {
                "uid": user.map_or(0, |user| user.uid),
                "gid": user.map_or(0, |user| user.gid),
                "additionalGids": user.map_or(&[][..], |user| &user.groups),
            },
            "args": arguments,
            "env": environment(plan, agent, user),
            "cwd": folder,
            "capabilities": no_capabilities,
            "rlimits": [
                { "type": "RLIMIT_NOFILE", "soft": open_files, "hard": open_files },
                { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 },
            ],
            "noNewPrivileges": plan.security.no_new_privileges,
        },
        "mounts": mounts(plan, record),
        "linux": {
            // Absolute, or the library asks for systemd. It finds no hierarchy to make it in.
            "cgroupsPath": "/chiton",
            // The kernel counts these for the sandbox and again for whoever made its user namespace, who is the same for
            // all: without a bound of its own, one sandbox could take them from the host and from all others.
            "sysctl": { "user.max_inotify_instances": INOTIFY_INSTANCES, "user.max_fanotify_groups": "0" },
            "uidMappings": ids,
            "gidMappings": ids,
            "namespaces": namespaces,
            "maskedPaths": plan.security.masked_paths,
            "readonlyPaths": plan.security.readonly_paths,
        },
    });
    if let (Some(pids), Way::Rlimit(name)) = (plan.resources.pids, means.way(Limit::Pids))
        && let Some(limits) = spec["process"]["rlimits"].as_array_mut()
    {
        limits.push(json!({ "type": name, "soft": pids, "hard": pids }));
    }
    if gateway_is_spared() {
        spec["process"]["oomScoreAdj"] = json!(0);
    }
    spec
}

/// Whether the out-of-memory killer is told to spare this process; a sandbox must not inherit that.
fn gateway_is_spared() -> bool {
    let score = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    score.trim().parse::<i32>().is_ok_and(|score| score < 0)
}

fn process<'a>(plan: &'a OciPlan, agent: Option<&AgentLaunch>) -> (Vec<&'a str>, &'a str) {
    let command = plan.command.iter().map(String::as_str);
    if agent.is_none() {
        return (command.collect(), &plan.workdir);
    }
    let mut arguments = vec![AGENT_PROGRAM, "agent"];
    if !plan.command.is_empty() {
        arguments.push("--");
        arguments.extend(command);
    }
    // The agent enters the working folder itself, and says so when it is not there.
    (arguments, "/")
}

fn environment(plan: &OciPlan, agent: Option<&AgentLaunch>, user: Option<&User>) -> Vec<String> {
    let mut env: BTreeMap<&str, &str> = plan.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    // Without HOME the library looks the user up, which loads the image's code before the sandbox is closed.
    env.entry("HOME").or_insert(user.map_or("/root", |user| &user.home));
    let socket = format!("{AGENT_FOLDER}/agent.sock");
    if let Some(agent) = agent {
        env.insert("CHITON_AGENT_SOCKET", &socket);
        env.insert("CHITON_AGENT_TOKEN", &agent.token);
        env.insert("CHITON_AGENT_ATTEMPT", &agent.attempt);
        env.insert("CHITON_AGENT_WORKDIR", &plan.workdir);
    }
    env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// The kernel's file systems. Host paths are mounted before the library runs.
fn mounts(plan: &OciPlan, record: &Record) -> Vec<Value> {
    let mount = |target: &str, kind: &str, source: &str, options: &[&str]| json!({ "destination": target, "type": kind, "source": source, "options": options });
    // The group "tty", which a sandbox with few ids does not have.
    let terminals: &[&str] = &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"];
    let terminals = if record.ids > 5 { terminals } else { &terminals[..5] };
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", "devpts", terminals),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        // The kernel shows sysfs only to who owns the network namespace.
        if plan.network.mode == NetworkMode::Host {
            mount("/sys", "tmpfs", "tmpfs", &["nosuid", "noexec", "nodev", "ro", "mode=755", "size=4k"])
        } else {
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"])
        },
    ];
    if plan.image.read_only {
        mounts.push(mount("/tmp", "tmpfs", "tmpfs", &["nosuid", "nodev", "mode=1777", "size=65536k"]));
    }
    for device in &plan.devices {
        mounts.push(mount(&device.path, "bind", &device.path, &["bind", "nosuid", "noexec"]));
    }
    mounts
}
