//! A driver of its own for each test on a shared engine, and looks at the engine from outside.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bollard::models::{ContainerCreateBody, ImageInspect};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, ListContainersOptionsBuilder, ListImagesOptionsBuilder,
    RemoveContainerOptionsBuilder, RemoveImageOptionsBuilder, TagImageOptionsBuilder,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use chiton_container_engine::{Dialect, EngineDriver, EngineOptions, PullPolicy};
use chiton_driver::{
    CallError, CallResult, ComputeDriver, CreateCall, DriverEvent, Identity, Images, PlanRequest, marker, slots,
};
use chiton_driver_suite::proxy::Proxy;
use chiton_model::{
    DriverId, Error, GatewayId, NetworkSpec, OperationId, Resources, SandboxId, SandboxName, StoreEpoch, WorkspaceName,
};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::sync::RwLock;

use crate::build::{Image, Layer, Packing, image};
use crate::served;

/// No single step of a test takes longer, or something hangs. Docker itself asks again for 75 s when a pull breaks off.
pub(crate) const PATIENCE: Duration = Duration::from_mins(4);

/// Whoever loads an image of a file has a share of this; whoever prunes such images, anybody's, has it alone.
pub(crate) static LOADING: RwLock<()> = RwLock::const_new(());

/// Which engine.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub(crate) dialect: &'static dyn Dialect,
    /// The environment variable with its socket.
    pub(crate) socket: &'static str,
}

/// An engine that is there.
pub(crate) struct There {
    pub(crate) dialect: &'static dyn Dialect,
    pub(crate) socket: PathBuf,
    /// An archive with a shell.
    archive: PathBuf,
    /// The same in the engine.
    pub(crate) image: String,
}

impl There {
    /// Another engine of the kind.
    pub(crate) fn at(self, socket: PathBuf) -> Self {
        Self { socket, ..self }
    }
}

impl Target {
    /// None, said by name, where there is no such engine or no registry server; a failure where all parts must be there.
    pub(crate) fn present(&self, test: &str) -> Option<There> {
        let read = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        if let (Some(socket), Some(archive), Some(image)) =
            (read(self.socket), read("ENGINES_ARCHIVE"), read("ENGINES_IMAGE"))
        {
            let image = image.into_string().unwrap();
            let there = There { dialect: self.dialect, socket: socket.into(), archive: archive.into(), image };
            return served::present(test).then_some(there);
        }
        assert!(
            read("ENGINES_REQUIRED").is_none(),
            "{} is not set; run: eval \"$(cargo xtask engines up)\"",
            self.socket
        );
        eprintln!("SKIPPED {test}: {} is not set (cargo xtask engines up)", self.socket);
        None
    }
}

/// A gateway's driver.
pub(crate) struct World {
    pub(crate) engine: Arc<There>,
    pub(crate) driver: Arc<EngineDriver>,
    pub(crate) api: Docker,
    pub(crate) gateway: GatewayId,
    pub(crate) proxy: Proxy,
    /// What names the images of this test; they are removed at its end.
    marks: parking_lot::Mutex<Vec<String>>,
    pub(crate) folder: tempfile::TempDir,
}

/// A sandbox's plan.
#[derive(Clone)]
pub(crate) struct Planned {
    pub(crate) id: SandboxId,
    pub(crate) plan: Value,
    call: CreateCall,
}

impl World {
    pub(crate) fn new(engine: There) -> Self {
        Self::with(Arc::new(engine), |_| ())
    }

    pub(crate) fn with(engine: Arc<There>, change: impl FnOnce(&mut EngineOptions)) -> Self {
        let folder = tempfile::Builder::new().prefix("chiton-engine-images-").tempdir().unwrap();
        let gateway = GatewayId::new(format!("img-{}", unique())).unwrap();
        let socket = folder.path().join("engine.sock");
        let proxy = Proxy::start(&socket, &engine.socket).unwrap();
        let folders = (folder.path().join("state"), folder.path().join("run"));
        std::fs::create_dir(&folders.0).unwrap();
        let id = DriverId::new("main").unwrap();
        let mut options = EngineOptions::new(engine.dialect, id, gateway.clone(), socket, folders, b"");
        // What the machine's own limits of limits allow.
        options.default_pids = None;
        for name in ["nofile", "nproc"] {
            options.ulimits.insert(name.to_owned(), chiton_container_engine::Ulimit { soft: 1024, hard: 1024 });
        }
        options.runtime = (engine.dialect.kind() == "podman").then(|| "runc".to_owned());
        change(&mut options);
        let address = engine.socket.to_str().unwrap();
        let api = Docker::connect_with_unix(address, 120, API_DEFAULT_VERSION).unwrap();
        let driver = Arc::new(EngineDriver::new(options));
        Self { engine, driver, api, gateway, proxy, marks: parking_lot::Mutex::default(), folder }
    }

