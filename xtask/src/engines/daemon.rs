//! How each engine is started: with every place of its own, so that an engine of the system and this one do not meet.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::layout::{Engine, Layout, MARKER};
use super::state::State;
use super::{api, processes, user};

/// How long an engine may take until it answers.
const START: Duration = Duration::from_mins(2);
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Starts an engine unless it answers, and waits until it does.
pub(crate) fn start(layout: &Layout, state: &State, engine: Engine) -> Result<(), String> {
    let socket = layout.socket(engine);
    if processes::is_serving(layout, engine) && api::answers(&socket) {
        return Ok(());
    }
    processes::end(layout, engine, true, Duration::from_secs(20))?;
    // A service does not take over a socket that another left.
    drop(fs::remove_file(&socket));
    let folder = layout.of(engine);
    make(&folder, 0o755)?;
    for name in ["pid", "exec/containerd/containerd.pid"] {
        forget_dead(&folder.join(name));
    }
    let mut command = match engine {
        Engine::Docker => docker(layout, state, &folder)?,
        Engine::Podman => podman(layout, state, &folder)?,
        Engine::Rootless => rootless(layout, state, &folder)?,
    };
    let log = folder.join("log");
    let output = File::options().create(true).append(true).open(&log);
    let output = output.map_err(|error| format!("{} cannot be written: {error}", log.display()))?;
    let errors = output.try_clone().map_err(|error| error.to_string())?;
    // A group of its own: a key that ends the caller does not reach it.
    command.env(MARKER, &layout.home).current_dir("/").process_group(0);
    command.stdin(Stdio::null()).stdout(output).stderr(errors);
    let mut child = command.spawn().map_err(|error| format!("{command:?} cannot be run: {error}"))?;
    wait(&mut child, &socket)
        .map_err(|why| format!("{} {why}; its log {}:\n{}", engine.name(), log.display(), end(&log)))
}

/// Removes the file of a process that is no more. Docker takes one that nobody has waited for yet for alive, and either
/// refuses to start or waits for it in vain.
fn forget_dead(file: &Path) {
    let pid = fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
    if pid.is_some_and(|pid| !processes::lives(pid)) {
        drop(fs::remove_file(file));
    }
}

fn wait(child: &mut Child, socket: &Path) -> Result<(), String> {
    let begun = Instant::now();
    let mut ended = None;
    let answers = processes::wait(START, || {
        ended = child.try_wait().ok().flatten();
        ended.is_some() || api::answers(socket)
    });
    match ended {
        Some(status) => Err(format!("ended with {status}")),
        None if answers => Ok(()),
        None => Err(format!("does not answer in {} s", begun.elapsed().as_secs())),
    }
}

