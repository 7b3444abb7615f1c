//! Agents inside sandboxes: they belong to the platform, so they outlive the gateway and dial again when it is back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use chiton_lifecycle::runtime::Agents;
use chiton_model::{DriverId, Error, SandboxId};
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use crate::signal::Signal;
use crate::world::{Process, VirtualWorld};

/// When an agent connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentBehaviour {
    /// So long after its start, or after the gateway listens (again), whatever is later.
    After(Duration),
    /// Never.
    Never,
}

#[derive(Clone, Debug)]
struct Agent {
    attempt: String,
    started: Duration,
    behaviour: AgentBehaviour,
}

#[derive(Default)]
struct State {
    agents: BTreeMap<SandboxId, Agent>,
    /// Listener → process generation and when it was opened.
    listeners: BTreeMap<SandboxId, (u64, Duration)>,
    script: VecDeque<AgentBehaviour>,
    standing: Option<AgentBehaviour>,
}

/// All agents of a world. Clones share them.
#[derive(Clone)]
pub struct ScriptedAgents {
    world: VirtualWorld,
    state: Arc<Mutex<State>>,
    signal: Signal,
}

enum Wait {
    Over,
    Until(Duration),
    Change,
}

impl ScriptedAgents {
    /// No agents yet. Unless told otherwise each connects one millisecond after its start.
    pub fn new(world: &VirtualWorld) -> Self {
        Self { world: world.clone(), state: Arc::default(), signal: Signal::default() }
    }

    /// How the agent of the next start behaves; calls queue up.
    pub fn next(&self, behaviour: AgentBehaviour) {
        self.state.lock().script.push_back(behaviour);
    }

    /// How agents behave when nothing is queued.
    pub fn always(&self, behaviour: AgentBehaviour) {
        self.state.lock().standing = Some(behaviour);
    }

    /// The agents as this process reaches them.
    pub fn open(&self, process: &Process) -> Arc<dyn Agents> {
        Arc::new(Handle { agents: self.clone(), process: process.clone() })
    }

    /// A platform started a sandbox with this attempt's credentials.
    pub(crate) fn launched(&self, sandbox: &SandboxId, attempt: &str) {
        let started = self.world.elapsed();
        let mut state = self.state.lock();
        let behaviour =
            state.script.pop_front().or(state.standing).unwrap_or(AgentBehaviour::After(Duration::from_millis(1)));
        state.agents.insert(sandbox.clone(), Agent { attempt: attempt.to_owned(), started, behaviour });
        drop(state);
        self.signal.notify();
    }

    /// A sandbox no longer runs.
    pub(crate) fn gone(&self, sandbox: &SandboxId) {
        self.state.lock().agents.remove(sandbox);
        self.signal.notify();
    }

    fn wait(&self, generation: u64, sandbox: &SandboxId, attempt: &str) -> Wait {
        let now = self.world.elapsed();
        let state = self.state.lock();
        let (Some(agent), Some((listener, opened))) = (state.agents.get(sandbox), state.listeners.get(sandbox)) else {
            return Wait::Change;
        };
        match agent.behaviour {
            AgentBehaviour::After(delay) if agent.attempt == attempt && *listener == generation => {
                let at = agent.started.max(*opened).saturating_add(delay);
                if now >= at { Wait::Over } else { Wait::Until(at) }
            }
            _ => Wait::Change,
        }
    }
}

struct Handle {
    agents: ScriptedAgents,
    process: Process,
}

impl Agents for Handle {
    fn open<'a>(&'a self, _driver: &'a DriverId, sandbox: &'a SandboxId) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            self.process.live().await;
            let (generation, now) = (self.process.generation(), self.agents.world.elapsed());
            let mut state = self.agents.state.lock();
            let listener = state.listeners.entry(sandbox.clone()).or_insert((generation, now));
            if listener.0 != generation {
                *listener = (generation, now);
            }
            drop(state);
            self.agents.signal.notify();
            Ok(())
        }
        .boxed()
    }

    fn connected(&self, sandbox: &SandboxId, attempt: &str) -> BoxFuture<'static, ()> {
        let (agents, generation) = (self.agents.clone(), self.process.generation());
        let (sandbox, attempt) = (sandbox.clone(), attempt.to_owned());
        async move {
            loop {
                let seen = agents.signal.version();
                match agents.wait(generation, &sandbox, &attempt) {
                    Wait::Over => return,
                    Wait::Change => agents.signal.changed(seen).await,
                    Wait::Until(at) => {
                        let changed = std::pin::pin!(agents.signal.changed(seen));
                        futures::future::select(agents.world.sleep_until(at), changed).await;
                    }
                }
            }
        }
        .boxed()
    }

    fn close<'a>(&'a self, sandbox: &'a SandboxId) -> BoxFuture<'a, ()> {
        async move {
            self.process.live().await;
            self.agents.state.lock().listeners.remove(sandbox);
            self.agents.signal.notify();
        }
        .boxed()
    }
}
