//! All of it around one engine: the place in which a property test is twenty lines.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chiton_driver::ComputeDriver;
use chiton_lifecycle::ExtensionConfig;
use chiton_lifecycle::Missing;
use chiton_lifecycle::engine::{Accepted, CreateRequest, Engine, EngineConfig, EngineParts, Request, StartupError};
use chiton_lifecycle::extension::{ExtensionKind, Registry};
use chiton_lifecycle::journal::{OperationRecord, SandboxRecord};
use chiton_lifecycle::policy::Policy;
use chiton_lifecycle::runtime::World;
use chiton_model::{DriverId, Error, ExtensionName, Principal, SandboxId, SandboxName};
use serde_json::{Value, json};

use crate::agents::ScriptedAgents;
use crate::audience::RecordingAudience;
use crate::driver::{DriverSpec, ScriptedPlatform};
use crate::extension::ExtensionScript;
use crate::journal::{MarkLoss, MemoryJournal};
use crate::ledger::{Ledger, Truth, What};
use crate::secrets::ScriptedSecrets;
use crate::world::{Halt, Process, VirtualWorld};

/// One extension of the lab: what it is, how the operator configured it, and whether it is listed for new sandboxes.
struct Installed {
    name: ExtensionName,
    part: Part,
    policy: Policy,
    document: Value,
    listed: bool,
}

/// What stands behind an extension of the lab.
enum Part {
    Script(Box<ExtensionScript>),
    /// Any kind, made anew for every process.
    Kind(Box<MakeKind>),
}

type MakeKind = dyn Fn(&Ledger, &Process) -> ExtensionKind;
type Configure = Box<dyn Fn(&mut EngineConfig)>;

/// A world with a journal, platforms, extensions and, once started, an engine.
pub struct Lab {
    world: VirtualWorld,
    ledger: Ledger,
    journal: MemoryJournal,
    agents: ScriptedAgents,
    secrets: ScriptedSecrets,
    audience: RecordingAudience,
    platforms: Vec<ScriptedPlatform>,
    extensions: Vec<Installed>,
    configure: Option<Configure>,
    running: Option<(Process, Engine)>,
    marks_kept: bool,
}

impl Lab {
    /// An empty lab. Add a driver and, if wanted, extensions; then [`Lab::start`].
    pub fn new(seed: u64) -> Self {
        let world = VirtualWorld::new(seed);
        let ledger = Ledger::new(world.clone());
        Self {
            journal: MemoryJournal::new(&ledger),
            agents: ScriptedAgents::new(&world),
            secrets: ScriptedSecrets::default(),
            audience: RecordingAudience::default(),
            platforms: Vec::new(),
            extensions: Vec::new(),
            configure: None,
            running: None,
            marks_kept: true,
            ledger,
            world,
        }
    }

    /// Adds a driver. The first is the default.
    #[must_use]
    pub fn driver(mut self, spec: DriverSpec) -> Self {
        self.platforms.push(ScriptedPlatform::new(spec, &self.ledger, &self.agents));
        self
    }

    /// Adds an extension to the end of the chain, under the default policy.
    #[must_use]
    pub fn extension(self, script: ExtensionScript) -> Self {
        self.extension_with(script, |_| ())
    }

    /// Adds an extension to the end of the chain, under a policy.
    #[must_use]
    pub fn extension_with(mut self, script: ExtensionScript, change: impl FnOnce(&mut Policy)) -> Self {
        let mut policy = Policy::default();
        change(&mut policy);
        let (name, part) = (script.name().clone(), Part::Script(Box::new(script)));
        self.extensions.push(Installed { name, part, policy, document: json!({}), listed: true });
        self
    }

    /// Adds any extension to the end of the chain: its kind, made anew for every process, its config and its policy.
    #[must_use]
    pub fn install(
        mut self,
        name: &ExtensionName,
        document: Value,
        policy: Policy,
        kind: impl Fn(&Ledger, &Process) -> ExtensionKind + 'static,
    ) -> Self {
        let part = Part::Kind(Box::new(kind));
        self.extensions.push(Installed { name: name.clone(), part, policy, document, listed: true });
        self
    }