/// The last lines of a log.
fn end(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

fn docker(layout: &Layout, state: &State, folder: &Path) -> Result<Command, String> {
    let bridge = layout.bridge(Engine::Docker);
    let address = format!("10.{}.0.1/24", state.network);
    // Not by `/sys`, which may show another network namespace's.
    if ip(&["link", "show", &bridge]).is_err() {
        ip(&["link", "add", &bridge, "type", "bridge"])?;
        ip(&["addr", "add", &address, "dev", &bridge])?;
        ip(&["link", "set", &bridge, "up"])?;
    }
    // Not a flag: by default its key is in /etc.
    let settings = serde_json::json!({ "deprecated-key-path": folder.join("key.json") });
    write(&folder.join("daemon.json"), &settings.to_string())?;
    let mut command = Command::new("dockerd");
    command.env_clear().env("PATH", PATH);
    for (option, name) in
        [("config-file", "daemon.json"), ("data-root", "data"), ("exec-root", "exec"), ("pidfile", "pid")]
    {
        command.arg(format!("--{option}")).arg(folder.join(name));
    }
    command
        .args(["--host", &format!("unix://{}", layout.socket(Engine::Docker).display())])
        .args(["--bridge", &bridge])
        .args(["--default-address-pool", &format!("base={},size=24", state.subnet(128, 17))])
        .args(["--cgroup-parent", &format!("/{}", layout.cgroup())])
        .args(["--exec-opt", "native.cgroupdriver=cgroupfs"])
        .arg(format!("--iptables={}", state.packet_filter))
        .args(["--log-level", "warn"]);
    Ok(command)
}

fn podman(layout: &Layout, state: &State, folder: &Path) -> Result<Command, String> {
    let mut command = Command::new("podman");
    command.env_clear();
    configure(layout, state, Engine::Podman, folder)?;
    trust_loopback(folder)?;
    arguments(&mut command, Engine::Podman, folder);
    serve(&mut command, layout, Engine::Podman);
    Ok(command)
}

fn rootless(layout: &Layout, state: &State, folder: &Path) -> Result<Command, String> {
    let user = user::make(layout)?;
    let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
    configure(layout, state, Engine::Rootless, folder)?;
    let home = folder.join("home");
    make(&home, 0o700)?;
    let settings = trust_loopback(&home)?;
    let runtime = layout.runtime();
    make(&runtime, 0o700)?;
    for path in [folder.to_owned(), runtime.clone()].into_iter().chain(entries(folder)).chain(settings) {
        chown(&path, Some(uid), Some(gid)).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    // `setpriv` also clears the groups, which only unsafe code can do between fork and exec.
    let mut command = Command::new("setpriv");
    command.env_clear().env("HOME", folder.join("home")).env("XDG_RUNTIME_DIR", &runtime);
    command.env("USER", &user.name);
    command.args([
        format!("--reuid={uid}"),
        format!("--regid={gid}"),
        "--clear-groups".to_owned(),
        "podman".to_owned(),
    ]);
    arguments(&mut command, Engine::Rootless, folder);
    serve(&mut command, layout, Engine::Rootless);
    Ok(command)
}

/// A podman of the set that does something else than serve, for at most half a minute.
pub(crate) fn podman_of_root(layout: &Layout) -> Command {
    let mut command = Command::new("timeout");
    command.env_clear().args(["--kill-after=5", "30", "podman"]);
    arguments(&mut command, Engine::Podman, &layout.of(Engine::Podman));
    command
}

fn serve(command: &mut Command, layout: &Layout, engine: Engine) {
    command.args(["system", "service", "--time=0"]).arg(format!("unix://{}", layout.socket(engine).display()));
}

fn arguments(command: &mut Command, engine: Engine, folder: &Path) {
    command
        .env("PATH", PATH)
        .env("TMPDIR", folder.join("tmp"))
        .env("CONTAINERS_CONF", folder.join("containers.conf"))
        .env("CONTAINERS_STORAGE_CONF", folder.join("storage.conf"));
    for (option, name) in [("root", "root"), ("runroot", "run"), ("tmpdir", "tmp"), ("network-config-dir", "networks")]
    {
        command.arg(format!("--{option}")).arg(folder.join(name));
    }
    command.args(["--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "file"]);
    if engine == Engine::Podman {
        command.env("HOME", folder);
    }
}

/// Podman's settings: nothing of `/etc/containers/containers.conf` and `storage.conf` counts.
fn configure(layout: &Layout, state: &State, engine: Engine, folder: &Path) -> Result<(), String> {
    for name in ["root", "run", "tmp", "networks"] {
        make(&folder.join(name), 0o700)?;
    }
    let quoted = |name: &str| format!("\"{}\"", folder.join(name).display());
    // 1024: without CAP_SYS_RESOURCE nobody may raise the limits that he has, and podman's defaults are higher than most.
    // Locks in files: those in /dev/shm are shared by every podman of a user.
    let text = format!(
        "[containers]\n\
         default_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
         [network]\n\
         network_backend = \"netavark\"\n\
         network_config_dir = {networks}\n\
         default_subnet = \"{subnet}\"\n\
         default_subnet_pools = [{{ base = \"{pool}\", size = 24 }}]\n\
         [engine]\n\
         runtime = \"runc\"\n\
         cgroup_manager = \"cgroupfs\"\n\
         events_logger = \"file\"\n\
         lock_type = \"file\"\n\
         tmp_dir = {tmp}\n\
         image_copy_tmp_dir = {tmp}\n",
        networks = quoted("networks"),
        subnet = state.subnet(1, 24),
        pool = state.subnet(64, 18),
        tmp = quoted("tmp"),
    );
    write(&folder.join("containers.conf"), &text)?;
    let text = format!(
        "[storage]\ndriver = \"overlay\"\ngraphroot = {root}\nrunroot = {run}\n",
        root = quoted("root"),
        run = quoted("run")
    );
    write(&folder.join("storage.conf"), &text)?;
    if engine == Engine::Podman {
        // Its default network is described for once, because its bridge would be called podman0 as the system's.
        let network = serde_json::json!({
            "name": "podman",
            "id": "2f259bab93aaaaa2542ba43ef33eb990d0999ee1b9924b557b7be53c0b7a1bb9",
            "driver": "bridge",
            "network_interface": layout.bridge(Engine::Podman),
            "created": "2026-01-01T00:00:00Z",
            "subnets": [{ "subnet": state.subnet(1, 24), "gateway": format!("10.{}.1.1", state.network) }],
            "ipv6_enabled": false,
            "internal": false,
            "dns_enabled": false,
            "ipam_options": { "driver": "host-local" },
        });
        write(&folder.join("networks/podman.json"), &network.to_string())?;
    }
    Ok(())
}

/// Registries on this machine are asked over plain HTTP, as Docker asks them without being told. Returns what was made.
fn trust_loopback(home: &Path) -> Result<[PathBuf; 3], String> {
    let config = home.join(".config");
    let folder = config.join("containers");
    make(&config, 0o700)?;
    make(&folder, 0o700)?;
    let file = folder.join("registries.conf");
    write(&file, "[[registry]]\nprefix = \"127.0.0.1\"\nlocation = \"127.0.0.1\"\ninsecure = true\n")?;
    Ok([config, folder, file])
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

pub(crate) fn make(folder: &Path, mode: u32) -> Result<(), String> {
    fs::create_dir_all(folder)
        .and_then(|()| fs::set_permissions(folder, fs::Permissions::from_mode(mode)))
        .map_err(|error| format!("{} cannot be made: {error}", folder.display()))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{} cannot be written: {error}", path.display()))
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output().map_err(|error| format!("ip cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}
