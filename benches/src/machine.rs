//! The real program with real sandboxes, beside the container library alone.

use std::error::Error;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use chiton_client::{Client, connect, discover};
use chiton_proto::agent::v1 as agent;
use chiton_proto::v1 as wire;
use serde_json::{Value, json};

use crate::figures::{Figures, millis};

type Done<T> = Result<T, Box<dyn Error>>;

/// Host ids that the library's own container is mapped to.
const FIRST_ID: u32 = 0x1900_0000;
/// Execs a round.
const EXECS: usize = 10;

struct Gateway {
    child: Child,
    program: PathBuf,
    address: String,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        if rustix::process::kill_process(pid, rustix::process::Signal::TERM).is_ok() {
            drop(self.child.wait());
        }
    }
}

impl Gateway {
    fn start(folder: &Path) -> Done<Self> {
        let program = std::env::current_exe()?.with_file_name("chiton");
        let mut child = Command::new(&program)
            .args(["gateway", "--data-dir"])
            .arg(folder.join("data"))
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| {
                format!("{}: {error}; build it first: cargo build --release -p chiton", program.display())
            })?;
        let errors = child.stderr.take().ok_or("no standard error")?;
        let address = format!("unix:{}", folder.join("data/gateway.sock").display());
        let gateway = Self { child, program, address };
        for line in BufReader::new(errors).lines() {
            if line?.starts_with("listening on ") {
                return Ok(gateway);
            }
        }
        Err("the gateway did not start".into())
    }

    async fn client(&self) -> Done<Client> {
        Ok(connect(&discover(Some(&self.address))?).await?)
    }

    /// A figure of `/proc/PID/smaps_rollup`, in KiB.
    fn memory(&self, field: &str) -> Done<u64> {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id()))?;
        let line = text.lines().find(|line| line.starts_with(field)).ok_or("no such figure")?;
        Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse()?)
    }
}

async fn wait(client: &mut Client, operation: String) -> Done<()> {
    let mut events = client.wait_operation(wire::WaitOperationRequest { operation }).await?.into_inner();
    while let Some(event) = events.message().await? {
        if let Some(wire::wait_operation_event::Event::Outcome(outcome)) = event.event {
            let operation = outcome.operation.unwrap_or_default();
            return match operation.error {
                None => Ok(()),
                Some(error) => Err(error.message.into()),
            };
        }
    }
    Err("no outcome".into())
}

fn selector(name: &str) -> wire::SandboxSelector {
    wire::SandboxSelector { by: Some(wire::sandbox_selector::By::Name(name.to_owned())), workspace: String::new() }
}

async fn exec_true(client: &mut Client, name: &str) -> Done<()> {
    use wire::exec_sandbox_request::Input;
    let start = agent::ExecStart { argv: vec!["true".to_owned()], ..agent::ExecStart::default() };
    let exec = agent::ExecInput { input: Some(agent::exec_input::Input::Start(start)) };
    let inputs = [Input::Sandbox(selector(name)), Input::Exec(exec)]
        .map(|input| wire::ExecSandboxRequest { input: Some(input) });
    let mut outputs = client.exec_sandbox(tokio_stream::iter(inputs)).await?.into_inner();
    while let Some(output) = outputs.message().await? {
        if let Some(agent::exec_output::Output::Exit(exit)) = output.output {
            return if exit.code == 0 { Ok(()) } else { Err(format!("true ended with {}", exit.code).into()) };
        }
    }
    Err("no exit".into())
}

