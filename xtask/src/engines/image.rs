//! The image that engines' tests run, made without a network: busybox with a link for each of its programs, two users,
//! and a configuration that says something in every field. The bytes depend on busybox alone.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// Named for a registry that no engine asks, so that docker and podman understand the same word by it.
pub(crate) const ROOT: &str = "localhost/chiton-test:root";
/// The same files, run by the ordinary user `app`.
pub(crate) const APP: &str = "localhost/chiton-test:app";

const EPOCH: &str = "1970-01-01T00:00:00Z";
const BUSYBOX: [&str; 2] = ["/bin/busybox", "/usr/bin/busybox"];

/// Folders of the image: path, mode, owner. Parents come first.
const FOLDERS: [(&str, u32, u64); 19] = [
    ("bin", 0o755, 0),
    ("cache", 0o777, 0),
    ("dev", 0o755, 0),
    ("etc", 0o755, 0),
    ("home", 0o755, 0),
    ("home/app", 0o755, 1000),
    ("proc", 0o555, 0),
    ("root", 0o700, 0),
    ("run", 0o755, 0),
    ("sbin", 0o755, 0),
    ("sys", 0o555, 0),
    ("tmp", 0o1777, 0),
    ("usr", 0o755, 0),
    ("usr/bin", 0o755, 0),
    ("usr/sbin", 0o755, 0),
    ("var", 0o755, 0),
    ("var/log", 0o755, 0),
    ("var/tmp", 0o1777, 0),
    ("work", 0o755, 1000),
];

const FILES: [(&str, &str); 3] = [
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n"),
    ("etc/group", "root:x:0:\napp:x:1000:\n"),
    ("etc/chiton-test", "an image made for tests\n"),
];

/// Busybox of this machine, and the places of its programs below the root.
pub(crate) struct Busybox {
    pub(crate) program: Vec<u8>,
    pub(crate) applets: BTreeSet<String>,
}

impl Busybox {
    pub(crate) fn of_this_machine() -> Result<Self, String> {
        let path = BUSYBOX.iter().find(|path| Path::new(path).exists());
        let path = path.ok_or("no busybox; install the Debian package busybox-static")?;
        let program = std::fs::read(path).map_err(|error| format!("{path} cannot be read: {error}"))?;
        let output = Command::new(path).arg("--list-full").output();
        let output = output.map_err(|error| format!("{path} cannot be run: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let applets: BTreeSet<String> = text
            .lines()
            .filter(|place| FOLDERS.iter().any(|(folder, ..)| place.strip_prefix(folder).is_some_and(is_name)))
            .map(ToOwned::to_owned)
            .collect();
        if applets.contains("bin/sh") {
            Ok(Self { program, applets })
        } else {
            Err(format!("{path} --list-full names no bin/sh; install the Debian package busybox-static"))
        }
    }
}

fn is_name(rest: &str) -> bool {
    rest.strip_prefix('/').is_some_and(|name| !name.is_empty() && !name.contains('/') && name != "busybox")
}

/// An image as `docker save` writes it.
pub(crate) struct Image {
    pub(crate) bytes: Vec<u8>,
    /// Digest of its configuration, by which engines know it.
    pub(crate) id: String,
}

/// A docker-archive of the image whose containers run as `user` (`None`: as root), under the name `reference`.
pub(crate) fn archive(busybox: &Busybox, reference: &str, user: Option<&str>) -> std::io::Result<Image> {
    let layer = layer(busybox)?;
    let layer_digest = hex::encode(Sha256::digest(&layer));
    let mut says = json!({
        "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "IMAGE_SAYS=from the image"],
        "WorkingDir": "/work",
        "Volumes": { "/cache": {} },
        "Cmd": ["sleep", "infinity"],
    });
    if let Some(user) = user {
        says["User"] = json!(user);
    }
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "created": EPOCH,
        "config": says,
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer_digest}")] },
        "history": [{ "created": EPOCH, "created_by": "chiton test image" }],
    });
    let config = serde_json::to_vec(&config)?;
    let digest = hex::encode(Sha256::digest(&config));
    let config_name = format!("{digest}.json");
    let layer_name = format!("{layer_digest}/layer.tar");
    let manifest = json!([{ "Config": config_name, "RepoTags": [reference], "Layers": [layer_name] }]);

    let mut archive = Builder::new(Vec::new());
    file(&mut archive, &config_name, 0o644, &config)?;
    file(&mut archive, &layer_name, 0o644, &layer)?;
    file(&mut archive, "manifest.json", 0o644, &serde_json::to_vec(&manifest)?)?;
    Ok(Image { bytes: archive.into_inner()?, id: format!("sha256:{digest}") })
}

fn layer(busybox: &Busybox) -> std::io::Result<Vec<u8>> {
    let mut layer = Builder::new(Vec::new());
    for (path, mode, owner) in FOLDERS {
        let mut header = header(EntryType::Directory, mode, 0);
        header.set_uid(owner);
        header.set_gid(owner);
        layer.append_data(&mut header, format!("{path}/"), std::io::empty())?;
    }
    for (path, text) in FILES {
        file(&mut layer, path, 0o644, text.as_bytes())?;
    }
    file(&mut layer, "bin/busybox", 0o755, &busybox.program)?;
    for applet in &busybox.applets {
        layer.append_link(&mut header(EntryType::Symlink, 0o777, 0), applet, "/bin/busybox")?;
    }
    layer.into_inner()
}

fn file(archive: &mut Builder<Vec<u8>>, path: &str, mode: u32, content: &[u8]) -> std::io::Result<()> {
    archive.append_data(&mut header(EntryType::Regular, mode, content.len() as u64), path, content)
}

/// Owner, group and time are root's and the epoch's.
fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// This machine's architecture as images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