    /// Takes a driver out of the config, from the next start on. Its platform stays.
    pub fn remove_driver(&mut self, id: &str) {
        self.platforms.retain(|platform| platform.spec().id().as_str() != id);
    }

    /// What needs something that is not there is held, from the next start on.
    pub fn allow_missing(&mut self) {
        let configure = self.configure.take();
        self.configure = Some(Box::new(move |config| {
            if let Some(configure) = &configure {
                configure(config);
            }
            config.missing = Missing::Hold;
        }));
    }

    /// Changes the engine's config, from the next start on.
    #[must_use]
    pub fn configure(mut self, change: impl Fn(&mut EngineConfig) + 'static) -> Self {
        self.configure = Some(Box::new(change));
        self
    }

    /// Changes an extension's config document, from the next start on.
    pub fn reconfigure(&mut self, name: &str, document: Value) {
        self.installed(name).document = document;
    }

    /// Changes an extension's policy, from the next start on.
    pub fn change_policy(&mut self, name: &str, change: impl FnOnce(&mut Policy)) {
        change(&mut self.installed(name).policy);
    }

    /// Takes an extension off the list for new sandboxes, from the next start on. It stays compiled in.
    pub fn unlist(&mut self, name: &str) {
        self.installed(name).listed = false;
    }

    /// Puts an extension back on the list for new sandboxes, from the next start on.
    pub fn list(&mut self, name: &str) {
        self.installed(name).listed = true;
    }

    /// Takes an extension out of the build, from the next start on.
    pub fn remove_extension(&mut self, name: &str) {
        self.extensions.retain(|installed| installed.name.as_str() != name);
    }

    fn installed(&mut self, name: &str) -> &mut Installed {
        self.extensions
            .iter_mut()
            .find(|installed| installed.name.as_str() == name)
            .expect("the lab has this extension")
    }

    /// The world.
    pub fn world(&self) -> &VirtualWorld {
        &self.world
    }

    /// The ledger.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The journal's disk.
    pub fn journal(&self) -> &MemoryJournal {
        &self.journal
    }

    /// The agents.
    pub fn agents(&self) -> &ScriptedAgents {
        &self.agents
    }

    /// The operator's secrets.
    pub fn secrets(&self) -> &ScriptedSecrets {
        &self.secrets
    }

    /// What the engine told.
    pub fn audience(&self) -> &RecordingAudience {
        &self.audience
    }

    /// The first platform.
    pub fn platform(&self) -> &ScriptedPlatform {
        self.platforms.first().expect("the lab has a driver")
    }

    /// A platform by its driver's id.
    pub fn platform_of(&self, id: &str) -> &ScriptedPlatform {
        self.platforms
            .iter()
            .find(|platform| platform.spec().id().as_str() == id)
            .expect("the lab has a driver of this id")
    }

    /// An extension's script.
    pub fn script(&self, name: &str) -> &ExtensionScript {
        let found = self.extensions.iter().find(|installed| installed.name.as_str() == name);
        match &found.expect("the lab has this extension").part {
            Part::Script(script) => script,
            Part::Kind(_) => panic!("{name} is not a scripted extension"),
        }
    }

    /// Whether a gateway runs, or was killed and is not buried.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// The engine that runs now.
    pub fn engine(&self) -> Engine {
        self.running.as_ref().map(|(_, engine)| engine.clone()).expect("the lab was started")
    }

    fn parts(&self, process: &Process) -> EngineParts {
        let mut registry = Registry::default();
        let default = self.platforms.first().map(|platform| platform.spec().id().clone());
        let mut config = EngineConfig::new(default.unwrap_or_else(|| DriverId::new("none").expect("a valid id")));
        for installed in &self.extensions {
            let kind = match &installed.part {
                Part::Script(script) => script.kind(&self.ledger, process),
                Part::Kind(kind) => kind(&self.ledger, process),
            };
            registry.register(kind).expect("extensions have names of their own");
            let name = installed.name.clone();
            if installed.listed {
                let (document, policy) = (installed.document.clone(), installed.policy.clone());
                config.extensions.push(ExtensionConfig { name, document, policy });
            } else {
                config.other_policies.insert(name, installed.policy.clone());
            }
        }
        if let Some(configure) = &self.configure {
            configure(&mut config);
        }
        let drivers =
            self.platforms.iter().map(|platform| platform.driver(process) as Arc<dyn ComputeDriver>).collect();
        let world = World {
            clock: Arc::new(process.clone()),
            entropy: Arc::new(process.clone()),
            executor: Arc::new(process.clone()),
            agents: self.agents.open(process),
            secrets: Arc::new(self.secrets.clone()),
            audience: Arc::new(self.audience.clone()),
            points: self.ledger.points(process),
        };
        EngineParts { world, journal: self.journal.open(process), drivers, registry, config }
    }

