//! Tests in a virtual machine whose only cgroup hierarchy is the unified one, as root and as an ordinary user with a
//! delegated subtree: what a modern distribution gives, and what the machine that runs this may not.
//!
//! The guest runs a Debian kernel under QEMU's own processor emulation, which needs nothing of the host. Its root is the
//! host's, read-only below a layer in memory, so that no image has to be made; `/tmp` is a disk of its own, because
//! overlay layers and quotas want a real file system.

mod archive;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use archive::Archive;

/// Longer than any order takes, shorter than anybody waits for a machine that hangs.
const PATIENCE: Duration = Duration::from_mins(25);
const MEMORY: &str = "3G";
/// In the order in which they are loaded.
const MODULES: [&str; 9] = [
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci",
    "fs/fuse/fuse",
    "fs/fuse/virtiofs",
    "fs/overlayfs/overlay",
    "drivers/block/virtio_blk",
];

/// What to run: a test program of the `oci` driver, and its arguments.
const ORDERS: [(&str, &str); 3] = [
    ("confinement", "limit namespaces"),
    ("lifecycle", "exit_code after_stop_and_start"),
    // Makes its users itself.
    ("ordinary", "a_delegated"),
];

/// Runs the orders, or those whose test program is named.
pub(crate) fn run(named: &[String]) -> Result<(), String> {
    let orders: Vec<_> =
        ORDERS.into_iter().filter(|(test, _)| named.is_empty() || named.iter().any(|name| name == test)).collect();
    if orders.is_empty() {
        let known: Vec<&str> = ORDERS.iter().map(|(test, _)| *test).collect();
        return Err(format!("no order is named so; there are {}", known.join(", ")));
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guest");
    drop(fs::remove_dir_all(&folder));
    fs::create_dir_all(&folder).map_err(|error| at(&folder, &error))?;
    let folder = folder.canonicalize().map_err(|error| at(&folder, &error))?;
    build(None, &folder.join("order/tests/examples"))?;
    let mut lines = String::new();
    for (test, arguments) in orders {
        let program = build(Some(test), &folder.join("order/tests/deps"))?;
        lines += &[&program, arguments].join(" ");
        lines.push('\n');
    }
    let kernel = kernel()?;
    write(&folder.join("order/order"), lines.as_bytes())?;
    write(&folder.join("order/run"), include_bytes!("guest/run"))?;
    write(&folder.join("initrd"), &initrd(&kernel, &folder.join("order"))?)?;
    let disk = folder.join("disk");
    File::create(&disk).and_then(|file| file.set_len(6 << 30)).map_err(|error| at(&disk, &error))?;
    quietly(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&disk))?;
    let result = boot(&kernel, &folder);
    drop(fs::remove_file(&disk));
    result
}

/// Builds a test program of the `oci` driver, or with no name the programs that tests run, and copies them; returns
/// the file name of the last.
fn build(test: Option<&str>, to: &Path) -> Result<String, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    match test {
        Some(test) => command.args(["test", "--no-run", "--test", test]),
        None => command.args(["build", "--examples"]),
    };
    command.args(["--package", "chiton-driver-oci", "--locked", "--message-format=json"]);
    let built = command.stderr(Stdio::inherit()).output().map_err(|error| format!("cargo cannot be run: {error}"))?;
    if !built.status.success() {
        return Err(format!("{command:?} failed"));
    }
    fs::create_dir_all(to).map_err(|error| at(to, &error))?;
    let mut name = None;
    for message in built.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let message: serde_json::Value = serde_json::from_slice(message).map_err(|error| error.to_string())?;
        if let Some(program) = message["executable"].as_str().map(Path::new) {
            let file = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
            copy(program, &to.join(&file))?;
            name = Some(file);
        }
    }
    name.ok_or_else(|| format!("{command:?} made no program"))
}

/// A kernel and the folder of its modules.
struct Kernel {
    image: PathBuf,
    modules: PathBuf,
}

fn kernel() -> Result<Kernel, String> {
    let versions = fs::read_dir("/lib/modules").map_err(|error| at(Path::new("/lib/modules"), &error))?;
    let mut found: Vec<Kernel> = versions
        .flatten()
        .map(|entry| Kernel {
            image: Path::new("/boot").join(format!("vmlinuz-{}", entry.file_name().to_string_lossy())),
            modules: entry.path().join("kernel"),
        })
        .filter(|kernel| kernel.image.is_file() && kernel.modules.join("fs/fuse/virtiofs.ko").is_file())
        .collect();
    found.sort_by(|one, other| one.image.cmp(&other.image));
    found.pop().ok_or_else(|| "no kernel with virtiofs is installed; Debian: linux-image-cloud-amd64".to_owned())
}

