//! Podman's ways: what `chiton-container-engine` has to know of its service, rootful or rootless, to drive it.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

use std::collections::HashMap;
use std::path::PathBuf;

use bollard::ClientVersion;
use bollard::models::{HostConfigLogConfig, SystemInfo};
use chiton_container_engine::{Dialect, LaterAbilities, Ways};

/// Podman.
#[derive(Clone, Copy, Debug)]
pub struct Podman;

impl Dialect for Podman {
    fn kind(&self) -> &'static str {
        "podman"
    }

    fn default_socket(&self) -> PathBuf {
        let user = rustix::process::geteuid();
        if user.is_root() {
            return "/run/podman/podman.sock".into();
        }
        let folder = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|folder| folder.is_absolute());
        folder.unwrap_or_else(|| format!("/run/user/{}", user.as_raw()).into()).join("podman/podman.sock")
    }

    fn start_it(&self) -> &'static str {
        "start it (systemctl start podman.socket, with --user when it is rootless), or set the driver's socket"
    }

    fn log_config(&self, bytes: u64) -> HostConfigLogConfig {
        // Its file is cut when it is full. The journal, its other way, can be read by others than the engine.
        let config = HashMap::from([("max-size".to_owned(), format!("{}k", (bytes / 1024).max(1)))]);
        HostConfigLogConfig { typ: Some("k8s-file".to_owned()), config: Some(config) }
    }

    fn keeps_members_apart(&self) -> bool {
        false
    }

    fn isolation(&self) -> HashMap<String, String> {
        HashMap::from([("isolate".to_owned(), "true".to_owned())])
    }

    fn networks_last(&self) -> bool {
        // A bridge comes with its first container and goes with its last.
        false
    }

    fn speaks(&self) -> Option<ClientVersion> {
        // Since its version 3. To say so itself it looks at each of its containers, one by one, also those that are busy.
        Some(ClientVersion { major_version: 1, minor_version: 41 })
    }

    fn attaching_revives(&self) -> bool {
        true
    }

    fn supervised(&self) -> Ways {
        Ways::Podman
    }

    fn later_abilities(&self, _version: &ClientVersion) -> LaterAbilities {
        // What it serves of Docker's API has images as mounts since it has mounts, and no CDI names.
        LaterAbilities { image_mounts: true, cdi: false }
    }

    fn installation(&self, info: &SystemInfo, machine: &str) -> Option<String> {
        // The id that it gives is made up for each answer; its storage is what stays.
        info.docker_root_dir.as_ref().map(|root| format!("{machine}:{root}"))
    }
}
