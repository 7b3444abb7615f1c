//! The platform: objects, and calls that are on their way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chiton_driver::{DriverEvent, Observed, ObservedStatus};
use chiton_lifecycle::journal::StoreInfo;
use chiton_model::{BackendId, ExitStatus, SandboxId, WorkspaceName};
use parking_lot::Mutex;
use serde_json::Value;

use super::client::ScriptedDriver;
use super::script::{Behaviour, Call, DriverSpec, Script};
use crate::agents::ScriptedAgents;
use crate::ledger::{Effect, Ledger, What};
use crate::signal::Signal;
use crate::world::{Process, VirtualWorld};

pub(super) struct Object {
    pub(super) observed: Observed,
    pub(super) plan: Value,
    /// Counts starts, so that a planned exit of an earlier one does nothing.
    pub(super) starts: u64,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) objects: BTreeMap<SandboxId, Object>,
    /// Ids that a local delete has closed for good.
    pub(super) tombstones: BTreeSet<SandboxId>,
    /// Effects on their way, by call.
    pub(super) in_flight: BTreeMap<u64, SandboxId>,
    pub(super) script: Script,
    pub(super) exits: std::collections::VecDeque<(Duration, i32)>,
    pub(super) workspaces: BTreeSet<WorkspaceName>,
    pub(super) backend: String,
    /// News with the time from which they can be seen.
    pub(super) news: Vec<(Duration, DriverEvent)>,
    pub(super) lag: Duration,
    /// Ends the watches that began before.
    pub(super) watches: u64,
    /// Nobody is there: new watches end at once.
    pub(super) down: bool,
}

pub(super) struct Shared {
    pub(super) spec: DriverSpec,
    pub(super) world: VirtualWorld,
    pub(super) ledger: Ledger,
    pub(super) agents: ScriptedAgents,
    pub(super) state: Mutex<State>,
    pub(super) signal: Signal,
}

/// A platform with its objects. It stands outside of the gateway and survives its crashes. Clones share it.
#[derive(Clone)]
pub struct ScriptedPlatform(pub(super) Arc<Shared>);

fn view(object: &Object) -> ObjectView {
    ObjectView {
        status: object.observed.status.clone(),
        plan: object.plan.clone(),
        attempt: object.observed.attempt.clone(),
    }
}

/// An object as it is on the platform.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectView {
    /// Its state.
    pub status: ObservedStatus,
    /// The plan that it was made from, slots and secrets filled.
    pub plan: Value,
    /// The start that runs or ran last.
    pub attempt: Option<String>,
}

impl ObjectView {
    /// Whether it runs.
    pub fn running(&self) -> bool {
        self.status == ObservedStatus::Running
    }
}

impl ScriptedPlatform {
    /// An empty platform.
    pub fn new(spec: DriverSpec, ledger: &Ledger, agents: &ScriptedAgents) -> Self {
        let state = State { backend: spec.backend.clone(), lag: spec.watch_lag, ..State::default() };
        Self(Arc::new(Shared {
            spec,
            world: ledger.world().clone(),
            ledger: ledger.clone(),
            agents: agents.clone(),
            state: Mutex::new(state),
            signal: Signal::default(),
        }))
    }

    /// The driver of this process.
    pub fn driver(&self, process: &Process) -> Arc<ScriptedDriver> {
        Arc::new(ScriptedDriver::new(self.clone(), process.clone()))
    }

    /// What the driver is.
    pub fn spec(&self) -> &DriverSpec {
        &self.0.spec
    }

    /// The next call of this kind behaves so; calls queue up.
    pub fn next(&self, call: Call, behaviour: Behaviour) -> &Self {
        self.0.state.lock().script.push(call, behaviour);
        self
    }

    /// Calls of this kind behave so when nothing is queued.
    pub fn always(&self, call: Call, behaviour: Behaviour) -> &Self {
        self.0.state.lock().script.stand(call, behaviour);
        self
    }

    /// Every call behaves well again.
    pub fn behave(&self) {
        let mut state = self.0.state.lock();
        state.script.clear();
        state.exits.clear();
    }

    /// Nobody answers any more: calls are refused at once and watches end. Objects stay as they are.
    pub fn go_down(&self) {
        {
            let mut state = self.0.state.lock();
            for call in Call::ALL {
                state.script.stand(call, Behaviour::NotRun("nobody is there".to_owned()));
            }
            state.down = true;
        }
        self.end_watches();
    }

    /// Calls are never answered any more, and watches tell nothing and do not end.
    pub fn hang(&self) {
        let mut state = self.0.state.lock();
        for call in Call::ALL {
            state.script.stand(call, Behaviour::Hang);
        }
    }

    /// It answers again.
    pub fn come_back(&self) {
        self.behave();
        self.0.state.lock().down = false;
    }

    /// The driver tells its watchers this, whether or not it is so.
    pub fn say(&self, event: DriverEvent) {
        self.publish(event);
    }

