//! A gateway that knows nothing of us, as far as its driver sees it: the calls that it makes, in its order, and the rows that
//! it keeps. It deletes its row on any error of a create and sends no delete; what is in error stays so; its watch begins
//! anew when it ends, and a list now and then makes up for what that missed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use chiton_compute_wire::v1;
use chiton_compute_wire::v1::watch_sandboxes_event::Payload;
use chiton_socket::{Dial, own_and_root};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tonic::transport::Endpoint;
use tonic::{Code, Status};

use super::process::{Client, Served, pass};

/// What its callers are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Provisioning,
    Ready,
    Stopping,
    Stopped,
    Starting,
    Deleting,
    Error,
}

type Rows = Arc<Mutex<BTreeMap<String, Phase>>>;

/// Reasons of `Ready=False` that it takes for a while on the way; any other is an error.
const ON_THE_WAY: [&str; 8] = [
    "reconcilererror",
    "dependenciesnotready",
    "supervisornotconnected",
    "starting",
    "containerstarting",
    "containercreated",
    "healthcheckstarting",
    "inspectfailed",
];

pub(super) struct Peer {
    rows: Rows,
    /// How often its watch has been told all that there is.
    snapshots: Arc<AtomicUsize>,
    watch: Option<JoinHandle<()>>,
    manages: bool,
}

