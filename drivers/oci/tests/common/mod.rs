//! What the tests share: a driver of their own on real folders, and looks at the machine from outside.
#![allow(dead_code, unreachable_pub)] // Each test binary uses its own part of this.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use chiton_driver::{
    AgentLaunch, ComputeDriver, CreateCall, DriverEvent, Identity, LogOptions, Observed, ObservedStatus, PlanRequest,
};
use chiton_driver_oci::{Launcher, OciDriver, OciOptions};
use chiton_model::{
    DriverId, ExitStatus, GatewayId, OperationId, Resources, SandboxId, SandboxName, StoreEpoch, WorkspaceName,
};
use futures::StreamExt;
use serde_json::{Value, json};

/// No single step of a test takes longer, or something hangs. Longer than the driver's own deadlines.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// The helper program; built with the tests as an example.
pub fn helper() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().unwrap().parent().unwrap().join("examples/oci-host");
    assert!(path.exists(), "{} is missing; run: cargo build -p chiton-driver-oci --examples", path.display());
    path
}

fn helper_bytes() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| fs::read(helper()).unwrap())
}

/// Whether the test can run: as root, and as an ordinary user who may make user namespaces. Says by name that it does
/// not. In the binary whose root test runs all others as an ordinary user, they run for that user only.
pub fn able(test: &str) -> bool {
    let ordinary = module_path!().starts_with("ordinary");
    if is_root() {
        return !ordinary;
    }
    if ordinary && std::env::var_os("OCI_TEST_ORDINARY").is_none() {
        return false;
    }
    let limit = fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    let able = limit.trim().parse::<u64>().is_ok_and(|limit| limit > 0);
    if !able {
        eprintln!("SKIPPED {test}: it makes real containers, which needs user namespaces");
    }
    able
}

/// Whether a test can run that is about what only root has; says by name that it does not.
pub fn root(test: &str) -> bool {
    let able = able(test);
    if able && !is_root() {
        eprintln!("SKIPPED {test}: it is about what only root has");
    }
    able && is_root()
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The name by which the test runner knows a test of a module.
pub fn name_of(module: &str, test: &str) -> String {
    module.split_once("::").map_or_else(|| test.to_owned(), |(_, inner)| format!("{inner}::{test}"))
}

/// The monitor of a sandbox, as the host numbers it.
pub fn monitor_of(id: &SandboxId) -> Option<i32> {
    let arguments = format!("monitor\0{id}\0");
    fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        String::from_utf8_lossy(&line).ends_with(&arguments).then_some(pid)
    })
}

/// The children of a process.
pub fn children(pid: i32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().map(|word| word.parse().unwrap()).collect()
}

/// The children of a process, theirs, and so on.
pub fn descendants(pid: i32) -> Vec<i32> {
    children(pid).into_iter().flat_map(|child| [vec![child], descendants(child)].concat()).collect()
}

/// The host's process id of a sandbox's init: below its monitor, 1 in a namespace of its own. It begins as a child of
/// the launch child and is the monitor's when that one has ended. A look that this falls into misses it, and so does
/// one during which the launch child is reaped; then nobody comes or goes any more.
pub fn init(id: &SandboxId) -> i32 {
    let monitor = monitor_of(id).expect("it has a monitor");
    let begin = Instant::now();
    let first = |pid: &i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1"))
    };
    loop {
        if let Some(pid) = descendants(monitor).into_iter().find(first) {
            return pid;
        }
        assert!(begin.elapsed() < PATIENCE, "the sandbox has no init");
        std::thread::yield_now();
    }
}

pub struct World {
    pub folder: tempfile::TempDir,
    pub gateway: GatewayId,
    pub options: OciOptions,
}

