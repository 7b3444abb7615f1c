//! A whole gateway whose driver brings such supervisors: engine, store, tokens and listener are real, the driver's platform
//! is a map, and who has to run in a sandbox is told to the test.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use async_trait::async_trait;
use chiton_driver::{
    AgentLaunch, CallResult, Capabilities, ComputeDriver, CreateCall, DefaultPlan, DriverEvent, Feature, FieldRule,
    Locality, Observed, ObservedStatus, PlanRequest, PortableWrite, Rule, StartCall,
};
use chiton_gateway::compose::{Gateway, compose};
use chiton_gateway::config::{Flags, Sources, load};
use chiton_gateway::{BuiltDriver, DriverContext, DriverKind, Plugins};
use chiton_lifecycle::{CreateRequest, Request};
use chiton_model::{BackendId, Error, ErrorKind, GatewayId, Principal, SandboxId, SandboxPhase};
use chiton_openshell_session::openshell;
use chiton_openshell_session::wire::ReportMainProcessExitRequest;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::rig::{Call, soon, start};
use crate::supervisor::{Answer, Script, Supervisor};

/// What sandboxes were started with, for the test that starts what belongs into them.
static STARTED: OnceLock<mpsc::UnboundedSender<(SandboxId, AgentLaunch)>> = OnceLock::new();
/// What a platform keeps while its gateway is away.
static OBJECTS: Mutex<BTreeMap<SandboxId, Observed>> = Mutex::new(BTreeMap::new());

struct Boxes {
    capabilities: Arc<Capabilities>,
    rules: Vec<FieldRule>,
    gateway: GatewayId,
}

fn kind() -> DriverKind {
    let probe = |_: &Value| Err(Error::unavailable("boxes", "it is chosen by name only"));
    DriverKind { kind: "boxes", early: |_| None, check: |_| Vec::new(), build, doctor: |_| Vec::new(), probe }
}

#[expect(clippy::unnecessary_wraps, reason = "the form of every driver's constructor")]
fn build(context: DriverContext) -> Result<BuiltDriver, Error> {
    let capabilities = Arc::new(Capabilities {
        id: context.id,
        kind: "boxes".to_owned(),
        version: "0".to_owned(),
        default_image: "none".to_owned(),
        gateway_manages_lifecycle: false,
        locality: Locality::Local,
        points: BTreeSet::new(),
        limits: BTreeSet::new(),
        networks: BTreeSet::new(),
        features: BTreeSet::from([Feature::TwoPhaseStart]),
        plan_schema: 1,
        agent: true,
    });
    let rules = vec![FieldRule::new("/labels", Rule::MergeMap)];
    // No folder for agents' sockets: they are of another make.
    Ok(BuiltDriver { driver: Arc::new(Boxes { capabilities, rules, gateway: context.gateway }), agent_folder: None })
}

impl Boxes {
    fn set(&self, call: &CreateCall, status: ObservedStatus) {
        let id = call.identity.sandbox.clone();
        let observed = Observed {
            id: id.clone(),
            status,
            attempt: None,
            gateway: self.gateway.clone(),
            epoch: call.identity.epoch.clone(),
            commit: call.identity.commit,
        };
        OBJECTS.lock().expect("whole").insert(id, observed);
    }
}

#[async_trait]
impl ComputeDriver for Boxes {
    fn capabilities(&self) -> Arc<Capabilities> {
        Arc::clone(&self.capabilities)
    }

    async fn backend_id(&self) -> CallResult<BackendId> {
        Ok(BackendId("boxes".to_owned()))
    }

    async fn default_plan(&self, request: &PlanRequest) -> Result<DefaultPlan, Error> {
        let plan = json!({ "image": request.image, "labels": request.labels });
        Ok(DefaultPlan { plan, slots: BTreeMap::new(), from_request: Vec::new(), from_image: Vec::new() })
    }

    fn field_rules(&self) -> &[FieldRule] {
        &self.rules
    }

    fn plan_schema(&self) -> Value {
        json!({})
    }

    fn write_portable(&self, _: &mut Value, _: &PortableWrite) -> Result<(), Error> {
        Err(Error::unsupported("boxes", "other", "nothing is offered"))
    }

    async fn validate(&self, _: &Value) -> Result<(), Error> {
        Ok(())
    }

    async fn create(&self, call: &CreateCall) -> CallResult<()> {
        self.set(call, ObservedStatus::Created);
        Ok(())
    }

    async fn start(&self, call: &StartCall) -> CallResult<()> {
        self.set(call, ObservedStatus::Running);
        let agent = call.agent.clone().expect("a driver with an agent is given its token");
        STARTED.get().expect("a test").send((call.identity.sandbox.clone(), agent)).expect("somebody starts it");
        Ok(())
    }

    async fn stop(&self, id: &SandboxId) -> CallResult<()> {
        if let Some(object) = OBJECTS.lock().expect("whole").get_mut(id) {
            object.status = ObservedStatus::Created;
        }
        Ok(())
    }

    async fn delete(&self, id: &SandboxId) -> CallResult<()> {
        OBJECTS.lock().expect("whole").remove(id);
        Ok(())
    }

    async fn get(&self, id: &SandboxId) -> CallResult<Option<Observed>> {
        Ok(OBJECTS.lock().expect("whole").get(id).cloned())
    }

    async fn list(&self) -> CallResult<Vec<Observed>> {
        Ok(OBJECTS.lock().expect("whole").values().cloned().collect())
    }

