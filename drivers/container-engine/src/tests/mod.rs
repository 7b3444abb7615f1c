//! What can be said without an engine.

mod body;
mod check;
mod config;
mod observe;
mod rules;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use bollard::ClientVersion;
use bollard::models::{HostConfigLogConfig, SystemInfo};
use chiton_driver::{Identity, PlanRequest};
use chiton_image::ImageConfig;
use chiton_model::{
    DriverId, GatewayId, NetworkSpec, OperationId, Resources, SandboxId, SandboxName, StoreEpoch, WorkspaceName,
};
use serde_json::{Value, json};

use crate::dialect::{Dialect, LaterAbilities};
use crate::engine::Abilities;
use crate::options::{EngineOptions, PullPolicy};
use crate::plan::{self, EnginePlan, Found, ImagePlan, PlanContext};
use crate::supervisor::Ways;

/// An engine that nobody asks.
#[derive(Debug)]
struct Paper;

impl Dialect for Paper {
    fn kind(&self) -> &'static str {
        "paper"
    }

    fn default_socket(&self) -> PathBuf {
        "/nonexistent/paper.sock".into()
    }

    fn start_it(&self) -> &'static str {
        "fold it"
    }

    fn log_config(&self, bytes: u64) -> HostConfigLogConfig {
        let config = HashMap::from([("max-size".to_owned(), bytes.to_string())]);
        HostConfigLogConfig { typ: Some("paper".to_owned()), config: Some(config) }
    }

    fn keeps_members_apart(&self) -> bool {
        true
    }

    fn isolation(&self) -> HashMap<String, String> {
        HashMap::new()
    }

    fn later_abilities(&self, _version: &ClientVersion) -> LaterAbilities {
        LaterAbilities { image_mounts: true, cdi: true }
    }

    fn installation(&self, _info: &SystemInfo, machine: &str) -> Option<String> {
        Some(machine.to_owned())
    }
}

/// One that another gateway's supervisor is started on as on podman.
#[derive(Debug)]
pub(crate) struct PaperPodman;

impl Dialect for PaperPodman {
    fn kind(&self) -> &'static str {
        Paper.kind()
    }

    fn default_socket(&self) -> PathBuf {
        Paper.default_socket()
    }

    fn start_it(&self) -> &'static str {
        Paper.start_it()
    }

    fn log_config(&self, bytes: u64) -> HostConfigLogConfig {
        Paper.log_config(bytes)
    }

    fn keeps_members_apart(&self) -> bool {
        false
    }

    fn isolation(&self) -> HashMap<String, String> {
        Paper.isolation()
    }

    fn supervised(&self) -> Ways {
        Ways::Podman
    }

    fn later_abilities(&self, version: &ClientVersion) -> LaterAbilities {
        Paper.later_abilities(version)
    }

    fn installation(&self, info: &SystemInfo, machine: &str) -> Option<String> {
        Paper.installation(info, machine)
    }
}

pub(crate) const ABLE: Abilities = Abilities {
    selinux: true,
    cpu: true,
    memory: true,
    pids: true,
    open_files: true,
    image_mounts: true,
    cdi: true,
    rootless: false,
};

pub(crate) fn options() -> EngineOptions {
    let folders = ("/nonexistent/state".into(), "/nonexistent/run".into());
    let (id, gateway) = (DriverId::new("paper").unwrap(), GatewayId::new("g-1").unwrap());
    EngineOptions::new(&Paper, id, gateway, "/nonexistent/paper.sock".into(), folders, b"agent")
}

pub(crate) fn request(driver_config: Value) -> PlanRequest {
    PlanRequest {
        image: "box:1".to_owned(),
        command: vec!["sleep".to_owned(), "600".to_owned()],
        env: BTreeMap::new(),
        secrets: BTreeMap::new(),
        labels: BTreeMap::new(),
        resources: Resources::default(),
        network: NetworkSpec::default(),
        volumes: Vec::new(),
        workdir: String::new(),
        name: Some("box".to_owned()),
        workspace: WorkspaceName::default(),
        driver_config,
    }
}

pub(crate) fn found() -> Found {
    let image = ImagePlan {
        reference: "box:1".to_owned(),
        pin: "sha256:0123".to_owned(),
        file: None,
        pull: PullPolicy::Missing,
    };
    Found { image, config: ImageConfig::default() }
}

/// The plan of a request.
fn planned(request: &PlanRequest, options: &EngineOptions) -> Result<Value, chiton_model::Error> {
    plan::check_config(request, options)?;
    Ok(plan::default_plan(request, PlanContext { options, abilities: ABLE, found: found(), program: None })?.plan)
}

/// The plan of a request that must be good.
pub(crate) fn plan_of(request: &PlanRequest, options: &EngineOptions) -> EnginePlan {
    EnginePlan::decode(&planned(request, options).unwrap()).unwrap()
}

pub(crate) fn identity() -> Identity {
    Identity {
        gateway: GatewayId::new("g-1").unwrap(),
        epoch: StoreEpoch::new("e-1").unwrap(),
        commit: 7,
        sandbox: SandboxId::new("s-1").unwrap(),
        name: SandboxName::new("box").unwrap(),
        workspace: WorkspaceName::default(),
        operation: OperationId::new("op-1").unwrap(),
        principal: "uid:0".to_owned(),
        extensions: Vec::new(),
    }
}

/// A key and a value that the key takes, for each key of the request's own block; all of them allowed by [`generous`].
fn all_keys() -> Vec<(&'static str, Value)> {
    vec![
        ("capabilities", json!(["NET_RAW"])),
        ("cdi_devices", json!(["vendor.com/class=one"])),
        ("hostname", json!("inside")),
        ("image_command", json!(true)),
        ("mounts", json!([{ "type": "tmpfs", "target": "/scratch", "size_bytes": 1_048_576, "mode": 1023 }])),
        ("read_only", json!(true)),
        ("stop_grace_seconds", json!(3)),
        ("user", json!("app:staff")),
        ("workdir", json!("/work")),
    ]
}

/// Options that allow what [`all_keys`] asks for.
fn generous() -> EngineOptions {
    let mut options = options();
    options.allowed.capabilities.insert("NET_RAW".to_owned());
    options.allowed.cdi_devices.insert("vendor.com/class=one".to_owned());
    options.allowed.volumes.insert("shared".to_owned());
    options
}