pub(crate) async fn run(rounds: usize) -> Done<()> {
    let folder = tempfile::Builder::new().prefix("chiton-bench-").tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711))?;
    let bundle = bundle(folder.path())?;
    image(&folder.path().join("image"), 0)?;
    let gateway = Gateway::start(folder.path())?;
    let idle = (gateway.memory("Rss:")?, gateway.memory("Private_Dirty:")?);
    let mut client = gateway.client().await?;
    let image = format!("dir:{}", folder.path().join("image").display());
    let mut floor = crate::figures::Disk::open(folder.path())?;
    let [mut raw, mut sync, mut ready, mut delete, mut api, mut cli] = std::array::from_fn(|_| Figures::default());
    for round in 0..=rounds {
        let library = raw_round(&gateway, &bundle, folder.path(), round)?;
        let synced = floor.sync()?;
        let name = format!("bench-{round}");
        let begin = Instant::now();
        let resources = wire::Resources { memory: "256Mi".to_owned(), pids: 256, ..wire::Resources::default() };
        let spec =
            wire::SandboxSpec { image: image.clone(), resources: Some(resources), ..wire::SandboxSpec::default() };
        let request = wire::CreateSandboxRequest {
            name: name.clone(),
            spec: Some(spec),
            ..wire::CreateSandboxRequest::default()
        };
        let answer = client.create_sandbox(request).await?.into_inner();
        wait(&mut client, answer.operation).await?;
        let created = begin.elapsed();
        for _ in 0..EXECS {
            let begin = Instant::now();
            exec_true(&mut client, &name).await?;
            api.add(begin.elapsed());
        }
        let begin = Instant::now();
        let status = Command::new(&gateway.program)
            .args(["--gateway", &gateway.address, "sandbox", "exec", &name, "--", "true"])
            .stdin(Stdio::null())
            .status()?;
        let whole = begin.elapsed();
        if !status.success() {
            return Err("exec failed".into());
        }
        let begin = Instant::now();
        let request =
            wire::DeleteSandboxRequest { sandbox: Some(selector(&name)), ..wire::DeleteSandboxRequest::default() };
        let answer = client.delete_sandbox(request).await?.into_inner();
        wait(&mut client, answer.operation).await?;
        // The first round fills caches.
        if round > 0 {
            delete.add(begin.elapsed());
            raw.add(library);
            sync.add(synced);
            ready.add(created);
            cli.add(whole);
        }
    }
    println!("\n# real sandboxes, driver oci");
    sync.report("F: fdatasync of 4 KiB");
    raw.report("container library alone, create + start");
    ready.report("create → agent ready, over the API");
    let goal = raw.median().mul_f64(1.3) + sync.median() * 2 + Duration::from_millis(5);
    println!(
        "create → ready: {:.2} × the library; goal 1.3 × + 2 F + 5 ms = {:.3} ms",
        ready.median().as_secs_f64() / raw.median().as_secs_f64(),
        millis(goal)
    );
    api.report("exec true, over the API (goal 2 ms)");
    cli.report("exec true, whole CLI process (goal 6 ms)");
    delete.report("delete of a running sandbox");
    println!("gateway idle: {} KiB resident, {} KiB private dirty (goal 20 MiB)", idle.0, idle.1);
    Ok(())
}

fn raw_round(gateway: &Gateway, bundle: &Path, folder: &Path, round: usize) -> Done<Duration> {
    let output = Command::new(&gateway.program)
        .args(["oci-launch", "raw"])
        .arg(bundle)
        .arg(folder.join("raw"))
        .arg(format!("raw-{round}"))
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    let timing: Value = serde_json::from_slice(&output.stdout)?;
    let part = |name: &str| timing[name].as_u64().ok_or("no timing");
    Ok(Duration::from_micros(part("create_us")? + part("start_us")?))
}

fn image(root: &Path, owner: u32) -> Done<()> {
    for dir in ["", "bin", "dev", "proc", "sys", "tmp", "root"] {
        fs::create_dir_all(root.join(dir))?;
        chown(root.join(dir), Some(owner), Some(owner))?;
    }
    fs::copy("/bin/busybox", root.join("bin/busybox"))?;
    for name in ["sleep", "true"] {
        symlink("busybox", root.join("bin").join(name))?;
    }
    Ok(())
}

/// A bundle with the driver's confinement, and limits by the library's own cgroup manager.
fn bundle(folder: &Path) -> Done<PathBuf> {
    let bundle = folder.join("bundle");
    image(&bundle.join("rootfs"), FIRST_ID)?;
    let ids = json!([{ "containerID": 0, "hostID": FIRST_ID, "size": 65536 }]);
    let mount = |target: &str, kind: &str, options: &[&str]| json!({ "destination": target, "type": kind, "source": kind, "options": options });
    let security = chiton_driver_oci::SecurityPlan::default();
    let namespaces: Vec<Value> = security.namespaces.iter().map(|kind| json!({ "type": kind })).collect();
    let spec = json!({
        "ociVersion": "1.0.2", "hostname": "raw", "root": { "path": "rootfs", "readonly": false },
        "process": {
            "terminal": false, "user": { "uid": 0, "gid": 0 }, "args": ["/bin/sleep", "600"],
            "env": ["PATH=/bin", "HOME=/"], "cwd": "/", "noNewPrivileges": true,
            "capabilities": { "bounding": [], "effective": [], "inheritable": [], "permitted": [], "ambient": [] },
        },
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        ],
        "linux": {
            "cgroupsPath": format!("/chiton-bench-{}", std::process::id()),
            "resources": { "memory": { "limit": 268_435_456 }, "pids": { "limit": 256 } },
            "uidMappings": ids, "gidMappings": ids, "namespaces": namespaces,
            "maskedPaths": security.masked_paths, "readonlyPaths": security.readonly_paths,
        },
    });
    fs::write(bundle.join("config.json"), spec.to_string())?;
    Ok(bundle)
}