    /// A second gateway on the same engine.
    pub(crate) fn another(&self) -> Self {
        Self::with(Arc::clone(&self.engine), |_| ())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Images with this in a name go at the end.
    pub(crate) fn mark(&self, text: impl Into<String>) {
        self.marks.lock().push(text.into());
    }

    pub(crate) fn images(&self) -> Arc<dyn Images> {
        self.driver.images().unwrap()
    }

    pub(crate) async fn plan(&self, image: &str, command: &[&str]) -> Result<Planned, Error> {
        let request = PlanRequest {
            image: image.to_owned(),
            command: command.iter().map(|&word| word.to_owned()).collect(),
            env: [].into(),
            secrets: [].into(),
            labels: [].into(),
            resources: Resources::default(),
            network: NetworkSpec::default(),
            volumes: Vec::new(),
            workdir: String::new(),
            name: Some("tested".to_owned()),
            workspace: WorkspaceName::new("default").unwrap(),
            driver_config: json!({}),
        };
        // It has its own limits, several of them: the engine is asked, and a registry.
        let made = tokio::time::timeout(Duration::from_mins(1), self.driver.default_plan(&request)).await;
        let made = made.expect("a plan is made in time")?;
        let id = SandboxId::new(format!("sb-{}", unique())).unwrap();
        let text = made.plan.to_string().replace(&marker(slots::SANDBOX_ID), id.as_str());
        let plan: Value = serde_json::from_str(&text).unwrap();
        if let Some((_, tag)) = plan["image"]["pin"].as_str().unwrap().split_once("chiton.local/image:") {
            self.mark(tag);
        }
        let identity = Identity {
            gateway: self.gateway.clone(),
            epoch: StoreEpoch::new("1".repeat(32)).unwrap(),
            commit: 1,
            sandbox: id.clone(),
            name: SandboxName::new("tested").unwrap(),
            workspace: WorkspaceName::new("default").unwrap(),
            operation: OperationId::new(format!("op-{}", unique())).unwrap(),
            principal: "uid:0".to_owned(),
            extensions: Vec::new(),
        };
        let call = CreateCall { identity, plan: plan.clone(), agent: None };
        Ok(Planned { id, plan, call })
    }

    pub(crate) async fn prepare(&self, planned: &Planned) -> CallResult<()> {
        let prepared = self.driver.prepare(&planned.id, &planned.plan);
        tokio::time::timeout(PATIENCE, prepared).await.expect("the image comes")
    }

    /// Prepares and creates; the engine's id of the image that the container is made of.
    pub(crate) async fn create(&self, planned: &Planned) -> CallResult<String> {
        self.prepare(planned).await?;
        self.driver.create(&planned.call).await?;
        let name = format!("chiton-{}", planned.id);
        let found = self.api.inspect_container(&name, None).await.unwrap();
        Ok(whole(&found.image.unwrap()))
    }

    /// Starts it, waits for its end, and returns what it said.
    pub(crate) async fn run(&self, planned: &Planned) -> String {
        let mut news = self.driver.watch();
        self.driver.start(&planned.call).await.unwrap();
        let ended = async {
            loop {
                let found = self.driver.get(&planned.id).await.unwrap().unwrap();
                if matches!(found.status, chiton_driver::ObservedStatus::Exited(_)) {
                    return;
                }
                news.next().await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, ended).await.expect("it ends");
        let mut said = Vec::new();
        let mut logs = self.driver.logs(&planned.id, chiton_driver::LogOptions::default()).await.unwrap();
        while let Some(piece) = logs.next().await {
            said.extend(format!("{:?}", piece.unwrap()).into_bytes());
        }
        String::from_utf8(said).unwrap()
    }

    /// What is said of a sandbox from now on.
    pub(crate) async fn progress(&self, id: &SandboxId) -> tokio::sync::mpsc::UnboundedReceiver<String> {
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        let (mut news, id) = (self.driver.watch(), id.clone());
        // A watch that has not told its snapshot yet may not listen yet.
        let begun = async { while !matches!(news.next().await.expect("a watch"), DriverEvent::SnapshotEnd) {} };
        tokio::time::timeout(PATIENCE, begun).await.expect("a snapshot");
        tokio::spawn(async move {
            while let Some(event) = news.next().await {
                if let DriverEvent::Progress { id: of, message } = event
                    && of == id
                    && sender.send(message).is_err()
                {
                    return;
                }
            }
        });
        receiver
    }

    pub(crate) async fn inspect(&self, image: &str) -> Option<ImageInspect> {
        self.api.inspect_image(image).await.ok()
    }

    /// Which image a name leads to.
    pub(crate) async fn id_of(&self, image: &str) -> Option<String> {
        self.inspect(image).await.and_then(|found| found.id)
    }

    pub(crate) async fn tag(&self, image: &str, repository: &str, tag: &str) {
        self.mark(repository);
        let options = TagImageOptionsBuilder::new().repo(repository).tag(tag).build();
        self.api.tag_image(image, Some(options)).await.unwrap();
    }

    /// A container of somebody who knows nothing of gateways.
    pub(crate) async fn somebodys(&self, image: &str) -> String {
        let name = format!("somebodys-{}", unique());
        let options = CreateContainerOptionsBuilder::new().name(&name).build();
        let body = ContainerCreateBody {
            image: Some(image.to_owned()),
            cmd: Some(vec!["sleep".to_owned(), "9".to_owned()]),
            labels: Some([("chiton-test".to_owned(), self.gateway.to_string())].into()),
            ..ContainerCreateBody::default()
        };
        self.api.create_container(Some(options), body).await.unwrap();
        name
    }

    pub(crate) async fn remove_container(&self, name: &str) {
        let options = RemoveContainerOptionsBuilder::new().force(true).build();
        self.api.remove_container(name, Some(options)).await.unwrap();
    }

    /// How many requests of this kind reached the engine.
    pub(crate) fn asked(&self, what: &str) -> usize {
        self.proxy.log().iter().filter(|passed| passed.path.contains(what)).count()
    }

    /// An image with a shell and a layer of its own, whose layers are compressed in the ways that there are.
    pub(crate) fn shell(&self, says: &str) -> Image {
        self.packed(says, [Packing::Zstd, Packing::Gzip, Packing::Plain])
    }

    /// The same for a registry: there are engines that cannot pull layers that are compressed with zstd.
    pub(crate) fn shell_for_all(&self, says: &str) -> Image {
        self.packed(says, [Packing::Gzip; 3])
    }

    fn packed(&self, says: &str, packing: [Packing; 3]) -> Image {
        let mut archive = tar::Archive::new(std::fs::File::open(&self.engine.archive).unwrap());
        let mut base = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            if entry.path().unwrap().ends_with("layer.tar") {
                std::io::Read::read_to_end(&mut entry, &mut base).unwrap();
            }
        }
        let base = Layer::default().raw(tar::Header::from_byte_slice(&base[..512]), &base[512..]);
        let own = Layer::default().file("says", format!("{says} {}", self.gateway).as_bytes());
        let more = Layer::default().file("more", &vec![7; 100_000]);
        let layers: Vec<(Layer, Packing)> = [base, own, more].into_iter().zip(packing).collect();
        image(&layers, &json!({ "Env": ["A=b"] }))
    }

    /// A small image that is no other test's.
    pub(crate) fn small(&self, says: &str) -> Image {
        let own = Layer::default().file("says", format!("{says} {}", self.gateway).as_bytes());
        image(&[(own, Packing::Gzip)], &json!({ "Cmd": ["/says"] }))
    }

    async fn clean(&self) {
        let all = ListContainersOptionsBuilder::new().all(true).build();
        for container in self.api.list_containers(Some(all)).await.unwrap_or_default() {
            let labels = container.labels.unwrap_or_default();
            if labels.values().any(|value| value == self.gateway.as_str()) {
                let options = RemoveContainerOptionsBuilder::new().force(true).build();
                drop(self.api.remove_container(&container.id.unwrap_or_default(), Some(options)).await);
            }
        }
        let marks = self.marks.lock().clone();
        let options = ListImagesOptionsBuilder::new().build();
        for found in self.api.list_images(Some(options)).await.unwrap_or_default() {
            // By a digest podman removes an image with all its names, whoever gave them.
            let names = if found.repo_tags.is_empty() { &found.repo_digests } else { &found.repo_tags };
            for name in names {
                if marks.iter().any(|mark| name.contains(mark.as_str())) {
                    let options = RemoveImageOptionsBuilder::new().build();
                    drop(self.api.remove_image(name, Some(options), None).await);
                }
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // On a thread of its own: this one may be a runtime's.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(self.clean());
            });
        });
    }
}