/// What becomes of a row by what the driver says of its sandbox.
fn applied(phase: Phase, status: &v1::DriverSandboxStatus) -> Phase {
    let is = |kind: &str| status.conditions.iter().find(|condition| condition.r#type == kind);
    match (phase, is("Ready")) {
        (Phase::Error | Phase::Deleting, _) => phase,
        _ if is("Suspended").is_some_and(|condition| condition.status == "True") => Phase::Stopped,
        (Phase::Stopping | Phase::Stopped, _) => phase,
        (_, Some(ready)) if ready.status == "True" => Phase::Ready,
        (_, Some(ready)) if ready.status == "False" => {
            let reason = ready.reason.to_lowercase();
            if ON_THE_WAY.contains(&reason.as_str()) { phase } else { Phase::Error }
        }
        _ => phase,
    }
}

fn apply(rows: &Rows, sandbox: &v1::DriverSandbox) {
    if let (Some(phase), Some(status)) = (rows.lock().get_mut(&sandbox.id), &sandbox.status) {
        *phase = applied(*phase, status);
    }
}

async fn watch(dial: Dial, rows: Rows, snapshots: Arc<AtomicUsize>) {
    loop {
        if let Ok((channel, _)) = dial.channel(Endpoint::from_static("http://localhost")).await
            && let Ok(news) = Client::new(channel).watch_sandboxes(v1::WatchSandboxesRequest {}).await
        {
            let mut news = news.into_inner();
            while let Ok(Some(event)) = news.message().await {
                match event.payload {
                    Some(Payload::Sandbox(event)) => drop(event.sandbox.map(|sandbox| apply(&rows, &sandbox))),
                    Some(Payload::Deleted(gone)) => drop(rows.lock().remove(&gone.sandbox_id)),
                    Some(Payload::SnapshotEnd(_)) => drop(snapshots.fetch_add(1, Ordering::Relaxed)),
                    _ => {}
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

impl Peer {
    pub(super) fn new() -> Self {
        Self { rows: Rows::default(), snapshots: Arc::default(), watch: None, manages: false }
    }

    /// It starts: with a driver that leaves lives to it, what it has is started again, one after another.
    pub(super) fn begin(&mut self, served: &Served) {
        let said = served.ask(async |mut client: Client| client.get_capabilities(v1::GetCapabilitiesRequest {}).await);
        self.manages = said.expect("capabilities").gateway_manages_lifecycle;
        let listen = v1::GetGatewayListenerRequirementsRequest {};
        let asked = served.ask(async |mut client: Client| client.get_gateway_listener_requirements(listen).await);
        assert!(asked.as_ref().map_or_else(|status| status.code() == Code::Unimplemented, |_| true), "{asked:?}");
        let ids: Vec<String> = self.rows.lock().keys().cloned().collect();
        for id in ids.iter().filter(|_| self.manages) {
            self.start(served, id);
        }
        let dial = Dial {
            what: "driver".to_owned(),
            path: served.socket(),
            peers: own_and_root().into_iter().chain([4242]).collect(),
            limit: Duration::from_secs(10),
        };
        self.watch = Some(served.spawn(watch(dial, Arc::clone(&self.rows), Arc::clone(&self.snapshots))));
    }

    /// It ends: with such a driver, everything is stopped first.
    pub(super) fn end(&mut self, served: &Served) {
        let ids: Vec<String> = self.rows.lock().keys().cloned().collect();
        for id in ids.iter().filter(|_| self.manages) {
            served.stop(id).expect("it stops");
        }
        if let Some(watch) = self.watch.take() {
            watch.abort();
        }
    }

    pub(super) fn create(&self, served: &Served, sandbox: v1::DriverSandbox) -> Result<(), Status> {
        let workspace = v1::EnsureWorkspaceRequest { workspace: sandbox.workspace.clone() };
        match served.ask(async |mut client: Client| client.ensure_workspace(workspace).await) {
            Err(status) if status.code() != Code::Unimplemented => return Err(status),
            _ => {}
        }
        let look = v1::ValidateSandboxCreateRequest { sandbox: Some(sandbox.clone()) };
        served.ask(async |mut client: Client| client.validate_sandbox_create(look).await)?;
        let id = sandbox.id.clone();
        self.rows.lock().insert(id.clone(), Phase::Provisioning);
        served.create(sandbox).inspect_err(|_| {
            self.rows.lock().remove(&id);
        })
    }

    fn set(&self, id: &str, phase: Phase) {
        if let Some(row) = self.rows.lock().get_mut(id) {
            *row = phase;
        }
    }

    pub(super) fn start(&self, served: &Served, id: &str) {
        self.set(id, Phase::Starting);
        if served.start_sandbox(id).is_err() {
            self.set(id, Phase::Error);
        }
    }

    pub(super) fn stop(&self, served: &Served, id: &str) {
        self.set(id, Phase::Stopping);
        served.stop(id).expect("it stops");
    }

    pub(super) fn delete(&self, served: &Served, id: &str) {
        self.set(id, Phase::Deleting);
        if !served.delete(id).expect("it goes") {
            self.rows.lock().remove(id);
        }
    }

    /// What is listed and has a row is asked for again; a row whose sandbox is not there goes.
    pub(super) fn reconcile(&self, served: &Served) {
        let listed = served.list();
        for id in &listed {
            if let Some(found) = served.get(id) {
                apply(&self.rows, &found);
            }
        }
        let rows: Vec<String> = self.rows.lock().keys().cloned().collect();
        for id in rows.iter().filter(|id| !listed.contains(id)) {
            if served.get(id).is_none() {
                self.rows.lock().remove(id);
            }
        }
    }

    pub(super) fn rows(&self) -> BTreeMap<String, Phase> {
        self.rows.lock().clone()
    }

    pub(super) fn snapshots(&self) -> usize {
        self.snapshots.load(Ordering::Relaxed)
    }

    /// Waits until its watch has been told all that there is more often than so many times.
    #[track_caller]
    pub(super) fn until_told_anew(&self, before: usize) {
        let begun = Instant::now();
        while self.snapshots() <= before {
            assert!(begun.elapsed() < Duration::from_mins(1), "its watch does not begin anew");
            pass(Duration::from_millis(10));
        }
    }

    #[track_caller]
    pub(super) fn until(&self, wanted: &[(&str, Phase)]) {
        let wanted: BTreeMap<String, Phase> = wanted.iter().map(|(id, phase)| ((*id).to_owned(), *phase)).collect();
        let begun = Instant::now();
        while self.rows() != wanted {
            assert!(begun.elapsed() < Duration::from_mins(1), "its rows are {:?} and not {wanted:?}", self.rows());
            pass(Duration::from_millis(10));
        }
    }
}