    fn watch(&self) -> BoxStream<'static, DriverEvent> {
        let objects: Vec<_> = OBJECTS.lock().expect("whole").values().cloned().map(DriverEvent::Changed).collect();
        futures::stream::iter(objects)
            .chain(futures::stream::iter([DriverEvent::SnapshotEnd]))
            .chain(futures::stream::pending())
            .boxed()
    }
}

/// Composes one. Its store may be held yet by what another leaves behind in this process.
async fn gateway(folder: &Path) -> Gateway {
    let text = "[compute]\ndrivers = [\"boxes\"]\n[supervisor]\nlisten = \"127.0.0.1:0\"\n";
    composed(folder, kind(), text.to_owned()).await
}

/// As [`gateway`], with any driver and config.
pub(crate) async fn composed(folder: &Path, kind: DriverKind, text: String) -> Gateway {
    let mut plugins = Plugins::default();
    plugins.guests = Some(openshell());
    plugins.driver(kind).expect("a kind");
    let sources = Sources {
        file: Some(("chiton.toml".into(), text)),
        flags: Flags { data_dir: Some(folder.to_owned()), ..Flags::default() },
        cwd: folder.to_owned(),
        ..Sources::default()
    };
    let config = load(&sources, &plugins).expect("a sound config");
    loop {
        match compose(&config, &plugins, None).await {
            Ok(gateway) => return gateway,
            Err(errors)
                if errors.iter().all(|error| error.kind == ErrorKind::Unavailable { what: "store".to_owned() }) =>
            {
                tokio::task::yield_now().await;
            }
            Err(errors) => panic!("{errors:?}"),
        }
    }
}

pub(crate) fn request() -> Request {
    Request { principal: Principal { subject: "test".to_owned(), claims: BTreeMap::new() }, request_id: None }
}

pub(crate) async fn phase(gateway: &Gateway, id: &SandboxId) -> SandboxPhase {
    gateway.engine().get(&chiton_lifecycle::Selector::Id(id.clone()), false).await.expect("there").record.phase
}

pub(crate) async fn dial(gateway: &Gateway, home: &Path, id: &SandboxId, token: &str) -> Result<Supervisor, String> {
    let endpoint = format!("http://{}", gateway.guests().expect("it listens"));
    let script = Script { instance: "run-1".to_owned(), answer: Answer::Open, beats: true, home: home.to_owned() };
    Supervisor::dial(&endpoint, token, id.as_str(), script).await
}

pub(crate) async fn says(gateway: &Gateway, id: &SandboxId) -> String {
    let mut client = gateway.sessions().client(id).expect("a session");
    let call = Call::begin(&mut client, start(&["echo", "it's me"])).await.expect("accepted");
    drop(call.input.clone());
    call.end().await.text()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_with_such_a_supervisor_lives_as_any_other() {
    let (sender, mut started) = mpsc::unbounded_channel();
    STARTED.set(sender).expect("one test");
    let (data, home) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let first = gateway(data.path()).await;

    // It is ready when its supervisor has come, and not before.
    let accepted = soon(Box::pin(first.engine().create(request(), CreateRequest::default()))).await.expect("accepted");
    let id = accepted.sandbox.id.clone();
    let (launched, agent) = soon(started.recv()).await.expect("started");
    assert_eq!(launched, id);
    assert_eq!(phase(&first, &id).await, SandboxPhase::Provisioning);
    let supervisor = dial(&first, home.path(), &id, &agent.token).await.expect("accepted");
    soon(first.engine().wait(&accepted.operation.expect("it goes on"))).await.expect("ended");
    assert_eq!(phase(&first, &id).await, SandboxPhase::Ready);
    assert_eq!(says(&first, &id).await, "it's me\n");

    // Another start, another token.
    let stopping = soon(Box::pin(first.engine().stop(request(), id.clone()))).await.expect("accepted").operation;
    soon(first.engine().wait(&stopping.expect("it goes on"))).await.expect("ended");
    soon(supervisor.ended()).await;
    let starting = soon(Box::pin(first.engine().start(request(), id.clone()))).await.expect("accepted").operation;
    let (_, second) = soon(started.recv()).await.expect("started");
    assert_ne!(second.token, agent.token);
    dial(&first, home.path(), &id, &agent.token).await.err().expect("the first start is over");
    let supervisor = dial(&first, home.path(), &id, &second.token).await.expect("accepted");
    soon(first.engine().wait(&starting.expect("it goes on"))).await.expect("ended");
    assert_eq!(says(&first, &id).await, "it's me\n");

    // A gateway that comes back takes it on by the same token.
    soon(first.close()).await;
    soon(supervisor.ended()).await;
    drop(first);
    let back = soon(Box::pin(gateway(data.path()))).await;
    let mut supervisor = dial(&back, home.path(), &id, &second.token).await.expect("accepted");
    assert_eq!(phase(&back, &id).await, SandboxPhase::Ready);
    assert_eq!(says(&back, &id).await, "it's me\n");

    // The main process ends, as the supervisor tells.
    let mut events = back.events();
    let report =
        ReportMainProcessExitRequest { sandbox_id: id.to_string(), instance_id: "run-1".to_owned(), exit_code: 7 };
    supervisor.client.report_main_process_exit(report).await.expect("taken");
    while phase(&back, &id).await != SandboxPhase::Completed {
        soon(events.recv()).await.expect("news");
    }
    let record = back.engine().get(&chiton_lifecycle::Selector::Id(id.clone()), false).await.expect("there").record;
    assert_eq!(record.exit.and_then(|exit| exit.code), Some(7));
    soon(back.close()).await;
}
