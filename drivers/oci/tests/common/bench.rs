//! This driver as the driver suite's cases need it.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;

use async_trait::async_trait;
use chiton_driver_oci::OciDriver;
use chiton_driver_suite::{Bench, Failure, Stop, Subject, Verdict, text_of_files};
use chiton_model::{GatewayId, SandboxId};
use parking_lot::Mutex;
use serde_json::Value;

use crate::common::{self, World};

/// Folders for each gateway, all on this machine.
pub(crate) struct OciBench {
    agent: bool,
    worlds: Mutex<HashMap<GatewayId, Arc<World>>>,
}

impl OciBench {
    /// Sandboxes with the agent, or with nothing of the gateway's.
    pub(crate) fn new(agent: bool) -> Verdict<Self> {
        if common::able("the driver suite") {
            return Ok(Self { agent, worlds: Mutex::default() });
        }
        Err(Stop::Skipped("it makes real containers, which needs root or user namespaces".to_owned()))
    }

    fn world(&self, gateway: &GatewayId) -> Arc<World> {
        let mut worlds = self.worlds.lock();
        let made = || {
            let mut world = World::new();
            world.gateway = gateway.clone();
            world.options.gateway = gateway.clone();
            world.options.agent = self.agent;
            world.options.agent_binary = chiton_agent_binary::AGENT;
            world.options.network.host = true;
            // The bridge goes with its last sandbox.
            world.options.network.idle = std::time::Duration::ZERO;
            Arc::new(world)
        };
        Arc::clone(worlds.entry(gateway.clone()).or_insert_with(made))
    }

    fn record(&self, gateway: &GatewayId, id: &SandboxId) -> Verdict<Value> {
        let path = self.world(gateway).sandbox(id).join("record.json");
        let read = || serde_json::from_slice(&fs::read(&path)?).map_err(std::io::Error::from);
        read().map_err(|error| Failure::bench(format!("read {}", path.display()), error).into())
    }
}

#[async_trait]
impl Bench for OciBench {
    fn name(&self) -> String {
        if self.agent { "oci" } else { "oci without agent" }.to_owned()
    }

    async fn driver(&self, gateway: &GatewayId) -> Verdict<Subject> {
        let driver = Arc::new(OciDriver::new(self.world(gateway).options.clone()));
        let of = Arc::clone(&driver);
        let agent_folder = if self.agent { Some(Arc::new(move |id: &_| of.agent_folder(id)) as _) } else { None };
        Ok(Subject { driver, agent_folder })
    }

    fn image(&self) -> String {
        "host".to_owned()
    }

    fn waived(&self, case: &str) -> Option<String> {
        let why = match case {
            "network::bridge_is_its_own" if std::env::var_os("OCI_TEST_MACHINE").is_none() => {
                "it would change this machine's packet filter; it is run in a network namespace of its own"
            }
            "owner::leaves_foreign_objects" => {
                "sandboxes are what is in the driver's own folder, where nobody else has objects"
            }
            "image::name_is_pinned_by_the_plan" => {
                "the test image is the host itself; tests/images.rs has names that move"
            }
            late if late.starts_with("late::") => {
                "there is no engine to lose the connection to; tests/crash.rs kills what makes sandboxes instead"
            }
            _ => return None,
        };
        Some(why.to_owned())
    }

    async fn traces(&self, gateway: &GatewayId) -> Verdict<Vec<String>> {
        Ok(self.world(gateway).traces())
    }

    async fn exposed(&self, gateway: &GatewayId, _id: &SandboxId) -> Verdict<String> {
        let mut text = String::new();
        text_of_files(self.world(gateway).folder.path(), &mut text);
        Ok(text)
    }

    async fn labels(&self, gateway: &GatewayId, id: &SandboxId) -> Verdict<Vec<(String, String)>> {
        let record = self.record(gateway, id)?;
        let labels = record["labels"].as_object().cloned().unwrap_or_default();
        Ok(labels.into_iter().filter_map(|(key, value)| Some((key, value.as_str()?.to_owned()))).collect())
    }
}
