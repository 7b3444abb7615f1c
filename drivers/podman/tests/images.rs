//! Images on a real engine and from a real registry.
#![allow(dead_code)] // What is shared with other tests has more than each of them uses.

#[path = "../../../crates/chiton-image/tests/images/build.rs"]
mod build;
#[macro_use]
#[path = "../../container-engine/tests/images/mod.rs"]
mod images;
#[path = "../../../crates/chiton-image/tests/images/served.rs"]
mod served;

use chiton_driver_podman::Podman;
use images::bench::Target;

image_cases!(Target { dialect: &Podman, socket: "ENGINES_PODMAN" });

mod rootless {
    use super::{Podman, Target, images};

    image_cases!(Target { dialect: &Podman, socket: "ENGINES_PODMAN_ROOTLESS" });
}

/// A podman of its own, with little room, that is gone with its mount when the value is dropped.
struct Small {
    service: std::process::Child,
    folder: tempfile::TempDir,
}

impl Small {
    async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("chiton-small-podman-").tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at(".config/containers")).unwrap();
        std::fs::create_dir(at("room")).unwrap();
        let trust = "[[registry]]\nprefix = \"127.0.0.1\"\nlocation = \"127.0.0.1\"\ninsecure = true\n";
        std::fs::write(at(".config/containers/registries.conf"), trust).unwrap();
        // The mount is in a name space of its own, and ends with the service.
        let script = "mount -t tmpfs -o size=12m room \"$HOME/room\" && mkdir \"$HOME/room/tmp\" && \
                      TMPDIR=\"$HOME/room/tmp\" exec podman --root \"$HOME/room/root\" --runroot \"$HOME/room/run\" \
                      --tmpdir \"$HOME/room/libpod\" --storage-driver vfs --cgroup-manager cgroupfs \
                      --events-backend file system service --time=0 \"unix://$HOME/socket\"";
        let service = std::process::Command::new("unshare")
            .args(["--mount", "--kill-child", "sh", "-c", script])
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", folder.path())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let small = Self { service, folder };
        let answers = async {
            while tokio::net::UnixStream::connect(small.socket()).await.is_err() {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(images::bench::PATIENCE, answers).await.expect("podman starts");
        small
    }

    fn socket(&self) -> std::path::PathBuf {
        self.folder.path().join("socket")
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = self.service.kill();
        let _ = self.service.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_without_room_says_so() {
    let target = Target { dialect: &Podman, socket: "ENGINES_PODMAN" };
    let Some(engine) = target.present("an_engine_without_room_says_so") else { return };
    let small = Small::start().await;
    images::registries::an_engine_without_room_says_so(engine.at(small.socket())).await;
}
