//! The bench itself.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chiton_container_engine::{Dialect, EngineDriver, EngineOptions, Injects, SupervisorOptions, Ulimit};
use chiton_driver_suite::proxy::Proxy;
use chiton_driver_suite::{
    Bench, Failure, FaultyBench, Foreign, Named, Routes, Stop, Subject, Verdict, engine, text_of_files,
};
use chiton_model::{DriverId, GatewayId, SandboxId};
use http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::api::Api;
use crate::foreign::{ByHand, Tagged};
use crate::traces;

/// Which engine, and how it is found.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// What reports call it.
    pub name: &'static str,
    /// Its ways.
    pub dialect: &'static dyn Dialect,
    /// The environment variable that holds its socket.
    pub socket: &'static str,
    /// Limits of every container: what the engine's own defaults would exceed here.
    pub ulimits: &'static [(&'static str, i64)],
    /// Cases that it cannot keep, by name, and why.
    pub waived: fn(&str) -> Option<&'static str>,
    /// Why it does not say that memory was short.
    pub silent_about_memory: Option<&'static str>,
    /// The step of its output's times.
    pub log_step: Duration,
}

/// One engine, with fresh folders for each gateway.
pub struct EngineBench {
    target: Target,
    injects: Injects,
    api: Api,
    image: String,
    unique: String,
    folders: Mutex<HashMap<GatewayId, Arc<tempfile::TempDir>>>,
    network: tokio::sync::OnceCell<()>,
}

impl EngineBench {
    /// A bench on the engine that the environment names; skipped by name without one.
    pub fn new(target: Target) -> Verdict<Self> {
        Self::injecting(target, Injects::Agent)
    }

    /// The same, whose drivers put nothing into their sandboxes.
    pub fn without_agent(target: Target) -> Verdict<Self> {
        Self::injecting(target, Injects::Nothing)
    }

    /// A bench whose drivers put this into their sandboxes.
    pub fn injecting(target: Target, injects: Injects) -> Verdict<Self> {
        let api = Api::new(engine(target.socket)?);
        let image = std::env::var("ENGINES_IMAGE")
            .map_err(|_| Stop::from(Failure::bench("find the test image", "ENGINES_IMAGE is not set")))?;
        Ok(Self {
            target,
            injects,
            api,
            image,
            unique: uuid::Uuid::new_v4().simple().to_string(),
            folders: Mutex::default(),
            network: tokio::sync::OnceCell::new(),
        })
    }

    /// The engine, asked directly.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// What a driver of a gateway is made from.
    pub fn options(&self, gateway: &GatewayId) -> Verdict<EngineOptions> {
        let folder = self.folder(gateway)?;
        let id = DriverId::new(self.target.name).map_err(|error| Failure::bench("name the driver", error))?;
        let mut options = EngineOptions::new(
            self.target.dialect,
            id,
            gateway.clone(),
            self.api.socket().to_owned(),
            (folder.join("state"), folder.join("run")),
            chiton_agent_binary::AGENT,
        );
        options.agent = self.injects.clone();
        if let Injects::Supervisor(_) = options.agent {
            options.default_pids = Some(SupervisorOptions::PIDS);
        }
        options.allowed.networks.insert(self.network_name());
        options.allowed.host_network = true;
        let limit = |(name, limit): &(&str, i64)| ((*name).to_owned(), Ulimit { soft: *limit, hard: *limit });
        options.ulimits = self.target.ulimits.iter().map(limit).collect();
        Ok(options)
    }

    /// A gateway's folder: what it keeps and runs with is below it.
    pub fn folder(&self, gateway: &GatewayId) -> Verdict<PathBuf> {
        let mut folders = self.folders.lock();
        if let Some(found) = folders.get(gateway) {
            return Ok(found.path().to_owned());
        }
        let made = tempfile::Builder::new().prefix("chiton-engine-").tempdir();
        let made = Arc::new(made.map_err(|error| Failure::bench("make a folder", error))?);
        folders.insert(gateway.clone(), Arc::clone(&made));
        Ok(made.path().to_owned())
    }

    /// The operator's id of its drivers.
    pub(crate) fn driver_id(&self) -> &'static str {
        self.target.name
    }

    /// Limits that every container needs here, as the engine's API has them.
    pub(crate) fn ulimits(&self) -> Value {
        self.target.ulimits.iter().map(|(name, limit)| json!({ "Name": name, "Soft": limit, "Hard": limit })).collect()
    }

    fn network_name(&self) -> String {
        format!("test-{}", self.unique)
    }

    /// A sandbox's container as the engine shows it.
    pub async fn inspect(&self, id: &SandboxId) -> Verdict<Value> {
        let found = self.api.find(&format!("/containers/{}/json", container(id))).await?;
        found.ok_or_else(|| Failure::bench("look at the container", "it is not there").into())
    }
}

/// What a sandbox's container is called.
pub(crate) fn container(id: &SandboxId) -> String {
    format!("chiton-{id}")
}

