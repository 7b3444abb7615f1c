//! What a gateway's sandboxes left on an engine and on its machine.

use std::fs;
use std::path::Path;

use chiton_driver_suite::Verdict;
use chiton_model::GatewayId;
use chiton_model::label::managed;
use serde_json::Value;

use crate::api::{Api, labelled};

/// Containers and networks with the gateway's label. Named volumes outlive sandboxes; they do not count.
pub(crate) async fn on_engine(api: &Api, gateway: &GatewayId) -> Verdict<Vec<String>> {
    let label = labelled(&format!("{}={gateway}", managed::GATEWAY_ID));
    let mut found = Vec::new();
    for (kind, path, name) in [
        ("container", format!("/containers/json?all=true&{label}"), "Names"),
        ("network", format!("/networks?{label}"), "Name"),
        ("image", format!("/images/json?{label}"), "RepoTags"),
    ] {
        let listed = api.find(&path).await?.unwrap_or(Value::Null);
        found.extend(listed.as_array().into_iter().flatten().map(|one| format!("{kind} {}", one[name])));
    }
    Ok(found)
}

/// Folders of sandboxes below the gateway's, and processes that have one of them mounted.
pub(crate) fn on_machine(folder: &Path) -> Vec<String> {
    let mut found: Vec<String> = fs::read_dir(folder.join("run/agent"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| format!("folder {}", entry.path().display()))
        .collect();
    // What a process has mounted is named by the path within its file system, which ends alike.
    let part = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let process = entry.path();
        let mounts = fs::read_to_string(process.join("mountinfo")).unwrap_or_default();
        if mounts.contains(&part) {
            let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
            found.push(format!("process {} ({})", entry.file_name().to_string_lossy(), name.trim()));
        }
    }
    found
}
