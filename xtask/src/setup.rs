//! What the tests need of the machine. Installed where this program may; named where it may not.

use std::path::Path;
use std::process::Command;

/// A Debian package and a file by which it is known to be there.
const PACKAGES: [(&str, &[&str]); 10] = [
    // The packet filter of sandboxes on a bridge, and what tests build a network with.
    ("nftables", &["/usr/sbin/nft"]),
    ("iproute2", &["/usr/sbin/ip", "/sbin/ip"]),
    // The root of sandboxes made from a folder.
    ("busybox-static", &["/bin/busybox", "/usr/bin/busybox"]),
    // An ordinary user maps the ids that it was granted by two programs of this package.
    ("uidmap", &["/usr/bin/newuidmap"]),
    // Everyday programs that must work in a sandbox.
    ("git", &["/usr/bin/git"]),
    ("python3", &["/usr/bin/python3"]),
    // The example driver in Python has its libraries in an environment of their own. The file is of python3.N-venv.
    ("python3-venv", &["/usr/share/doc/python3-venv", "/usr/share/python-wheels"]),
    // The registry that images are pulled from.
    ("docker-registry", &["/usr/bin/docker-registry"]),
    ("gcc", &["/usr/bin/cc", "/usr/bin/gcc"]),
    // The agent is linked statically.
    (
        "libc6-dev",
        &[
            "/usr/lib/x86_64-linux-gnu/libc.a",
            "/usr/lib/aarch64-linux-gnu/libc.a",
            "/usr/lib/libc.a",
            "/usr/lib64/libc.a",
        ],
    ),
];

/// The same for a machine within this one.
const GUEST: [(&str, &[&str]); 3] = [
    ("qemu-system-x86", &["/usr/bin/qemu-system-x86_64"]),
    ("qemu-system-common", &["/usr/lib/qemu/virtiofsd"]),
    ("linux-image-cloud-amd64", &["/usr/share/doc/linux-image-cloud-amd64"]),
];

/// The same for container engines.
const ENGINES: [(&str, &[&str]); 8] = [
    ("docker.io", &["/usr/sbin/dockerd", "/usr/bin/dockerd"]),
    ("podman", &["/usr/bin/podman"]),
    // Podman's other runtime does not know several cgroup hierarchies beside one another.
    ("runc", &["/usr/sbin/runc", "/usr/bin/runc"]),
    // Networks of podman, and their names.
    ("netavark", &["/usr/lib/podman/netavark", "/usr/libexec/podman/netavark"]),
    ("aardvark-dns", &["/usr/lib/podman/aardvark-dns", "/usr/libexec/podman/aardvark-dns"]),
    ("iptables", &["/usr/sbin/iptables"]),
    // Podman's init.
    ("catatonit", &["/usr/bin/catatonit"]),
    // The network of an ordinary user's containers.
    ("slirp4netns", &["/usr/bin/slirp4netns"]),
];

/// Installs what tests need, or says what it is.
pub(crate) fn prepare() -> Result<(), String> {
    have(&PACKAGES)?;
    if !is_root() {
        eprintln!(
            "xtask: not root: tests that need root, and what only root can make, will say by name that they are skipped"
        );
    }
    Ok(())
}

/// Installs what the guest needs besides, or says what it is.
pub(crate) fn prepare_guest() -> Result<(), String> {
    prepare()?;
    have(&GUEST)
}

/// Installs what engines need besides, or says what it is.
pub(crate) fn prepare_engines() -> Result<(), String> {
    have(&PACKAGES)?;
    have(&ENGINES)
}

fn have(packages: &[(&'static str, &[&str])]) -> Result<(), String> {
    let missing: Vec<&str> = packages
        .iter()
        .filter(|(_, files)| !files.iter().any(|file| Path::new(file).exists()))
        .map(|(name, _)| *name)
        .collect();
    if missing.is_empty() { Ok(()) } else { install(&missing) }
}

fn install(packages: &[&str]) -> Result<(), String> {
    let by_hand = format!("install {} (Debian names) and run this again", packages.join(" "));
    if !is_root() || !Path::new("/usr/bin/apt-get").exists() {
        return Err(by_hand);
    }
    let apt = |arguments: &[&str]| {
        let status = Command::new("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive").status();
        status.is_ok_and(|status| status.success())
    };
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(packages);
    if apt(&["update"]) && apt(&arguments) { Ok(()) } else { Err(by_hand) }
}

/// Whether this runs as root.
pub(crate) fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output();
    output.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
