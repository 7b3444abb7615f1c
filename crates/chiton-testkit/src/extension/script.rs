//! What an extension is, and how its hooks behave.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use chiton_lifecycle::extension::{
    Descriptor, Draft, ExtensionKind, Needs, ReconcileOutcome, ReconcileSupport, StepError, StepResult,
};
use chiton_model::{ExtensionName, Phase};
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::gate::Gate;
use super::instance::ScriptedExtension;
use crate::ledger::Ledger;
use crate::world::Process;

/// How one hook call behaves. In an effect phase "does it" means that the effect is acquired, in a cleanup phase that it
/// is released, elsewhere nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Does it and succeeds.
    Succeed,
    /// Waits so long, does it and succeeds.
    Slow(Duration),
    /// Does it and fails; a cleanup fails without having done it.
    Fail(StepError),
    /// Fails without having done it.
    Refuse(StepError),
    /// Does it and never returns, cancelled or not. A cleanup does not do it.
    Hang,
    /// Does it and waits until it is cancelled; then fails.
    Obey,
    /// Does it at the end of blocking work that takes so long.
    Block(Duration),
    /// Does it and panics. A cleanup panics without having done it.
    Panic,
    /// Succeeds when the effect takes hold, so long later; it does so even when the hook is cut off.
    Late(Duration),
    /// Vetoes; in `approve_stop` only.
    Veto(String),
    /// Returns a slot too few; in `before_create` only.
    WrongSlots,
    /// Saves state until that is refused, and fails.
    Hoard,
    /// Waits at the door of its phase until it is let through or cancelled, then does it; fails when the gate says so.
    Gate(Gate),
}

/// The config of a scripted extension.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ScriptedConfig {
    /// Shows up in the ledger, so that a test can tell with which config a hook was called.
    pub tag: String,
}

pub(super) type Writes = Arc<dyn Fn(&mut Draft) -> StepResult + Send + Sync>;

#[derive(Default)]
pub(super) struct State {
    queued: BTreeMap<Phase, VecDeque<Act>>,
    standing: BTreeMap<Phase, Act>,
    outcomes: VecDeque<ReconcileOutcome>,
    pub(super) unhealthy: Option<(jiff::Timestamp, String)>,
}

/// What an extension is and how its hooks behave. It stands outside of the gateway, so its queues go on over crashes.
/// Clones share it.
#[derive(Clone)]
pub struct ExtensionScript {
    pub(super) descriptor: Descriptor,
    pub(super) slots: Vec<(String, String, Option<String>)>,
    pub(super) writes: Option<Writes>,
    pub(super) saves: Saves,
    pub(super) state: Arc<Mutex<State>>,
}

/// Whether state is saved, when and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Saves {
    No,
    Fast,
    Durable,
    FastEverywhere,
    DurableEverywhere,
}

impl ExtensionScript {
    /// An extension that takes part in no phase yet.
    pub fn new(name: &str) -> Self {
        let descriptor = Descriptor {
            name: ExtensionName::new(name).expect("a scripted extension's name is valid"),
            version: "1.0.0".to_owned(),
            summary: "Does what a test tells it".to_owned(),
            phases: BTreeSet::new(),
            needs: Needs::default(),
            wants: Needs::default(),
            state_schema: 1,
            reads_schemas: BTreeSet::new(),
            reconcile: ReconcileSupport::Advisory,
            local_effects: false,
            concurrency: 64,
            config_schema: Value::Null,
        };
        Self { descriptor, slots: Vec::new(), writes: None, saves: Saves::No, state: Arc::default() }
    }

    /// An extension that takes part in every phase.
    pub fn everywhere(name: &str) -> Self {
        Self::new(name).phases(Phase::ALL.iter().copied())
    }

    /// Takes part in these phases too.
    #[must_use]
    pub fn phases(mut self, phases: impl IntoIterator<Item = Phase>) -> Self {
        self.descriptor.phases.extend(phases);
        self
    }

    /// Takes no part in this phase.
    #[must_use]
    pub fn without(mut self, phase: Phase) -> Self {
        self.descriptor.phases.remove(&phase);
        self
    }

    /// Changes its declaration.
    #[must_use]
    pub fn declare(mut self, change: impl FnOnce(&mut Descriptor)) -> Self {
        change(&mut self.descriptor);
        self
    }