impl World {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("chiton-oci-").tempdir().unwrap();
        let unique = uuid::Uuid::new_v4().simple().to_string();
        let gateway = GatewayId::new(format!("g-{unique}")).unwrap();
        let mut options = OciOptions::new(
            DriverId::new("oci").unwrap(),
            gateway.clone(),
            folder.path().join("state"),
            folder.path().join("run"),
            helper_bytes(),
        );
        options.launcher = Launcher { program: helper(), arguments: vec!["oci-launch".into()] };
        Self { folder, gateway, options }
    }

    pub fn driver(&self) -> OciDriver {
        OciDriver::new(self.options.clone())
    }

    pub fn sandbox(&self, id: &SandboxId) -> PathBuf {
        self.options.state_dir.join("sandboxes").join(id.as_str())
    }

    /// Everything on the machine that belongs to this world's sandboxes: processes, mounts, cgroups, folders.
    pub fn traces(&self) -> Vec<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            if pid == i32::try_from(std::process::id()).unwrap() {
                continue;
            }
            // A zombie holds nothing any more; when its parent was killed it is for PID 1 to reap, in its own time.
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
            if after_name.starts_with("Z 1 ") {
                continue;
            }
            let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
            let text = String::from_utf8_lossy(&[read("cmdline"), read("cgroup")].concat()).replace('\0', " ");
            let exe = fs::read_link(entry.path().join("exe")).unwrap_or_default();
            if text.contains(self.gateway.as_str()) || exe.starts_with(self.folder.path()) || ours(&entry.path()) {
                found.push(format!("process {pid}: {text}"));
            }
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        found.extend(
            mounts.lines().filter(|line| line.contains(&*self.folder.path().to_string_lossy())).map(String::from),
        );
        walk(Path::new("/sys/fs/cgroup"), 3, &mut |path| {
            if path.to_string_lossy().contains(self.gateway.as_str()) {
                found.push(format!("cgroup {}", path.display()));
            }
        });
        for folder in ["state/sandboxes", "run/monitors", "run/agent"] {
            let path = self.folder.path().join(folder);
            found.extend(
                fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path().display().to_string()),
            );
        }
        found
    }

    pub fn assert_no_traces(&self) {
        let traces = self.traces();
        assert!(traces.is_empty(), "left behind: {traces:#?}");
    }

    /// The same after somebody was killed: what was orphaned ends by itself, in its own time. A monitor that was just
    /// spawned finds nobody who tells it anything, or the tombstone; a process that the kernel ends is shown a little
    /// longer than it holds anything.
    pub fn await_no_traces(&self) {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE && !self.traces().is_empty() {
            std::thread::yield_now();
        }
        self.assert_no_traces();
    }
}

/// Whether a process is in a sandbox of this ordinary user, whoever's test made it: such tests run one by one.
fn ours(process: &Path) -> bool {
    let own = rustix::process::geteuid().as_raw();
    if own == 0 {
        return false;
    }
    let status = fs::read_to_string(process.join("status")).unwrap_or_default();
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned();
    let uid: u32 = line("Uid:").split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0);
    let granted = fs::read_to_string("/etc/subuid").unwrap_or_default();
    let name = std::env::var("USER").unwrap_or_default();
    let granted = granted.lines().filter_map(|line| {
        let words: Vec<&str> = line.split(':').collect();
        (words[0] == name).then(|| words[1].parse::<u32>().unwrap()..words[1].parse::<u32>().unwrap() + 65_536)
    });
    // More than one number: it is in a pid namespace below ours.
    let below = line("NSpid:").split_whitespace().count() > 1;
    below && (uid == own || granted.into_iter().any(|range| range.contains(&uid)))
}

fn walk(path: &Path, depth: usize, visit: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            visit(&entry.path());
            if depth > 0 {
                walk(&entry.path(), depth - 1, visit);
            }
        }
    }
}

pub fn request(image: &str, command: &[&str]) -> PlanRequest {
    PlanRequest {
        image: image.to_owned(),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        env: BTreeMap::new(),
        secrets: BTreeMap::new(),
        labels: BTreeMap::new(),
        resources: Resources::default(),
        network: chiton_model::NetworkSpec::default(),
        volumes: Vec::new(),
        workdir: String::new(),
        name: Some("box".to_owned()),
        workspace: WorkspaceName::new("default").unwrap(),
        driver_config: json!({}),
    }
}

pub fn sandbox_id() -> SandboxId {
    SandboxId::new(format!("s-{}", uuid::Uuid::new_v4().simple())).unwrap()
}

/// A create call as the engine makes it: slots filled.
pub async fn call(driver: &OciDriver, request: &PlanRequest, id: &SandboxId) -> CreateCall {
    let default = driver.default_plan(request).await.unwrap();
    driver.validate(&default.plan).await.unwrap();
    driver.prepare(id, &default.plan).await.unwrap();
    fill(default.plan, id)
}

pub fn fill(mut plan: Value, id: &SandboxId) -> CreateCall {
    plan["sandbox"]["id"] = json!(id.as_str());
    let identity = Identity {
        gateway: GatewayId::new("g-test").unwrap(),
        epoch: StoreEpoch::new("e-1").unwrap(),
        commit: 7,
        sandbox: id.clone(),
        name: SandboxName::new("box").unwrap(),
        workspace: WorkspaceName::new("default").unwrap(),
        operation: OperationId::new("op-1").unwrap(),
        principal: "uid:0".to_owned(),
        extensions: Vec::new(),
    };
    CreateCall { identity, plan, agent: None }
}

