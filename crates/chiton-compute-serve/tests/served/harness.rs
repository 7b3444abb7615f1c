//! A served driver of a test's own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chiton_compute_serve::{Listen, ServeOptions, serve};
use chiton_compute_wire::v1;
use chiton_compute_wire::v1::compute_driver_client::ComputeDriverClient;
use chiton_compute_wire::v1::watch_sandboxes_event::Payload;
use chiton_driver::Deadlines;
use chiton_driver_external::{ExternalDriver, ExternalOptions};
use chiton_driver_scripted::{Fault, Faults, Platform, Script, Server};
use chiton_gateway::config::{Flags, Sources, load};
use chiton_gateway::{BuiltDriver, DriverContext, DriverKind, Plugins};
use chiton_lifecycle::extension::ExtensionKind;
use chiton_model::{Error, NetworkMode, NetworkSpec};
use chiton_socket::{Dial, own_and_root};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

/// No call and no wait of these tests takes longer on a machine that works.
const DEADLINE: Duration = Duration::from_mins(1);
/// The base driver's, as configurations name it.
pub(crate) const BASE: &str = "scripted";

pub(crate) type Client = ComputeDriverClient<Channel>;

fn build(context: DriverContext) -> Result<BuiltDriver, Error> {
    let socket = context.config["socket"].as_str().map(PathBuf::from).unwrap_or_default();
    let options = ExternalOptions::new(context.id, context.gateway, context.state_dir, context.run_dir, socket);
    let deadlines = Deadlines { act: Duration::from_secs(5), ..options.deadlines.clone() };
    let options = ExternalOptions { deadlines, ..options };
    // As the real kind does: greeted beside the runtime that uses it, and remembered.
    let greeted = std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(ExternalDriver::new(options.clone()).greet())
        });
        asked.join().expect("a look")
    });
    greeted?;
    Ok(BuiltDriver { driver: Arc::new(ExternalDriver::new(options)), agent_folder: None })
}

/// The base driver's process: what it runs outlives it.
pub(crate) struct Base {
    socket: PathBuf,
    platform: Arc<Platform>,
    server: Option<Server>,
}

impl Base {
    pub(crate) fn start(folder: &Path) -> Self {
        let platform = Platform::new(Faults::default(), Duration::ZERO, None).expect("a platform");
        let mut base = Self { socket: folder.join("base/driver.sock"), platform, server: None };
        base.become_faulty(&[]);
        base
    }

    /// Nobody answers any more.
    pub(crate) fn go_away(&mut self) {
        drop(self.server.take());
    }

    /// The ids of what it has.
    pub(crate) async fn list(&self) -> Vec<String> {
        let all = within(client(&self.socket).await.list_sandboxes(v1::ListSandboxesRequest {})).await;
        all.expect("a list").sandboxes.into_iter().map(|sandbox| sandbox.id).collect()
    }

    /// Begins anew and breaks these rules from now on.
    pub(crate) fn become_faulty(&mut self, faults: &[Fault]) {
        drop(self.server.take());
        let script = Script { faults: faults.iter().copied().collect(), ..Script::default() };
        self.server = Some(Server::start(&self.socket, &self.platform, script).expect("it serves"));
    }
}

/// What is served; ends with the test.
pub(crate) struct Served {
    socket: PathBuf,
    serving: JoinHandle<Result<(), Vec<Error>>>,
}

impl Served {
    /// Serves the base driver with these extensions around it, in this order.
    pub(crate) async fn start(folder: &Path, extensions: Vec<ExtensionKind>) -> Self {
        let names: Vec<_> = extensions.iter().map(|kind| kind.descriptor().name.to_string()).collect();
        Self::start_with(folder, extensions, &format!("[compute]\nextensions = {names:?}\n")).await
    }

    /// As [`Served::start`], with another chain.
    pub(crate) async fn start_with(folder: &Path, extensions: Vec<ExtensionKind>, chain: &str) -> Self {
        let kind = DriverKind {
            kind: BASE,
            early: |_| None,
            check: |_| vec![],
            build,
            doctor: |_| vec![],
            probe: |_| Err(Error::unavailable(BASE, "it is used by name only")),
        };
        let mut plugins = Plugins::default();
        plugins.driver(kind).expect("one kind");
        for extension in extensions {
            plugins.extension(extension).expect("one extension of a name");
        }
        let text = format!(
            "{chain}\n[gateway]\ndata_dir = {:?}\nrun_dir = {:?}\n[compute.driver.{BASE}]\nsocket = {:?}\n",
            folder.join("data"),
            folder.join("run"),
            folder.join("base/driver.sock"),
        );
        let sources = Sources {
            file: Some((folder.join("chiton.toml"), text)),
            env: BTreeMap::new(),
            flags: Flags { drivers: vec![BASE.to_owned()], ..Flags::default() },
            uid: 0,
            cwd: folder.to_owned(),
        };
        let config = load(&sources, &plugins).expect("a configuration");
        let socket = folder.join("socket/driver.sock");
        let options = ServeOptions {
            name: "mine".to_owned(),
            listen: Listen::Unix(socket.clone()),
            peers: own_and_root(),
            delegate: false,
            network: NetworkSpec { mode: NetworkMode::None, ..NetworkSpec::default() },
            supervisor: false,
        };
        let (begun, beginning) = tokio::sync::oneshot::channel();
        let mut serving = tokio::spawn(async move {
            let ready = move |_: &Listen| _ = begun.send(());
            serve(config, &plugins, options, ready).await
        });
        tokio::select! {
            begun = beginning => begun.expect("it begins"),
            ended = &mut serving => panic!("it does not begin: {ended:?}"),
        }
        Self { socket, serving }
    }

