//! Measures the driver's create and start against the container library's own, alternating, in one run.
//!
//! `oci-measure [ROUNDS [PAUSE_MILLIS]]`, as root. It runs the example `oci-host` beside it for all three helpers.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use chiton_driver::{ComputeDriver, CreateCall, Identity, PlanRequest};
use chiton_driver_oci::{Launcher, OciDriver, OciOptions};
use chiton_model::{
    DriverId, GatewayId, MemoryQuantity, OperationId, Resources, SandboxId, SandboxName, StoreEpoch, WorkspaceName,
};
use serde_json::{Value, json};

const FIRST_ID: u32 = 0x1800_0000;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let rounds: usize = args.next().map_or(Ok(50), |text| text.parse())?;
    let pause = Duration::from_millis(args.next().map_or(Ok(0), |text| text.parse())?);
    let helper = std::env::current_exe()?.with_file_name("oci-host");
    let folder = tempfile::Builder::new().prefix("oci-measure-").tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711))?;
    image(&folder.path().join("image"), 0)?;
    let bundle = bundle(folder.path())?;
    let binary: &'static [u8] =
        Box::leak(fs::read(std::env::var_os("OCI_AGENT").map_or(helper.clone(), Into::into))?.into());
    let mut options = OciOptions::new(
        DriverId::new("oci")?,
        GatewayId::new(format!("g-measure-{}", std::process::id()))?,
        folder.path().join("state"),
        folder.path().join("run"),
        binary,
    );
    options.launcher = Launcher { program: helper.clone(), arguments: vec!["oci-launch".into()] };
    let driver = OciDriver::new(options);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (mut raw, mut raw_process) = (Vec::new(), Vec::new());
    let (mut ours, mut creates, mut deletes) = (Vec::new(), Vec::new(), Vec::new());
    let plan = runtime.block_on(driver.default_plan(&request(&folder.path().join("image"))?))?.plan;
    for round in 0..=rounds {
        #[expect(clippy::disallowed_methods, reason = "a measurement's pace")]
        std::thread::sleep(pause);
        let begin = Instant::now();
        let output = Command::new(&helper)
            .args(["oci-launch", "raw"])
            .args([&bundle, &folder.path().join("raw")])
            .arg(format!("raw-{round}"))
            .output()?;
        let process = begin.elapsed();
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into());
        }
        let timing: BTreeMap<String, u64> = serde_json::from_slice(&output.stdout)?;
        let inner = Duration::from_micros(timing["create_us"] + timing["start_us"]);
        #[expect(clippy::disallowed_methods, reason = "a measurement's pace")]
        std::thread::sleep(pause);
        let call = call(&plan, round)?;
        let begin = Instant::now();
        runtime.block_on(driver.create(&call))?;
        let create = begin.elapsed();
        runtime.block_on(driver.start(&call))?;
        let both = begin.elapsed();
        if round == rounds {
            memory(&call.identity.sandbox)?;
        }
        let begin = Instant::now();
        runtime.block_on(driver.delete(&call.identity.sandbox))?;
        if round > 0 {
            raw.push(inner);
            raw_process.push(process);
            ours.push(both);
            creates.push(create);
            deletes.push(begin.elapsed());
        }
    }
    println!("{rounds} rounds, {} ms before each", pause.as_millis());
    report("library alone, create+start", raw);
    report("library alone, its whole process with delete", raw_process);
    report("driver, create", creates);
    report("driver, create+start", ours);
    report("driver, delete of a running one", deletes);
    Ok(())
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at =
        |percent: usize| times.get((times.len() * percent / 100).min(times.len() - 1)).copied().unwrap_or_default();
    println!("{what:46} p50 {:7.2} ms   p90 {:7.2} ms", at(50).as_secs_f64() * 1e3, at(90).as_secs_f64() * 1e3);
}