pub fn with_agent(mut call: CreateCall, attempt: &str) -> CreateCall {
    call.agent = Some(AgentLaunch { token: "very-secret".to_owned(), attempt: attempt.to_owned() });
    call
}

pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} hangs"))
}

/// Waits for a sandbox to reach a status, by the driver's events. A watch may end, as when a sandbox that is ending
/// does not answer in time; then one watches anew, as the engine does.
pub async fn until(
    driver: &OciDriver,
    id: &SandboxId,
    what: &str,
    wanted: impl Fn(&ObservedStatus) -> bool,
) -> Observed {
    let mut events = driver.watch();
    within(what, async {
        loop {
            match events.next().await {
                Some(DriverEvent::Changed(observed)) if observed.id == *id && wanted(&observed.status) => {
                    return observed;
                }
                Some(_) => {}
                None => events = driver.watch(),
            }
        }
    })
    .await
}

pub async fn exit(driver: &OciDriver, id: &SandboxId) -> ExitStatus {
    let observed = until(driver, id, "the exit", |status| matches!(status, ObservedStatus::Exited(_))).await;
    match observed.status {
        ObservedStatus::Exited(status) => status,
        other => panic!("not an exit: {other:?}"),
    }
}

pub async fn status(driver: &OciDriver, id: &SandboxId) -> Option<ObservedStatus> {
    driver.get(id).await.unwrap().map(|observed| observed.status)
}

/// The whole output, until the sandbox ends: all of standard output, then all of standard error. They come by two
/// pipes, so that there is no order between them, and a line of one may come in the middle of a line of the other.
pub async fn output(driver: &OciDriver, id: &SandboxId) -> String {
    let options = LogOptions { follow: true, ..LogOptions::default() };
    let mut stream = driver.logs(id, options).await.unwrap();
    let mut texts = [Vec::new(), Vec::new()];
    within("the log", async {
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.unwrap();
            texts[usize::from(chunk.stderr)].extend_from_slice(&chunk.data);
        }
    })
    .await;
    String::from_utf8(texts.concat()).unwrap()
}

/// Creates and starts.
pub async fn started(driver: &OciDriver, request: &PlanRequest) -> SandboxId {
    let id = sandbox_id();
    let call = call(driver, request, &id).await;
    driver.create(&call).await.unwrap();
    driver.start(&call).await.unwrap();
    id
}

/// Waits until a running sandbox has said a word.
pub async fn said(driver: &OciDriver, id: &SandboxId, word: &str) {
    let mut stream = driver.logs(id, LogOptions { follow: true, ..LogOptions::default() }).await.unwrap();
    let mut text = String::new();
    within(word, async {
        while !text.contains(word) {
            text += &String::from_utf8_lossy(&stream.next().await.expect("it goes on").unwrap().data);
        }
    })
    .await;
}

/// Creates, starts, waits for the end; returns the exit and the output.
pub async fn run(driver: &OciDriver, request: &PlanRequest) -> (ExitStatus, String) {
    let id = sandbox_id();
    let call = call(driver, request, &id).await;
    driver.create(&call).await.unwrap();
    driver.start(&call).await.unwrap();
    let text = output(driver, &id).await;
    let status = exit(driver, &id).await;
    driver.delete(&id).await.unwrap();
    (status, text)
}

/// In the process that [`kill_a_gateway`] started: the world that it was told, made from one of its own kind, and the
/// sandbox. None in a run of the tests.
pub fn to_be_killed(mut world: World) -> Option<(World, SandboxId)> {
    let told = |name: &str| std::env::var(name).ok();
    let folder = PathBuf::from(told("OCI_TEST_FOLDER")?);
    world.options.state_dir = folder.join("state");
    world.options.run_dir = folder.join("run");
    world.options.gateway = GatewayId::new(told("OCI_TEST_GATEWAY")?).unwrap();
    Some((world, SandboxId::new(told("OCI_TEST_ID")?).unwrap()))
}

/// Runs a test of this binary as a gateway, and kills it so long after it said that it begins.
pub fn kill_a_gateway(world: &World, test: &str, id: &SandboxId, after: Duration, late: bool) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    if late {
        command.env("OCI_TEST_LATE", "1");
    }
    let mut gateway = command
        .args(["--exact", test, "--nocapture"])
        .env("OCI_TEST_FOLDER", world.folder.path())
        .env("OCI_TEST_GATEWAY", world.gateway.as_str())
        .env("OCI_TEST_ID", id.as_str())
        .env("TMPDIR", world.folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(gateway.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().ends_with("begin")));
    let begin = Instant::now();
    while begin.elapsed() < after {
        std::hint::spin_loop();
    }
    gateway.kill().unwrap();
    gateway.wait().unwrap();
}