    /// Builds the engine and recovers. Panics when it cannot start.
    pub fn start(&mut self) {
        match self.try_start() {
            Ok(started) => assert!(started, "seed {}: the gateway was killed while it recovered", self.world.seed()),
            Err(error) => panic!("seed {}: the engine does not start: {error}", self.world.seed()),
        }
    }

    /// Builds the engine and recovers. `Ok(false)` when a placed crash came first.
    pub fn try_start(&mut self) -> Result<bool, StartupError> {
        assert!(self.running.is_none(), "the lab runs already");
        let process = self.world.process();
        self.ledger.by(&process, What::Start);
        let engine = Engine::new(self.parts(&process))?;
        let recovering = engine.clone();
        let recovered = self.run(async move { recovering.recover().await });
        // The process exists even when its recovery did not end: a crash must bury it.
        self.running = Some((process, engine));
        match recovered {
            None => Ok(false),
            Some(Ok(())) => Ok(true),
            Some(Err(error)) => {
                self.crash();
                Err(error)
            }
        }
    }

    /// The process dies: all its tasks at once. Journal, platforms and everything outside live on.
    pub fn crash(&mut self) {
        self.die(false);
    }

    /// The machine dies: as [`Lab::crash`], and the mark log, the clock since boot and whatever ran locally go with it.
    pub fn power_loss(&mut self) {
        self.die(true);
        self.lose_marks();
        for platform in &self.platforms {
            platform.power_loss();
        }
    }

    fn die(&mut self, reboot: bool) {
        let engine = self.running.take();
        // While the process counts as dead, so that no destructor has an effect.
        self.world.kill();
        self.ledger.outside(What::Crash { reboot });
        if reboot {
            self.world.reboot();
        } else {
            self.world.crash();
        }
        drop(engine);
    }

    /// The mark log is lost, as after a power loss. Between a crash and the next start.
    pub fn lose_marks(&mut self) {
        self.marks_kept = false;
        self.journal.lose_marks(MarkLoss::Lost);
    }

    /// The mark log is whole and another store's: the epoch must say that it cannot be trusted.
    pub fn distrust_marks(&mut self) {
        self.marks_kept = false;
    }

    /// Of the mark log only so many records are left, and the next is torn. Between a crash and the next start.
    pub fn tear_marks(&mut self, records: usize) {
        self.marks_kept = false;
        self.journal.lose_marks(MarkLoss::Prefix(records));
    }

    /// Another store in place of this one, which is given back: another gateway, or a copy. Between a crash and the next
    /// start.
    pub fn swap_store(&mut self, journal: MemoryJournal) -> MemoryJournal {
        assert!(self.running.is_none(), "a running gateway keeps its store");
        std::mem::replace(&mut self.journal, journal)
    }

    /// A new process.
    pub fn restart(&mut self) {
        if self.running.is_some() {
            self.crash();
        }
        self.start();
    }