    pub(crate) async fn client(&self) -> Client {
        client(&self.socket).await
    }

    /// A gateway's driver over what is served.
    pub(crate) fn above(&self, folder: &Path) -> ExternalDriver {
        let (id, gateway) = ("above".parse().expect("an id"), "above".parse().expect("an id"));
        let (state, run) = (folder.join("above/state"), folder.join("above/run"));
        ExternalDriver::new(ExternalOptions::new(id, gateway, state, run, self.socket.clone()))
    }

    /// Waits until the base driver is reached, after one that was not: a dial that failed counts for a moment.
    pub(crate) async fn reaches(&self) {
        let reached = async {
            while self.client().await.get_capabilities(v1::GetCapabilitiesRequest {}).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(DEADLINE, reached).await.expect("it is reached in time");
    }

    pub(crate) async fn get(&self, id: &str) -> Option<v1::DriverSandbox> {
        let asked = v1::GetSandboxRequest { sandbox_id: id.to_owned(), ..v1::GetSandboxRequest::default() };
        match within(self.client().await.get_sandbox(asked)).await {
            Ok(found) => found.sandbox,
            Err(status) if status.code() == tonic::Code::NotFound => None,
            Err(status) => panic!("{status}"),
        }
    }

    pub(crate) async fn create(&self, sandbox: v1::DriverSandbox) -> Result<(), Status> {
        let asked = v1::CreateSandboxRequest { sandbox: Some(sandbox) };
        within(self.client().await.create_sandbox(asked)).await.map(drop)
    }

    pub(crate) async fn stop(&self, id: &str) -> Result<(), Status> {
        let asked = v1::StopSandboxRequest { sandbox_id: id.to_owned(), ..v1::StopSandboxRequest::default() };
        within(self.client().await.stop_sandbox(asked)).await.map(drop)
    }

    pub(crate) async fn delete(&self, id: &str) -> Result<bool, Status> {
        let asked = v1::DeleteSandboxRequest { sandbox_id: id.to_owned(), ..v1::DeleteSandboxRequest::default() };
        within(self.client().await.delete_sandbox(asked)).await.map(|answer| answer.deleted)
    }

    /// Reads the news until one of them is this.
    pub(crate) async fn watch_until(&self, wanted: impl Fn(&Payload) -> bool) {
        let reading = async {
            let mut client = self.client().await;
            let mut news = client.watch_sandboxes(v1::WatchSandboxesRequest {}).await.expect("news").into_inner();
            while let Some(event) = news.message().await.expect("news") {
                if event.payload.as_ref().is_some_and(&wanted) {
                    return;
                }
            }
            panic!("the news ended");
        };
        tokio::time::timeout(DEADLINE, reading).await.expect("it is told in time");
    }

    /// Waits until it is told to be in this state.
    pub(crate) async fn until(&self, id: &str, state: &str) {
        let so = |sandbox: &v1::DriverSandbox| sandbox.status.as_ref().is_some_and(|status| status.state == state);
        let found = |payload: &Payload| match payload {
            Payload::Sandbox(told) => told.sandbox.as_ref().is_some_and(|sandbox| sandbox.id == id && so(sandbox)),
            _ => false,
        };
        self.watch_until(found).await;
    }
}

impl Served {
    /// Waits until it is told to be deleted.
    pub(crate) async fn gone(&self, id: &str) {
        self.watch_until(|payload| matches!(payload, Payload::Deleted(gone) if gone.sandbox_id == id)).await;
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn client(socket: &Path) -> Client {
    let dial = Dial { what: "driver".to_owned(), path: socket.to_owned(), peers: own_and_root(), limit: DEADLINE };
    let (channel, _) = dial.channel(Endpoint::from_static("http://localhost")).await.expect("a connection");
    Client::new(channel)
}

/// The answer, in time.
pub(crate) async fn within<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
    tokio::time::timeout(DEADLINE, call).await.expect("an answer in time").map(Response::into_inner)
}

/// A sandbox that runs until it is told to end.
pub(crate) fn sandbox(id: &str) -> v1::DriverSandbox {
    let command = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done"];
    let template = v1::DriverSandboxTemplate { image: "scripted".to_owned(), ..v1::DriverSandboxTemplate::default() };
    v1::DriverSandbox {
        id: id.to_owned(),
        name: id.to_owned(),
        workspace: "default".to_owned(),
        spec: Some(v1::DriverSandboxSpec {
            command: command.map(str::to_owned).to_vec(),
            template: Some(template),
            ..v1::DriverSandboxSpec::default()
        }),
        ..v1::DriverSandbox::default()
    }
}
