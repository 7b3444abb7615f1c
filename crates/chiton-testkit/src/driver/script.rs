//! What a driver is, and how its calls behave.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use chiton_driver::{Capabilities, Deadlines, Feature, Limit, Locality, Point};
use chiton_model::DriverId;

/// A driver call, the looks among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    /// `backend_id`.
    Backend,
    /// `default_plan`.
    Plan,
    /// `validate`.
    Validate,
    /// `prepare`.
    Prepare,
    /// `create`.
    Create,
    /// `start`.
    Start,
    /// `stop`.
    Stop,
    /// `delete`.
    Delete,
    /// `get`.
    Get,
    /// `list`.
    List,
    /// `ensure_workspace`.
    EnsureWorkspace,
    /// `release_workspace`.
    ReleaseWorkspace,
}

impl Call {
    /// Calls that change the platform.
    pub const ACTS: [Self; 4] = [Self::Create, Self::Start, Self::Stop, Self::Delete];

    /// All calls.
    pub const ALL: [Self; 12] = [
        Self::Backend,
        Self::Plan,
        Self::Validate,
        Self::Prepare,
        Self::Create,
        Self::Start,
        Self::Stop,
        Self::Delete,
        Self::Get,
        Self::List,
        Self::EnsureWorkspace,
        Self::ReleaseWorkspace,
    ];
}

/// How one call behaves. Durations count from its begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Does it after so long and says so.
    Succeed(Duration),
    /// Does nothing and says so.
    NotRun(String),
    /// Does nothing and fails after so long.
    Fail(Duration, String),
    /// Does it, and fails nevertheless.
    FailDone(Duration, String),
    /// A create that leaves something half made behind, and fails.
    HalfMake(Duration, String),
    /// Never answers and does nothing.
    Hang,
    /// Never answers, and does it after so long.
    HangDone(Duration),
    /// Answers `Unknown` after the first duration. Does it after the second, if there is one.
    Unknown(Duration, Option<Duration>),
    /// Says that it did after the first duration, and does it after the second.
    Accept(Duration, Duration),
    /// Does nothing and says that it did.
    Lie(Duration),
}

impl Behaviour {
    /// At once, as asked.
    pub fn ok() -> Self {
        Self::Succeed(Duration::from_millis(1))
    }
}

/// What a driver is. Durable facts only; how its calls behave is told to the platform.
#[derive(Clone, Debug)]
pub struct DriverSpec {
    pub(super) capabilities: Capabilities,
    pub(super) deadlines: Deadlines,
    pub(super) backend: String,
    pub(super) watch_lag: Duration,
}

impl DriverSpec {
    /// A local driver with two-phase start, an agent, every portable point and every feature.
    pub fn new(id: &str) -> Self {
        Self {
            capabilities: Capabilities {
                id: DriverId::new(id).expect("a scripted driver's id is valid"),
                kind: "scripted".to_owned(),
                version: "1.0.0".to_owned(),
                default_image: "scripted:default".to_owned(),
                gateway_manages_lifecycle: false,
                locality: Locality::Local,
                points: BTreeSet::from([
                    Point::Env,
                    Point::Label,
                    Point::Annotation,
                    Point::Mount,
                    Point::Device,
                    Point::Network,
                    Point::Resource,
                ]),
                limits: BTreeSet::from([Limit::Cpu, Limit::Memory, Limit::Pids]),
                networks: BTreeSet::new(),
                features: BTreeSet::from([Feature::TwoPhaseStart, Feature::Workspaces]),
                plan_schema: 1,
                agent: true,
            },
            deadlines: Deadlines::default(),
            backend: format!("backend-of-{id}"),
            watch_lag: Duration::from_millis(1),
        }
    }

    /// Effects are made by a process that is no child of the gateway.
    #[must_use]
    pub fn remote(mut self) -> Self {
        self.capabilities.locality = Locality::Remote;
        self
    }

    /// Besides, it answers a create before it is done ([`Behaviour::Accept`]), and a delete does not end that.
    #[must_use]
    pub fn deferred(mut self) -> Self {
        self.capabilities.locality = Locality::Deferred;
        self
    }

    /// Create starts, too.
    #[must_use]
    pub fn one_phase(mut self) -> Self {
        self.capabilities.features.remove(&Feature::TwoPhaseStart);
        self
    }

    /// Sandboxes carry no agent.
    #[must_use]
    pub fn without_agent(mut self) -> Self {
        self.capabilities.agent = false;
        self
    }

    /// The gateway stops its sandboxes at shutdown.
    #[must_use]
    pub fn managed(mut self) -> Self {
        self.capabilities.gateway_manages_lifecycle = true;
        self
    }

    /// The driver offers only these points.
    #[must_use]
    pub fn points(mut self, points: impl IntoIterator<Item = Point>) -> Self {
        self.capabilities.points = points.into_iter().collect();
        self
    }

    /// The driver has only these features.
    #[must_use]
    pub fn features(mut self, features: impl IntoIterator<Item = Feature>) -> Self {
        self.capabilities.features = features.into_iter().collect();
        self
    }

    /// How long the engine waits.
    #[must_use]
    pub fn deadlines(mut self, deadlines: Deadlines) -> Self {
        self.deadlines = deadlines;
        self
    }

    /// How late news come.
    #[must_use]
    pub fn watch_lag(mut self, lag: Duration) -> Self {
        self.watch_lag = lag;
        self
    }

    /// Whether effects are made by a process that is no child of the gateway.
    pub fn is_remote(&self) -> bool {
        self.capabilities.locality != Locality::Local
    }

    /// Whether it answers a create before it is done.
    pub fn is_deferred(&self) -> bool {
        self.capabilities.locality == Locality::Deferred
    }

    /// Its id.
    pub fn id(&self) -> &DriverId {
        &self.capabilities.id
    }
}

/// Queued and standing behaviours.
#[derive(Debug, Default)]
pub(super) struct Script {
    queued: BTreeMap<Call, VecDeque<Behaviour>>,
    standing: BTreeMap<Call, Behaviour>,
}

impl Script {
    pub(super) fn push(&mut self, call: Call, behaviour: Behaviour) {
        self.queued.entry(call).or_default().push_back(behaviour);
    }

    pub(super) fn stand(&mut self, call: Call, behaviour: Behaviour) {
        self.standing.insert(call, behaviour);
    }

    pub(super) fn clear(&mut self) {
        self.queued.clear();
        self.standing.clear();
    }

    pub(super) fn next(&mut self, call: Call) -> Behaviour {
        if let Some(behaviour) = self.queued.get_mut(&call).and_then(VecDeque::pop_front) {
            return behaviour;
        }
        self.standing.get(&call).cloned().unwrap_or_else(Behaviour::ok)
    }
}
