//! Mixed operations from several clients at once, until the gateway dies.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chiton_client::Client;
use chiton_proto::v1 as wire;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tonic::{Code, Status};

use super::audit::{exec, tombstone};
use super::platform::Platform;
use super::process::{DEADLINE, rows, waits_for_late};
use super::report::{Operations, Requests};

/// More would only make the looks longer.
const MOST: usize = 8;
/// How many sandboxes at most are failed or wait for a debt before they are deleted first.
const MOST_DONE: usize = 12;
const WORKSPACES: [&str; 3] = ["default", "red", "blue"];
/// Phases in which the fault extension may be told to misbehave: actions, and cleanups.
const ACTIONS: [&str; 5] = ["before_create", "after_create", "before_start", "after_ready", "before_stop"];
const CLEANUPS: [&str; 3] = ["on_create_failed", "after_stop", "after_delete"];

/// What all clients share.
#[derive(Default)]
pub(super) struct Load {
    tally: Mutex<Tally>,
    /// The gateway is about to die, or dead.
    dying: AtomicBool,
    /// Cleanups may be told to fail for good, so that debts stay.
    debts: AtomicBool,
    names: AtomicU64,
}

/// What became of the requests.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) requests: Requests,
    pub(super) operations: Operations,
    /// Creates without an answer.
    pub(super) cut: Vec<wire::CreateSandboxRequest>,
    /// Answers that a gateway must never give.
    pub(super) wrong: Vec<String>,
}

impl Load {
    pub(super) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on a missing answer is nobody's fault.
    pub(super) fn set_dying(&self, dying: bool) {
        self.dying.store(dying, Ordering::SeqCst);
    }

    pub(super) fn set_debts(&self, debts: bool) {
        self.debts.store(debts, Ordering::Relaxed);
    }

    fn dying(&self) -> bool {
        self.dying.load(Ordering::SeqCst)
    }

    /// Notes an answer; false when the client is to end.
    fn answered<T>(&self, kind: &str, answer: &Result<T, Status>) -> bool {
        let mut tally = self.tally();
        *tally.requests.sent.entry(kind.to_owned()).or_default() += 1;
        match answer {
            Ok(_) => tally.requests.accepted += 1,
            Err(_) if self.dying() => {
                tally.requests.cut += 1;
                return false;
            }
            Err(status) => {
                *tally.requests.refused.entry(format!("{:?}", status.code())).or_default() += 1;
                // A connection that broke is told apart from an answer by the next request.
                if matches!(status.code(), Code::Internal | Code::DataLoss | Code::Unimplemented) {
                    tally.wrong.push(format!("{kind} was answered with {:?}: {}", status.code(), status.message()));
                }
            }
        }
        true
    }

    fn ended(&self, outcome: &wire::OperationOutcome) {
        let succeeded = outcome.operation.as_ref().is_some_and(|operation| operation.error.is_none());
        let mut tally = self.tally();
        if succeeded {
            tally.operations.completed += 1;
        } else {
            tally.operations.unwound += 1;
        }
    }
}

/// A request.
enum Request {
    Create(Box<wire::CreateSandboxRequest>),
    Start(String),
    Stop(String),
    Delete(String),
    Exec(String, &'static [&'static str]),
    DropWorkspace(&'static str),
    DropVolume(&'static str, String),
    Timeline(String),
}

/// Names a sandbox by its id.
pub(super) fn by_id(id: &str) -> wire::SandboxSelector {
    wire::SandboxSelector { by: Some(wire::sandbox_selector::By::Id(id.to_owned())), ..Default::default() }
}

/// One client.
pub(super) struct Caller<'a> {
    pub(super) load: &'a Load,
    pub(super) platform: &'a dyn Platform,
    pub(super) client: Client,
    pub(super) random: StdRng,
}

impl<'a> Caller<'a> {
    pub(super) fn new(load: &'a Load, platform: &'a dyn Platform, client: Client, seed: u64) -> Self {
        Self { load, platform, client, random: StdRng::seed_from_u64(seed) }
    }

    /// Asks for one thing after the other until the gateway dies.
    pub(super) async fn run(mut self) {
        while !self.load.dying() {
            let Ok(Ok(rows)) = tokio::time::timeout(DEADLINE, rows(&mut self.client)).await else { return };
            let Some(request) = self.choose(&rows) else { continue };
            if !self.send(request).await {
                return;
            }
        }
    }

    /// Sends creates again that got no answer.
    pub(super) async fn repeat(&mut self, creates: Vec<wire::CreateSandboxRequest>) {
        for create in creates {
            self.load.tally().requests.repeated += 1;
            if !self.send(Request::Create(Box::new(create))).await {
                return;
            }
        }
    }

