//! The scripted driver on a socket of its own, and the external driver that dials it.

#![allow(dead_code, reason = "each test program uses a part")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chiton_driver::{
    AgentLaunch, ComputeDriver as _, CreateCall, Deadlines, Identity, ObservedStatus, PlanRequest, WhoseAgent,
};
use chiton_driver_external::{ExternalDriver, ExternalOptions};
use chiton_driver_scripted::{Fault, Platform, Script, Server};
use chiton_model::{DriverId, GatewayId, OperationId, SandboxId, SandboxName, StoreEpoch, WorkspaceName};
use serde_json::{Value, json};

/// Both ends, until this is dropped.
pub(crate) struct Rig {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) platform: Arc<Platform>,
    script: Script,
    server: Option<Server>,
}

pub(crate) fn script(faults: &[Fault], stock: bool) -> Script {
    Script { faults: faults.iter().copied().collect(), stock, ..Script::default() }
}

impl Rig {
    pub(crate) fn new(script: Script) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let platform = Platform::new(script.faults.clone(), Duration::ZERO, None).expect("a platform");
        let mut rig = Self { folder, platform, script, server: None };
        rig.serve();
        rig
    }

    pub(crate) fn stock(faults: &[Fault]) -> Self {
        Self::new(script(faults, true))
    }

    pub(crate) fn serve(&mut self) {
        self.server = Some(Server::start(&self.socket(), &self.platform, self.script.clone()).expect("a server"));
    }

    pub(crate) fn stop(&mut self) {
        drop(self.server.take());
    }

    /// Another driver at the same socket, on the same platform.
    pub(crate) fn replace(&mut self, script: Script) {
        self.stop();
        self.script = script;
        self.serve();
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("driver.sock")
    }

    pub(crate) fn driver(&self, agent: WhoseAgent) -> ExternalDriver {
        driver(&self.socket(), agent, Deadlines::default())
    }
}

pub(crate) fn driver(socket: &std::path::Path, agent: WhoseAgent, deadlines: Deadlines) -> ExternalDriver {
    ExternalDriver::new(ExternalOptions { agent, deadlines, ..options(socket) })
}

pub(crate) fn options(socket: &std::path::Path) -> ExternalOptions {
    let folder = socket.parent().expect("a folder");
    let (id, gateway) = (DriverId::new("kyma").expect("an id"), GatewayId::new("g-1").expect("an id"));
    ExternalOptions::new(id, gateway, folder.join("state"), folder.join("run"), socket.to_owned())
}

/// A create of a sandbox with this command.
pub(crate) fn call(id: &str, command: &[&str], token: Option<&str>) -> CreateCall {
    let plan = json!({
        "sandbox": { "id": id, "name": id, "workspace": "default" },
        "image": "scripted",
        "command": command,
        "environment": {},
        "labels": {},
        "resources": {},
        "driver_config": {},
    });
    let identity = Identity {
        gateway: GatewayId::new("g-1").expect("an id"),
        epoch: StoreEpoch::new("e-1").expect("an epoch"),
        commit: 1,
        sandbox: SandboxId::new(id).expect("an id"),
        name: SandboxName::new(id).expect("a name"),
        workspace: WorkspaceName::default(),
        operation: OperationId::generate(0, [0; 10]),
        principal: "test".to_owned(),
        extensions: Vec::new(),
    };
    let agent = token.map(|token| AgentLaunch { token: token.to_owned(), attempt: format!("a-{token}") });
    CreateCall { identity, plan, agent }
}

pub(crate) async fn plan(driver: &ExternalDriver) -> Value {
    let request = PlanRequest {
        name: None,
        workspace: WorkspaceName::default(),
        image: String::new(),
        command: Vec::new(),
        workdir: String::new(),
        env: BTreeMap::new(),
        secrets: BTreeMap::new(),
        labels: BTreeMap::new(),
        resources: chiton_model::Resources::default(),
        network: chiton_model::NetworkSpec::default(),
        volumes: Vec::new(),
        driver_config: json!({}),
    };
    driver.default_plan(&request).await.expect("a plan").plan
}

/// Looks until the sandbox is as wanted.
pub(crate) async fn until(driver: &ExternalDriver, id: &SandboxId, met: impl Fn(&ObservedStatus) -> bool) {
    let looking = async {
        loop {
            if driver.get(id).await.expect("a look").is_some_and(|found| met(&found.status)) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), looking).await.expect("in time");
}