/// Private memory of the monitor of a running sandbox, from `smaps_rollup`.
fn memory(id: &SandboxId) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir("/proc")?.flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).ends_with(&format!("monitor\0{id}\0")) {
            let rollup = fs::read_to_string(entry.path().join("smaps_rollup"))?;
            for field in ["Rss", "Private_Clean", "Private_Dirty"] {
                let line = rollup.lines().find(|line| line.starts_with(&format!("{field}:"))).unwrap_or_default();
                println!("monitor {}", line.split_whitespace().collect::<Vec<_>>().join(" "));
            }
        }
    }
    Ok(())
}

fn image(root: &Path, owner: u32) -> Result<(), Box<dyn Error>> {
    for dir in ["", "bin", "dev", "proc", "sys", "tmp"] {
        fs::create_dir_all(root.join(dir))?;
        chown(root.join(dir), Some(owner), Some(owner))?;
    }
    fs::copy("/bin/busybox", root.join("bin/busybox"))?;
    symlink("busybox", root.join("bin/sleep"))?;
    Ok(())
}

/// A bundle with the same confinement as the driver's, and limits by the library's own cgroup manager.
fn bundle(folder: &Path) -> Result<std::path::PathBuf, Box<dyn Error>> {
    let bundle = folder.join("bundle");
    image(&bundle.join("rootfs"), FIRST_ID)?;
    let ids = json!([{ "containerID": 0, "hostID": FIRST_ID, "size": 65536 }]);
    let mount = |target: &str, kind: &str, options: &[&str]| json!({ "destination": target, "type": kind, "source": kind, "options": options });
    let security = chiton_driver_oci::SecurityPlan::default();
    let spec = json!({
        "ociVersion": "1.0.2", "hostname": "raw", "root": { "path": "rootfs", "readonly": false },
        "process": {
            "terminal": false, "user": { "uid": 0, "gid": 0 }, "args": ["/bin/sleep", "600"],
            "env": ["PATH=/bin", "HOME=/"], "cwd": "/", "noNewPrivileges": true,
            "capabilities": { "bounding": [], "effective": [], "inheritable": [], "permitted": [], "ambient": [] },
            "rlimits": [{ "type": "RLIMIT_CORE", "soft": 0, "hard": 0 }],
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
            "cgroupsPath": format!("/raw-{}", std::process::id()),
            "resources": { "memory": { "limit": 268_435_456 }, "pids": { "limit": 256 } },
            "uidMappings": ids, "gidMappings": ids,
            "namespaces": security.namespaces.iter().map(|kind| json!({ "type": kind })).collect::<Vec<Value>>(),
            "maskedPaths": security.masked_paths, "readonlyPaths": security.readonly_paths,
        },
    });
    fs::write(bundle.join("config.json"), spec.to_string())?;
    fs::create_dir(folder.join("raw"))?;
    Ok(bundle)
}

fn request(image: &Path) -> Result<PlanRequest, Box<dyn Error>> {
    let resources =
        Resources { memory: Some(MemoryQuantity::parse("memory", "256Mi")?), pids: Some(256), ..Resources::default() };
    Ok(PlanRequest {
        image: format!("dir:{}", image.display()),
        command: vec!["/bin/sleep".to_owned(), "600".to_owned()],
        env: BTreeMap::new(),
        secrets: BTreeMap::new(),
        labels: BTreeMap::new(),
        resources,
        workdir: String::new(),
        name: Some("measure".to_owned()),
        workspace: WorkspaceName::new("default")?,
        driver_config: json!({}),
    })
}

fn call(plan: &Value, round: usize) -> Result<CreateCall, Box<dyn Error>> {
    let id = SandboxId::new(format!("s-{round}-{}", std::process::id()))?;
    let mut plan = plan.clone();
    plan["sandbox"]["id"] = json!(id.as_str());
    let identity = Identity {
        gateway: GatewayId::new("g-measure")?,
        epoch: StoreEpoch::new("e-1")?,
        commit: 1,
        sandbox: id,
        name: SandboxName::new("measure")?,
        workspace: WorkspaceName::new("default")?,
        operation: OperationId::new("op-1")?,
    };
    Ok(CreateCall { identity, plan, agent: None })
}
