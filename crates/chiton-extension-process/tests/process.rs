//! Both sides on a real socket: what hooks save, when they are over, and processes that change or are not trusted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use async_trait::async_trait;
use chiton_driver::{Capabilities, Locality};
use chiton_extension_process::client::{Options, Process};
use chiton_extension_process::server::Host;
use chiton_lifecycle::extension::{
    Descriptor, Extension, ExtensionKind, Fence, HookContext, RemoteHook, RemoteSandbox, RemoteStates, RequestView,
    SlotValues, StepId, StepResult,
};
use chiton_lifecycle::journal::{ExtensionState, Subject};
use chiton_lifecycle::runtime::{CancelToken, Clock, Executor};
use chiton_model::{
    BackendId, DriverId, ExtensionName, OperationId, OperationKind, Phase, Principal, SandboxId, SandboxName,
    StartReason, WorkspaceName,
};
use chiton_socket::{Access, PeerListener, own_and_root};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use jiff::Timestamp;
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_mins(1);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {}

/// Saves in one phase, works for long in another, and waits to be cancelled in a third.
struct Author {
    work: Arc<Mutex<Option<mpsc::Receiver<()>>>>,
    began: Arc<AtomicUsize>,
}

#[async_trait]
impl Extension for Author {
    async fn before_create(&self, cx: &HookContext) -> StepResult<SlotValues> {
        let before: Option<u32> = cx.state()?;
        cx.save(&1)?;
        let saved: Option<u32> = cx.state()?;
        cx.save_durable(&2).await?;
        let all: Vec<(Subject, u32)> = cx.states().await?;
        let told = format!("{before:?} {saved:?} {all:?} {}", cx.idempotency_key("x"));
        Ok(SlotValues::from([("told".to_owned(), told)]))
    }

    async fn before_start(&self, cx: &HookContext, _reason: StartReason) -> StepResult {
        let work = self.work.lock().take();
        self.began.fetch_add(1, Ordering::AcqRel);
        cx.blocking(move || work.map(|work| work.recv())).await?;
        Ok(())
    }

    async fn after_ready(&self, cx: &HookContext, _reason: StartReason) -> StepResult {
        self.began.fetch_add(1, Ordering::AcqRel);
        cx.cancel().cancelled().await;
        Err(chiton_lifecycle::extension::StepError::fatal("it saw that it should end"))
    }
}

#[derive(Default)]
struct Control {
    work: Arc<Mutex<Option<mpsc::Receiver<()>>>>,
    began: Arc<AtomicUsize>,
}

impl Control {
    fn kind(&self, phases: &[Phase]) -> ExtensionKind {
        let descriptor = Descriptor::new("author", "1.0.0", "Of a test", phases.iter().copied()).expect("a descriptor");
        let (work, began) = (Arc::clone(&self.work), Arc::clone(&self.began));
        ExtensionKind::new(
            descriptor,
            |_: &Config| Vec::new(),
            move |_| Ok(Author { work: Arc::clone(&work), began: Arc::clone(&began) }),
        )
    }

    async fn until_began(&self) {
        until(|| self.began.load(Ordering::Acquire) > 0).await;
    }
}

async fn until(is: impl Fn() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    waited.await.expect("it came to pass");
}

const PHASES: [Phase; 3] = [Phase::BeforeCreate, Phase::BeforeStart, Phase::AfterReady];

struct Served {
    end: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

fn serve(socket: &Path, kind: ExtensionKind) -> Served {
    let access = Access { who: "extension", cure: "", allowed: Arc::new(own_and_root()), private: false };
    let listener = PeerListener::bind(socket, &access).expect("a socket");
    let (end, ending) = oneshot::channel();
    let host = Host::new([kind]).expect("one extension");
    let ended = tokio::spawn(async move {
        host.run(listener, async { drop(ending.await) }).await.expect("served");
    });
    Served { end, ended }
}

impl Served {
    async fn end(self) {
        let _ = self.end.send(());
        self.ended.await.expect("ended");
    }
}

fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("socket");
    (folder, socket)
}

fn options(socket: &Path) -> Options {
    let name = ExtensionName::new("author").expect("a name");
    Options { name, socket: socket.to_owned(), peers: own_and_root() }
}