pub(crate) fn unique() -> String {
    uuid::Uuid::new_v4().simple().to_string()[..16].to_owned()
}

pub(crate) fn whole(id: &str) -> String {
    if id.starts_with("sha256:") { id.to_owned() } else { format!("sha256:{id}") }
}

pub(crate) fn error(result: CallResult<impl std::fmt::Debug>) -> Error {
    result.map_err(CallError::into_error).expect_err("it fails")
}

pub(crate) fn reference(kind: &str, path: &Path) -> String {
    format!("{kind}:{}", path.display())
}

/// By its policy, for `World::with`.
pub(crate) fn pulls(policy: PullPolicy) -> impl FnOnce(&mut EngineOptions) {
    move |options| options.pull = policy
}

impl World {
    /// Takes an image from the engine, as its owner does.
    pub(crate) async fn remove_image(&self, name: &str) {
        let options = RemoveImageOptionsBuilder::new().build();
        self.api.remove_image(name, Some(options), None).await.unwrap();
    }
}

impl Image {
    /// Loads it into the engine under a name of somebody's, without any driver; the name.
    pub(crate) async fn saved_into(&self, world: &World) -> String {
        let name = format!("localhost/somebodys-{}:1", unique());
        world.mark(name.trim_end_matches(":1"));
        let file = world.path("somebodys.tar");
        self.saved(&file, &name);
        let bytes = bytes::Bytes::from(std::fs::read(file).unwrap());
        let options = bollard::query_parameters::ImportImageOptionsBuilder::new().build();
        let mut loading = world.api.import_image(options, bollard::body_full(bytes), None);
        while let Some(piece) = loading.next().await {
            piece.unwrap();
        }
        name
    }
}