    /// Its effects end with the gateway's process.
    #[must_use]
    pub fn local_effects(self) -> Self {
        self.declare(|descriptor| descriptor.local_effects = true)
    }

    /// What `prepare_plan` writes.
    #[must_use]
    pub fn writes(mut self, writes: impl Fn(&mut Draft) -> StepResult + Send + Sync + 'static) -> Self {
        self.descriptor.phases.insert(Phase::PreparePlan);
        self.writes = Some(Arc::new(writes));
        self
    }

    /// Declares a slot, puts it into an environment variable, and fills it in `before_create`.
    #[must_use]
    pub fn slot(mut self, slot: &str, variable: &str) -> Self {
        self.descriptor.phases.extend([Phase::PreparePlan, Phase::BeforeCreate]);
        self.slots.push((slot.to_owned(), variable.to_owned(), None));
        self
    }

    /// As [`ExtensionScript::slot`], with the value that stands in when the extension is optional and fails.
    #[must_use]
    pub fn slot_or(mut self, slot: &str, variable: &str, default: &str) -> Self {
        self.descriptor.phases.extend([Phase::PreparePlan, Phase::BeforeCreate]);
        self.slots.push((slot.to_owned(), variable.to_owned(), Some(default.to_owned())));
        self
    }

    /// Saves state in `before_create`, before it acts.
    #[must_use]
    pub fn saves(mut self) -> Self {
        self.saves = Saves::Fast;
        self
    }

    /// Saves state durably in `before_create`, before it acts.
    #[must_use]
    pub fn saves_durably(mut self) -> Self {
        self.saves = Saves::Durable;
        self
    }

    /// Saves state in every hook, before it acts.
    #[must_use]
    pub fn saves_everywhere(mut self) -> Self {
        self.saves = Saves::FastEverywhere;
        self
    }

    /// Saves state durably in every hook, before it acts.
    #[must_use]
    pub fn saves_durably_everywhere(mut self) -> Self {
        self.saves = Saves::DurableEverywhere;
        self
    }

    /// The next call in this phase behaves so; calls queue up.
    pub fn next(&self, phase: Phase, act: Act) -> &Self {
        self.state.lock().queued.entry(phase).or_default().push_back(act);
        self
    }

    /// Calls in this phase behave so when nothing is queued.
    pub fn always(&self, phase: Phase, act: Act) -> &Self {
        self.state.lock().standing.insert(phase, act);
        self
    }

    /// Every hook behaves well again.
    pub fn behave(&self) {
        let mut state = self.state.lock();
        state.queued.clear();
        state.standing.clear();
        state.outcomes.clear();
        state.unhealthy = None;
    }

    /// What the next reconcile finds; calls queue up. Otherwise it is in sync.
    pub fn next_reconcile(&self, outcome: ReconcileOutcome) {
        self.state.lock().outcomes.push_back(outcome);
    }

    /// It says that it cannot work, or that it can.
    pub fn unhealthy(&self, since: Option<(jiff::Timestamp, &str)>) {
        self.state.lock().unhealthy = since.map(|(at, why)| (at, why.to_owned()));
    }

    /// Its name.
    pub fn name(&self) -> &ExtensionName {
        &self.descriptor.name
    }

    /// Its declaration.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// The kind to register for this process.
    pub fn kind(&self, ledger: &Ledger, process: &Process) -> ExtensionKind {
        let (script, ledger, process) = (self.clone(), ledger.clone(), process.clone());
        ExtensionKind::new::<ScriptedConfig, ScriptedExtension>(
            self.descriptor.clone(),
            |_| Vec::new(),
            move |config| Ok(ScriptedExtension::new(script.clone(), config, ledger.clone(), process.clone())),
        )
    }

    pub(super) fn act(&self, phase: Phase) -> Act {
        let mut state = self.state.lock();
        if let Some(act) = state.queued.get_mut(&phase).and_then(VecDeque::pop_front) {
            return act;
        }
        state.standing.get(&phase).cloned().unwrap_or(Act::Succeed)
    }

    pub(super) fn outcome(&self) -> ReconcileOutcome {
        self.state.lock().outcomes.pop_front().unwrap_or(ReconcileOutcome::InSync)
    }
}