fn subject(options: EngineOptions) -> Subject {
    let driver = Arc::new(EngineDriver::new(options));
    let of = Arc::clone(&driver);
    let dials = matches!(of.injects(), Injects::Agent);
    Subject { agent_folder: if dials { Some(Arc::new(move |id| of.agent_folder(id))) } else { None }, driver }
}

#[async_trait]
impl Bench for EngineBench {
    fn name(&self) -> String {
        match self.injects {
            Injects::Agent => self.target.name.to_owned(),
            Injects::Nothing => format!("{} without agent", self.target.name),
            Injects::Supervisor(_) => format!("{} with a supervisor", self.target.name),
        }
    }

    async fn driver(&self, gateway: &GatewayId) -> Verdict<Subject> {
        Ok(subject(self.options(gateway)?))
    }

    fn image(&self) -> String {
        self.image.clone()
    }

    fn waived(&self, case: &str) -> Option<String> {
        (self.target.waived)(case).map(str::to_owned)
    }

    fn silent_about_memory(&self) -> Option<String> {
        self.target.silent_about_memory.map(str::to_owned)
    }

    fn log_step(&self) -> Duration {
        self.target.log_step
    }

    async fn traces(&self, gateway: &GatewayId) -> Verdict<Vec<String>> {
        let folder = self.folder(gateway)?;
        let mut found = traces::on_engine(&self.api, gateway).await?;
        found.extend(traces::on_machine(&folder));
        Ok(found)
    }

    async fn exposed(&self, gateway: &GatewayId, id: &SandboxId) -> Verdict<String> {
        let name = container(id);
        let mut text = String::new();
        let paths = [
            format!("/containers/{name}/json"),
            format!("/containers/{name}/top"),
            "/containers/json?all=true".to_owned(),
            "/volumes".to_owned(),
            "/networks".to_owned(),
            format!("/events?since=0&until={}", seconds()),
        ];
        for path in paths {
            // What is not there, or does not run, shows nothing.
            text.push_str(&self.api.ask(Method::GET, &path, None).await?.text);
            text.push('\n');
        }
        text_of_files(&self.folder(gateway)?, &mut text);
        Ok(text)
    }

    async fn labels(&self, _gateway: &GatewayId, id: &SandboxId) -> Verdict<Vec<(String, String)>> {
        let found = self.inspect(id).await?;
        let labels = found["Config"]["Labels"].as_object().cloned().unwrap_or_default();
        Ok(labels.into_iter().filter_map(|(key, value)| Some((key, value.as_str()?.to_owned()))).collect())
    }

    async fn foreign(&self, _gateway: &GatewayId, id: &SandboxId) -> Verdict<Box<dyn Foreign>> {
        Ok(Box::new(ByHand::new(&self.api, &self.image, &container(id)).await?))
    }

    async fn named(&self, _gateway: &GatewayId) -> Verdict<Box<dyn Named>> {
        Ok(Box::new(Tagged::new(&self.api, &self.image).await?))
    }

    async fn network(&self) -> Verdict<String> {
        let name = self.network_name();
        let made = self.network.get_or_try_init(|| async {
            let body = json!({ "Name": name, "Driver": "bridge", "Internal": true });
            self.api.change(Method::POST, "/networks/create", Some(&body)).await.map(drop)
        });
        made.await?;
        Ok(name)
    }

    async fn faulty(&self, gateway: &GatewayId) -> Verdict<FaultyBench> {
        let mut options = self.options(gateway)?;
        let socket = self.folder(gateway)?.join("faulty.sock");
        let proxy = Proxy::start(&socket, self.api.socket())
            .map_err(|error| Failure::bench("put a proxy before the engine", error))?;
        options.socket = socket;
        let post = |path: &str| (Method::POST, path.to_owned());
        let routes = Routes {
            create: post("*/containers/create*"),
            start: post("*/containers/*/start*"),
            stop: post("*/containers/*/stop*"),
            delete: (Method::DELETE, "*/containers/*".to_owned()),
            look: (Method::GET, "*/containers/*/json*".to_owned()),
            events: (Method::GET, "*/events*".to_owned()),
        };
        Ok(FaultyBench { subject: subject(options), proxy, routes })
    }
}

impl Drop for EngineBench {
    fn drop(&mut self) {
        if self.network.initialized() {
            let (api, name) = (self.api.clone(), self.network_name());
            finally(async move { api.remove(&format!("/networks/{name}")).await });
        }
    }
}

/// Does what must be done when a value goes, wherever that is: on a thread and a runtime of its own.
pub(crate) fn finally(work: impl Future<Output = Verdict> + Send + 'static) {
    let done = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime.map(|runtime| runtime.block_on(work)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => eprintln!("left on the engine: {error}"),
            Err(error) => eprintln!("left on the engine: no runtime: {error}"),
        }
    });
    // A panic there has told of itself.
    drop(done.join());
}

fn seconds() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map(|now| now.as_secs()).unwrap_or_default()
}