    /// Something that the sandboxes as they are allow.
    fn choose(&mut self, rows: &[wire::Sandbox]) -> Option<Request> {
        let of = |phases: &[&str]| -> Vec<&String> {
            let of = |row: &&wire::Sandbox| phases.contains(&row.phase.as_str()) && !tombstone(row);
            rows.iter().filter(of).map(|row| &row.id).collect()
        };
        let done = of(&["Error"]).len();
        let live = rows.iter().filter(|row| !matches!(row.phase.as_str(), "Error" | "Deleted") && !waits_for_late(row));
        let live = live.count();
        let random = &mut self.random;
        let mut choices = Vec::new();
        if done > MOST_DONE {
            return of(&["Error"]).choose(random).map(|id| Request::Delete((*id).clone()));
        }
        if live < MOST {
            let create = self.create();
            choices.push(Request::Create(Box::new(create)));
        }
        let random = &mut self.random;
        choices.extend(of(&["Stopped", "Completed"]).choose(random).map(|id| Request::Start((*id).clone())));
        choices.extend(of(&["Ready"]).choose(random).map(|id| Request::Stop((*id).clone())));
        // Of every phase: a delete may meet whatever runs.
        let any = of(&["Pending", "Creating", "Starting", "Ready", "Stopping", "Stopped", "Completed", "Error"]);
        // A run in which nothing was deleted has shown little.
        if !self.load.tally().requests.sent.contains_key("delete")
            && let Some(id) = any.choose(random)
        {
            return Some(Request::Delete((*id).clone()));
        }
        // Where a create takes long, much would be deleted before it ever runs.
        if !self.platform.remote() || random.random_ratio(1, 3) {
            choices.extend(any.choose(random).map(|id| Request::Delete((*id).clone())));
        }
        choices.extend(any.choose(random).map(|id| Request::Timeline((*id).clone())));
        if self.platform.exec() {
            let argv: &[&str] = if random.random_ratio(1, 4) { &["sh", "-c", "sleep 0.05; exit 4"] } else { &["true"] };
            choices.extend(of(&["Ready"]).choose(random).map(|id| Request::Exec((*id).clone(), argv)));
        }
        if random.random_ratio(1, 6) {
            choices.extend(WORKSPACES.choose(random).map(|name| Request::DropWorkspace(name)));
        }
        if self.platform.remote() && random.random_ratio(1, 6) {
            let name = format!("kept-{}", random.random_range(0..3));
            choices.extend(WORKSPACES.choose(random).map(|workspace| Request::DropVolume(workspace, name)));
        }
        let index = random.random_range(0..choices.len().max(1));
        (index < choices.len()).then(|| choices.swap_remove(index))
    }

    fn create(&mut self) -> wire::CreateSandboxRequest {
        let random = &mut self.random;
        let mut spec = self.platform.spec(random);
        if random.random_ratio(1, 4) {
            let phase = ACTIONS.choose(random).copied().unwrap_or_default();
            let kind = ["fail", "once", "panic", "hang"].choose(random).copied().unwrap_or_default();
            spec.labels.insert(format!("fault/{phase}"), kind.to_owned());
        }
        if random.random_ratio(1, 5) {
            let phase = CLEANUPS.choose(random).copied().unwrap_or_default();
            let kind = if self.load.debts.load(Ordering::Relaxed) { "fail" } else { "once" };
            spec.labels.insert(format!("fault/{phase}"), kind.to_owned());
        }
        let workspace = WORKSPACES.choose(random).copied().unwrap_or_default().to_owned();
        let name = format!("box-{}", self.load.names.fetch_add(1, Ordering::Relaxed));
        wire::CreateSandboxRequest {
            request_id: format!("make-{name}"),
            name,
            workspace,
            spec: Some(spec),
            ..Default::default()
        }
    }

    /// Sends a request and mostly waits for the operation's end; false when the gateway died.
    async fn send(&mut self, request: Request) -> bool {
        let sent = tokio::time::timeout(DEADLINE, self.call(request)).await;
        sent.unwrap_or_else(|_| {
            self.load.tally().wrong.push(format!("a call took more than {DEADLINE:?}"));
            false
        })
    }

    async fn call(&mut self, request: Request) -> bool {
        let load = self.load;
        let client = &mut self.client;
        let one = |id: &str| wire::SandboxRequest { sandbox: Some(by_id(id)), request_id: String::new() };
        let (kind, answer) = match request {
            Request::Create(create) => {
                let answer = client.create_sandbox((*create).clone()).await;
                if answer.is_err() && load.dying() {
                    load.tally().cut.push(*create);
                }
                ("create", answer)
            }
            Request::Start(id) => ("start", client.start_sandbox(one(&id)).await),
            Request::Stop(id) => ("stop", client.stop_sandbox(one(&id)).await),
            Request::Delete(id) => {
                let request =
                    wire::DeleteSandboxRequest { sandbox: Some(by_id(&id)), request_id: String::new(), force: false };
                ("delete", client.delete_sandbox(request).await)
            }
            Request::Exec(id, argv) => {
                let answer = exec(client.clone(), &id, argv).await;
                return load.answered("exec", &answer);
            }
            Request::DropWorkspace(name) => {
                let request = wire::DeleteWorkspaceRequest { name: name.to_owned() };
                let answer = client.delete_workspace(request).await;
                return load.answered("workspace delete", &answer);
            }
            Request::DropVolume(workspace, name) => {
                let request = wire::DeleteVolumeRequest { name, workspace: workspace.to_owned(), ..Default::default() };
                let answer = client.delete_volume(request).await;
                return load.answered("volume delete", &answer);
            }
            Request::Timeline(id) => {
                let request = wire::GetSandboxRequest { sandbox: Some(by_id(&id)), all: true };
                let answer = client.get_timeline(request).await;
                return load.answered("timeline", &answer);
            }
        };
        if !load.answered(kind, &answer) {
            return false;
        }
        match answer {
            Ok(accepted) if self.random.random_ratio(7, 10) => self.wait(accepted.into_inner().operation).await,
            _ => {}
        }
        true
    }

    async fn wait(&mut self, operation: String) {
        if operation.is_empty() {
            return;
        }
        let Ok(events) = self.client.wait_operation(wire::WaitOperationRequest { operation }).await else { return };
        let mut events = events.into_inner();
        while let Ok(Some(event)) = events.message().await {
            if let Some(wire::wait_operation_event::Event::Outcome(outcome)) = event.event {
                self.load.ended(&outcome);
                return;
            }
        }
    }
}

/// Waits a random time of at most so long.
pub(super) async fn a_moment(random: &mut StdRng, most: Duration) {
    let micros = random.random_range(0..=u64::try_from(most.as_micros()).unwrap_or(u64::MAX));
    tokio::time::sleep(Duration::from_micros(micros)).await;
}
