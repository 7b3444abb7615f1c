//! Docker's ways: what `chiton-container-engine` has to know of dockerd to drive it.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

use std::collections::HashMap;
use std::path::PathBuf;

use bollard::ClientVersion;
use bollard::models::{HostConfigLogConfig, SystemInfo};
use chiton_container_engine::{Dialect, LaterAbilities};

/// Docker.
#[derive(Clone, Copy, Debug)]
pub struct Docker;

impl Dialect for Docker {
    fn kind(&self) -> &'static str {
        "docker"
    }

    fn default_socket(&self) -> PathBuf {
        "/var/run/docker.sock".into()
    }

    fn start_it(&self) -> &'static str {
        "start it (systemctl start docker), or set the driver's socket"
    }

    fn log_config(&self, bytes: u64) -> HostConfigLogConfig {
        // Two files of half the size: one is kept while the other is written. As text in JSON, the other way to keep output
        // that can be read back, bytes that are no UTF-8 would be lost.
        let size = format!("{}k", (bytes / 2048).max(1));
        let config = HashMap::from([
            ("max-size".to_owned(), size),
            ("max-file".to_owned(), "2".to_owned()),
            ("compress".to_owned(), "false".to_owned()),
        ]);
        HostConfigLogConfig { typ: Some("local".to_owned()), config: Some(config) }
    }

    fn keeps_members_apart(&self) -> bool {
        true
    }

    fn isolation(&self) -> HashMap<String, String> {
        HashMap::from([("com.docker.network.bridge.enable_icc".to_owned(), "false".to_owned())])
    }

    fn later_abilities(&self, version: &ClientVersion) -> LaterAbilities {
        // The API's changes by version: CDI with 1.44 (Docker 25), image mounts with 1.48 (Docker 28).
        let at_least = |minor| version.major_version > 1 || version.minor_version >= minor;
        LaterAbilities { image_mounts: at_least(48), cdi: at_least(44) }
    }

    fn installation(&self, info: &SystemInfo, _machine: &str) -> Option<String> {
        info.id.clone().filter(|id| !id.is_empty())
    }
}