    /// The object of the next start ends by itself so long after it, with this code; calls queue up.
    pub fn next_exits(&self, after: Duration, code: i32) {
        self.0.state.lock().exits.push_back((after, code));
    }

    /// The driver talks to another installation from now on.
    pub fn move_backend(&self, backend: &str) {
        backend.clone_into(&mut self.0.state.lock().backend);
    }

    /// The backend id that it answers.
    pub fn backend(&self) -> BackendId {
        BackendId(self.0.state.lock().backend.clone())
    }

    /// Ends all watches, as a lost platform does.
    pub fn end_watches(&self) {
        self.0.state.lock().watches += 1;
        self.0.signal.notify();
    }

    /// How late news come from now on.
    pub fn lag(&self, lag: Duration) {
        self.0.state.lock().lag = lag;
    }

    /// All objects.
    pub fn objects(&self) -> BTreeMap<SandboxId, ObjectView> {
        self.0.state.lock().objects.iter().map(|(id, object)| (id.clone(), view(object))).collect()
    }

    /// Who made the newest object of this gateway and life of its store: the commit that it carries.
    pub fn newest(&self, store: &StoreInfo) -> Option<u64> {
        let state = self.0.state.lock();
        let ours = state.objects.values().map(|object| &object.observed);
        ours.filter(|observed| observed.gateway == store.gateway && observed.epoch == store.epoch)
            .map(|observed| observed.commit)
            .max()
    }

    /// An object.
    pub fn object(&self, id: &SandboxId) -> Option<ObjectView> {
        self.0.state.lock().objects.get(id).map(view)
    }

    /// Workspaces that were prepared and not released.
    pub fn workspaces(&self) -> BTreeSet<WorkspaceName> {
        self.0.state.lock().workspaces.clone()
    }

    /// How many effects are on their way.
    pub fn in_flight(&self) -> usize {
        self.0.state.lock().in_flight.len()
    }

    /// The main process of a running object ends by itself.
    pub fn exit(&self, id: &SandboxId, code: i32) {
        let starts = self.0.state.lock().objects.get(id).map(|object| object.starts);
        if let Some(starts) = starts {
            self.exit_of(id, starts, code);
        }
    }

    /// Somebody removes an object behind the gateway's back.
    pub fn lose(&self, id: &SandboxId) {
        if self.0.state.lock().objects.remove(id).is_some() {
            self.0.agents.gone(id);
            self.effect(id, Effect::Lost);
            self.publish(DriverEvent::Deleted(id.clone()));
        }
    }

    /// Puts an object there that no gateway made.
    pub fn plant(&self, observed: Observed) {
        let id = observed.id.clone();
        self.effect(&id, Effect::Created);
        let event = DriverEvent::Changed(observed.clone());
        self.0.state.lock().objects.insert(id, Object { observed, plan: Value::Null, starts: 0 });
        self.publish(event);
    }

    /// The machine lost its power: what a local driver ran is no more; files stay.
    pub fn power_loss(&self) {
        if self.0.spec.is_remote() {
            return;
        }
        let ended: Vec<SandboxId> = {
            let mut state = self.0.state.lock();
            state.in_flight.clear();
            let running = state.objects.values_mut().filter(|object| object.observed.status == ObservedStatus::Running);
            running
                .map(|object| {
                    object.observed.status =
                        ObservedStatus::Exited(ExitStatus { code: None, reason: "Unknown".to_owned(), at: None });
                    object.observed.id.clone()
                })
                .collect()
        };
        for id in ended {
            self.0.agents.gone(&id);
            self.effect(&id, Effect::Stopped);
            self.publish_object(&id);
        }
    }

    pub(super) fn exit_of(&self, id: &SandboxId, starts: u64, code: i32) {
        {
            let mut state = self.0.state.lock();
            let Some(object) = state.objects.get_mut(id) else { return };
            if object.starts != starts || object.observed.status != ObservedStatus::Running {
                return;
            }
            let at = Some(self.0.world.wall());
            object.observed.status =
                ObservedStatus::Exited(ExitStatus { code: Some(code), reason: "Exited".to_owned(), at });
        }
        self.0.agents.gone(id);
        self.effect(id, Effect::Exited(code));
        self.publish_object(id);
    }

    pub(super) fn effect(&self, id: &SandboxId, effect: Effect) {
        let driver = self.0.spec.capabilities.id.to_string();
        self.0.ledger.outside(What::Effect { driver, sandbox: id.clone(), effect });
    }

    pub(super) fn publish_object(&self, id: &SandboxId) {
        let observed = self.0.state.lock().objects.get(id).map(|object| object.observed.clone());
        if let Some(observed) = observed {
            self.publish(DriverEvent::Changed(observed));
        }
    }

    pub(super) fn publish(&self, event: DriverEvent) {
        let now = self.0.world.elapsed();
        let mut state = self.0.state.lock();
        let seen_at = now.saturating_add(state.lag);
        state.news.push((seen_at, event));
        drop(state);
        self.0.signal.notify();
    }
}