    /// Runs the world until the future is done. Panics when it cannot be.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        match self.world.try_block_on(future) {
            Ok(value) => value,
            Err(halt) => panic!("{halt:?}\n{}", self.ledger.render()),
        }
    }

    /// Runs the world until the future is done; none when a placed crash came first. Panics when stuck.
    pub fn run<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        match self.world.try_block_on(future) {
            Ok(value) => Some(value),
            Err(Halt::Crashed) => None,
            Err(halt) => panic!("{halt:?}\n{}", self.ledger.render()),
        }
    }

    /// Runs the world for so long. False when a placed crash came first.
    pub fn advance(&self, by: Duration) -> bool {
        match self.world.advance(by) {
            Ok(()) => true,
            Err(Halt::Crashed) => false,
            Err(halt) => panic!("{halt:?}\n{}", self.ledger.render()),
        }
    }

    /// Runs the world until nothing is under way: no open operation, no open obligation, no call on its way. False when a
    /// placed crash came first, or when it is not so within the limit.
    pub fn quiesce(&self, limit: Duration) -> bool {
        let end = self.world.elapsed().saturating_add(limit);
        let mut pause = Duration::from_secs(5);
        loop {
            if self.is_quiet() && self.advance(Duration::from_secs(5)) && self.is_quiet() {
                return true;
            }
            if self.world.is_killed() || self.world.elapsed() >= end || !self.advance(pause) {
                return false;
            }
            pause = (pause * 2).min(Duration::from_mins(5));
        }
    }

    fn is_quiet(&self) -> bool {
        self.journal.is_quiet() && self.platforms.iter().all(|platform| platform.in_flight() == 0)
    }

    /// What the store and the platforms say now.
    pub fn truth(&self) -> Truth {
        let objects: BTreeMap<_, _> = self.platforms.iter().flat_map(ScriptedPlatform::objects).collect();
        Truth {
            rows: self.journal.rows(),
            workspaces: self.journal.workspaces(),
            obligations: self.journal.obligations(),
            objects,
            marks_kept: self.marks_kept,
        }
    }

    /// Every check that holds in every history; to be asked once all is quiet. Panics with the ledger.
    pub fn assert_sound(&self) {
        if let Err(why) = self.ledger.check(&self.truth()) {
            panic!("{why}");
        }
    }

    /// Who asks, in tests that do not care.
    pub fn request(&self) -> Request {
        Request { principal: Principal { subject: "tester".to_owned(), claims: BTreeMap::new() }, request_id: None }
    }

    /// Asks for a sandbox of this name and answers what the engine answers, at C1.
    pub fn ask_create(&self, name: &str) -> Option<Result<Accepted, Error>> {
        let name = SandboxName::new(name).expect("a valid name");
        let (engine, request) = (self.engine(), self.request());
        self.run(
            async move { engine.create(request, CreateRequest { name: Some(name), ..CreateRequest::default() }).await },
        )
    }

    /// Creates a sandbox and waits for the outcome. Panics when it is refused.
    pub fn create(&self, name: &str) -> (SandboxId, OperationRecord) {
        let accepted = self.ask_create(name).expect("no crash is placed").expect("the create is accepted");
        let id = accepted.sandbox.id.clone();
        (id, self.outcome(accepted).expect("a create is an operation"))
    }

    /// Starts a sandbox and waits for the outcome; none when nothing was to be done.
    pub fn start_sandbox(&self, id: &SandboxId) -> Result<Option<OperationRecord>, Error> {
        let (engine, request, id) = (self.engine(), self.request(), id.clone());
        self.block_on(async move { engine.start(request, id).await }).map(|accepted| self.outcome(accepted))
    }

    /// Stops a sandbox and waits for the outcome; none when nothing was to be done.
    pub fn stop_sandbox(&self, id: &SandboxId) -> Result<Option<OperationRecord>, Error> {
        let (engine, request, id) = (self.engine(), self.request(), id.clone());
        self.block_on(async move { engine.stop(request, id).await }).map(|accepted| self.outcome(accepted))
    }

    /// Deletes a sandbox and waits for the outcome; none when nothing was to be done.
    pub fn delete_sandbox(&self, id: &SandboxId) -> Result<Option<OperationRecord>, Error> {
        let (engine, request, id) = (self.engine(), self.request(), id.clone());
        self.block_on(async move { engine.delete(request, id, false).await }).map(|accepted| self.outcome(accepted))
    }

    fn outcome(&self, accepted: Accepted) -> Option<OperationRecord> {
        let operation = accepted.operation?;
        let engine = self.engine();
        self.block_on(async move { engine.wait(&operation).await }).ok()
    }

    /// A row.
    pub fn row(&self, id: &SandboxId) -> Option<SandboxRecord> {
        self.journal.row(id)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.world.kill();
        self.running = None;
        self.world.end();
    }
}
