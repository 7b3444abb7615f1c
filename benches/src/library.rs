//! The container library alone: the floor.

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::gateway::{Done, Gateway};

/// Host ids that the library's own container is mapped to.
const FIRST_ID: u32 = 0x1900_0000;

pub(crate) fn round(gateway: &Gateway, bundle: &Path, folder: &Path, number: usize) -> Done<Duration> {
    let output = Command::new(&gateway.program)
        .args(["oci-launch", "raw"])
        .arg(bundle)
        .arg(folder.join("raw"))
        .arg(format!("raw-{number}"))
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    let timing: Value = serde_json::from_slice(&output.stdout)?;
    let part = |name: &str| timing[name].as_u64().ok_or("no timing");
    Ok(Duration::from_micros(part("create_us")? + part("start_us")?))
}

pub(crate) fn image(root: &Path, owner: u32) -> Done<()> {
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
pub(crate) fn bundle(folder: &Path) -> Done<PathBuf> {
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