async fn connect(socket: &Path) -> (Process, ExtensionKind) {
    let process = Process::start(options(socket));
    let described = async {
        loop {
            // One look may take too long; it looks again by itself.
            if let Ok(descriptor) = process.describe().await {
                return descriptor;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let descriptor = tokio::time::timeout(PATIENCE, described).await.expect("it answers");
    let kind = process.kind(descriptor);
    (process, kind)
}

/// An engine's side of one hook.
#[derive(Default)]
struct Engine {
    saved: Mutex<Vec<(bool, Value)>>,
}

#[async_trait]
impl RemoteStates for Engine {
    fn load(&self) -> Option<ExtensionState> {
        let payload = self.saved.lock().last().map_or(json!(0), |(_, payload)| payload.clone());
        Some(ExtensionState { schema_version: 1, payload })
    }

    fn save(&self, state: ExtensionState) -> Result<(), String> {
        self.saved.lock().push((false, state.payload));
        Ok(())
    }

    async fn save_durable(&self, state: ExtensionState) -> Result<(), String> {
        self.saved.lock().push((true, state.payload));
        Ok(())
    }

    async fn list(&self) -> Result<Vec<(Subject, ExtensionState)>, String> {
        Ok(vec![(Subject::Sandbox(id()), ExtensionState { schema_version: 1, payload: json!(7) })])
    }
}

struct World;

impl Clock for World {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn since_boot(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs().try_into().unwrap_or(0))
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

impl Executor for World {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        tokio::spawn(task);
    }

    fn spawn_hook(&self, task: BoxFuture<'static, ()>) {
        tokio::spawn(task);
    }

    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) {
        tokio::task::spawn_blocking(work);
    }
}

fn id() -> SandboxId {
    SandboxId::generate(1, [1; 10])
}

static CALLS: AtomicU64 = AtomicU64::new(1);

fn context(phase: Phase, engine: &Arc<Engine>, cancel: &CancelToken) -> (HookContext, StepId) {
    let step = StepId {
        call: CALLS.fetch_add(1, Ordering::Relaxed),
        operation: OperationId::generate(1, [2; 10]),
        phase,
        extension: ExtensionName::new("author").expect("a name"),
        attempt: 1,
    };
    let driver = DriverId::new("d").expect("an id");
    let hook = RemoteHook {
        step: step.clone(),
        subject: Subject::Sandbox(id()),
        state_schema: 1,
        time_left: PATIENCE,
        may_repair: false,
        cancel: cancel.clone(),
        over: CancelToken::new(),
        states: Arc::clone(engine) as _,
        clock: Arc::new(World),
        executor: Arc::new(World),
    };
    let request = RequestView {
        name: None,
        workspace: WorkspaceName::default(),
        image: String::new(),
        command: Vec::new(),
        labels: BTreeMap::new(),
        resources: chiton_model::Resources::default(),
        network: chiton_model::NetworkSpec::default(),
        volumes: Vec::new(),
        driver_config: json!({}),
    };
    let capabilities = Capabilities {
        id: driver,
        kind: "d".to_owned(),
        version: "1.0.0".to_owned(),
        default_image: String::new(),
        gateway_manages_lifecycle: false,
        locality: Locality::Local,
        points: [].into(),
        limits: [].into(),
        networks: [].into(),
        features: [].into(),
        plan_schema: 1,
        agent: true,
    };
    let about = RemoteSandbox {
        sandbox: id(),
        name: SandboxName::new("box").expect("a name"),
        workspace: WorkspaceName::default(),
        kind: OperationKind::Create,
        principal: Principal { subject: "uid:0".to_owned(), claims: BTreeMap::new() },
        request: Arc::new(request),
        driver: Arc::new(capabilities),
        backend: BackendId("b".to_owned()),
        plan: Arc::new(json!({})),
        slots: BTreeMap::new(),
    };
    (hook.about_sandbox(about), step)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_hook_saves_and_lists_goes_over_the_socket_and_is_acknowledged() {
    let (_folder, socket) = place();
    let _served = serve(&socket, Control::default().kind(&PHASES));
    let (_process, kind) = connect(&socket).await;
    let extension = kind.build(&json!({})).expect("an instance");
    let engine = Arc::new(Engine::default());
    let (cx, _) = context(Phase::BeforeCreate, &engine, &CancelToken::new());
    let slots = extension.before_create(&cx).await.expect("done");
    let told = format!("Some(0) Some(1) {:?} {}/author/x", [(Subject::Sandbox(id()), 7)], id());
    assert_eq!(slots, SlotValues::from([("told".to_owned(), told)]));
    assert_eq!(*engine.saved.lock(), [(false, json!(1)), (true, json!(2))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hook_that_is_cancelled_sees_it_and_its_answer_comes_back() {
    let (_folder, socket) = place();
    let control = Control::default();
    let _served = serve(&socket, control.kind(&PHASES));
    let (_process, kind) = connect(&socket).await;
    let extension = kind.build(&json!({})).expect("an instance");
    let cancel = CancelToken::new();
    let (cx, _) = context(Phase::AfterReady, &Arc::default(), &cancel);
    let (ended, ()) = futures::join!(extension.after_ready(&cx, StartReason::Create), async {
        control.until_began().await;
        cancel.cancel();
    });
    assert_eq!(ended.expect_err("cancelled").to_string(), "it saw that it should end");
}

mod fences {
    use super::*;

    /// A hook whose blocking work goes on, and whose future the engine has dropped.
    async fn dropped(control: &Control, extension: &Arc<dyn Extension>) -> (mpsc::Sender<()>, StepId) {
        let (finish, work) = mpsc::channel();
        *control.work.lock() = Some(work);
        let (cx, step) = context(Phase::BeforeStart, &Arc::default(), &CancelToken::new());
        let hook = extension.before_start(&cx, StartReason::Create);
        tokio::select! {
            _ = hook => panic!("it ended by itself"),
            () = control.until_began() => {}
        }
        (finish, step)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_step_is_over_when_its_blocking_work_is_though_its_call_was_given_up() {
        let (_folder, socket) = place();
        let control = Control::default();
        let _served = serve(&socket, control.kind(&PHASES));
        let (_process, kind) = connect(&socket).await;
        let extension = kind.build(&json!({})).expect("an instance");
        let (finish, step) = dropped(&control, &extension).await;
        let mut fence = extension.fence(Fence::Step(step)).expect("it is elsewhere");
        let early = tokio::time::timeout(Duration::from_millis(1500), &mut fence).await;
        assert!(early.is_err(), "its work goes on");
        finish.send(()).expect("it waits");
        tokio::time::timeout(PATIENCE, fence).await.expect("over");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn what_an_earlier_life_of_the_gateway_began_is_waited_for_by_its_operation() {
        let (_folder, socket) = place();
        let control = Control::default();
        let _served = serve(&socket, control.kind(&PHASES));
        let (_process, kind) = connect(&socket).await;
        let earlier = kind.build(&json!({})).expect("an instance");
        let (finish, step) = dropped(&control, &earlier).await;
        // Each life builds its instances anew.
        let (_process, kind) = connect(&socket).await;
        let later = kind.build(&json!({})).expect("an instance");
        let mut fence = later.fence(Fence::Operation(step.operation)).expect("it is elsewhere");
        assert!(tokio::time::timeout(Duration::from_millis(500), &mut fence).await.is_err(), "its work goes on");
        finish.send(()).expect("it waits");
        tokio::time::timeout(PATIENCE, fence).await.expect("over");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn nothing_runs_where_nobody_listens() {
        let (_folder, socket) = place();
        let served = serve(&socket, Control::default().kind(&PHASES));
        let (_process, kind) = connect(&socket).await;
        let extension = kind.build(&json!({})).expect("an instance");
        served.end().await;
        until(|| extension.unhealthy_since().is_some()).await;
        let operation = OperationId::generate(1, [3; 10]);
        let fence = extension.fence(Fence::Operation(operation)).expect("it is elsewhere");
        tokio::time::timeout(PATIENCE, fence).await.expect("over");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_step_that_was_never_sent_is_over() {
        let (_folder, socket) = place();
        let _served = serve(&socket, Control::default().kind(&PHASES));
        let (_process, kind) = connect(&socket).await;
        let extension = kind.build(&json!({})).expect("an instance");
        let (_, step) = context(Phase::BeforeStart, &Arc::default(), &CancelToken::new());
        assert!(extension.fence(Fence::Step(step)).expect("it is elsewhere").now_or_never().is_some());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_process_that_comes_back_as_something_else_is_not_called_and_one_that_comes_back_as_it_was_is() {
    let (_folder, socket) = place();
    let control = Control::default();
    let served = serve(&socket, control.kind(&PHASES));
    let (_process, kind) = connect(&socket).await;
    let extension = kind.build(&json!({})).expect("an instance");
    served.end().await;
    let changed = serve(&socket, control.kind(&[Phase::BeforeCreate]));
    until(|| extension.unhealthy_since().is_some_and(|(_, why)| why.contains("takes part in the phases"))).await;
    let (cx, _) = context(Phase::BeforeCreate, &Arc::default(), &CancelToken::new());
    let refused = extension.before_create(&cx).await.expect_err("not called").to_string();
    assert!(refused.contains("before_create; it did in before_create, before_start, after_ready"), "{refused}");
    changed.end().await;
    let _served = serve(&socket, control.kind(&PHASES));
    until(|| extension.unhealthy_since().is_none()).await;
    extension.before_create(&cx).await.expect("called");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_config_is_checked_by_the_schema_and_by_the_process() {
    let (_folder, socket) = place();
    let served = serve(&socket, Control::default().kind(&PHASES));
    let (process, _kind) = connect(&socket).await;
    assert_eq!(process.check(&json!({})).await, []);
    let issues = process.check(&json!({ "unknown": 1 })).await;
    assert!(issues.len() == 1 && issues[0].message.contains("unknown"), "{issues:?}");
    served.end().await;
    let issues = process.check(&json!({ "unknown": 1 })).await;
    assert_eq!(issues.len(), 1, "also while it is down");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_process_of_a_user_who_is_not_trusted_is_not_spoken_to() {
    let (_folder, socket) = place();
    let _served = serve(&socket, Control::default().kind(&PHASES));
    let process = Process::start(Options { peers: [4_000_000].into(), ..options(&socket) });
    let error = process.describe().await.expect_err("refused");
    assert!(error.message.contains("is not trusted") && error.message.contains("socket"), "{error:?}");
    assert!(error.cure.is_some_and(|cure| cure.contains("peer_uids")));
}