fn initrd(kernel: &Kernel, order: &Path) -> Result<Vec<u8>, String> {
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "host", "layer", "modules", "order", "proc", "root"] {
        archive.folder(folder);
    }
    let mut names = Vec::new();
    for module in MODULES {
        let path = kernel.modules.join(format!("{module}.ko"));
        let name = format!("{}.ko", module.rsplit('/').next().unwrap_or(module));
        archive.file(&format!("modules/{name}"), &read(&path)?, false);
        names.push(name);
    }
    archive.file("modules/order", names.join(" ").as_bytes(), false);
    archive.file("bin/busybox", &read(Path::new("/bin/busybox"))?, true);
    let init = include_str!("guest/init").replace("/order ", &format!("/host{} ", order.display()));
    archive.file("init", init.as_bytes(), true);
    Ok(archive.finish())
}

/// Whatever was started ends with this.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn boot(kernel: &Kernel, folder: &Path) -> Result<(), String> {
    let socket = folder.join("files.sock");
    let log = File::create(folder.join("files.log")).map_err(|error| at(folder, &error))?;
    let mut files = Command::new("/usr/lib/qemu/virtiofsd");
    files.arg(format!("--socket-path={}", socket.display()));
    for option in ["source=/", "cache=always", "sandbox=chroot", "xattr", "modcaps=-sys_resource"] {
        files.args(["-o", option]);
    }
    let files = files.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
    let _files = Ended(files.map_err(|error| format!("virtiofsd cannot be run: {error}; Debian: qemu-system-common"))?);
    let begin = Instant::now();
    while !socket.exists() {
        if begin.elapsed() > Duration::from_secs(10) {
            return Err(format!("virtiofsd does not listen; see {}", folder.join("files.log").display()));
        }
        #[expect(clippy::disallowed_methods, reason = "the daemon says so by no event")]
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut guest = Command::new("qemu-system-x86_64");
    guest.args(["-machine", "q35", "-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", MEMORY, "-no-reboot"]);
    guest.args(["-display", "none", "-monitor", "none", "-serial", "stdio", "-nodefaults"]);
    guest.args(["-object", &format!("memory-backend-memfd,id=memory,size={MEMORY},share=on")]);
    guest.args(["-numa", "node,memdev=memory", "-chardev", &format!("socket,id=files,path={}", socket.display())]);
    guest.args(["-device", "vhost-user-fs-pci,chardev=files,tag=host"]);
    guest.args(["-drive", &format!("file={},if=virtio,format=raw,cache=unsafe", folder.join("disk").display())]);
    guest.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(folder.join("initrd"));
    guest.args(["-append", "console=ttyS0 loglevel=0 panic=-1"]);
    let guest = guest.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut guest = Ended(guest.map_err(|error| format!("QEMU cannot be run: {error}; Debian: qemu-system-x86"))?);
    let console = guest.0.stdout.take().ok_or("the guest has no console")?;
    hear(BufReader::new(console))
}

/// Shows what the guest says until it says how it went.
fn hear(mut console: impl BufRead + Send + 'static) -> Result<(), String> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        let mut line = Vec::new();
        while console.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if sender.send(text).is_err() {
                return;
            }
        }
    });
    let end = Instant::now() + PATIENCE;
    let mut shown = false;
    loop {
        let line = lines
            .recv_timeout(end.saturating_duration_since(Instant::now()))
            .map_err(|error| format!("the guest ended or hangs without a result: {error}"))?;
        if let Some(status) = line.strip_prefix("GUEST-EXIT ") {
            return if status == "0" { Ok(()) } else { Err("tests failed in the guest".to_owned()) };
        }
        if let Some(what) = line.strip_prefix("GUEST-FAILED ") {
            return Err(format!("the guest did not come up: {what}"));
        }
        // What the firmware says is nobody's business.
        shown |= line.starts_with("GUEST-RUN");
        if shown {
            println!("{line}");
        }
    }
}

fn quietly(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?} cannot be run: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{command:?} failed: {said}")) }
}

fn at(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| at(path, &error))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    fs::write(path, bytes).map_err(|error| at(path, &error))
}

/// Without what only a debugger reads: it is most of the file, and the guest is slow.
fn copy(from: &Path, to: &Path) -> Result<(), String> {
    quietly(Command::new("strip").arg("--strip-debug").arg(from).arg("-o").arg(to))?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).map_err(|error| at(to, &error))
}
