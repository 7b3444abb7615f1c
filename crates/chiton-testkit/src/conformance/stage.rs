//! The world of one run, and the life that is played in it: every phase comes, some more than once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chiton_lifecycle::engine::{CreateRequest, Engine};
use chiton_lifecycle::extension::{ExtensionKind, ReconcileSupport, StepError};
use chiton_lifecycle::journal::{OperationOutcome, Subject, WorkspaceKey};
use chiton_lifecycle::policy::Policy;
use chiton_model::condition::kinds;
use chiton_model::{ConditionStatus, Error, OperationId, Phase, SandboxId, SandboxName, SandboxPhase, WorkspaceName};
use futures::future::{BoxFuture, Either, join, select};
use serde_json::Value;

use super::bench::Bench;
use super::rig::Rig;
use super::watch::patiently;
use super::wrap::Wrapped;
use super::{Finding, Rule};
use crate::driver::DriverSpec;
use crate::extension::{Act, ExtensionScript};
use crate::journal::MemoryJournal;
use crate::lab::Lab;

/// The extension behind the author's in the chain: what fails after the author's hooks succeeded.
const COMPANION: &str = "kit-companion";
/// Counts runs with extensions in other processes.
static RUNS: AtomicU64 = AtomicU64::new(1 << 16);
/// Longer than every back-off.
const PATIENCE: Duration = Duration::from_hours(12);

/// What becomes of the marks when the gateway dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Death {
    /// The process dies.
    Process,
    /// The process dies and the mark log is lost.
    Marks,
    /// The machine goes down.
    Machine,
}

impl Death {
    pub(super) const ALL: [Self; 3] = [Self::Process, Self::Marks, Self::Machine];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Process => "the gateway was killed",
            Self::Marks => "the gateway was killed and its marks were lost",
            Self::Machine => "the machine lost power",
        }
    }
}

/// How a run differs from the usual one.
#[derive(Clone, Default)]
pub(super) struct Setting {
    pub(super) seed: u64,
    /// The operator lets reconcile mend and sweeps free.
    pub(super) authoritative: bool,
    pub(super) driver: Option<DriverSpec>,
    pub(super) death: Option<Death>,
}

/// One run's world.
pub(super) struct Stage {
    pub(super) lab: Lab,
    pub(super) rig: Rig,
    pub(super) bench: Bench,
    pub(super) kind: ExtensionKind,
    authoritative: bool,
    death: Death,
    workspace: WorkspaceName,
    /// Sandboxes of a store that was lost.
    lost: Vec<SandboxId>,
}

impl Stage {
    pub(super) fn new(kind: &ExtensionKind, bench: Bench, setting: &Setting, place: &str) -> Self {
        let name = &kind.descriptor().name;
        let driver =
            bench.driver.clone().or_else(|| setting.driver.clone()).unwrap_or_else(|| DriverSpec::new("kit-driver"));
        // What another process remembers of one run must not meet the same ids in the next.
        let seed =
            if bench.elsewhere { setting.seed ^ RUNS.fetch_add(1 << 16, Ordering::Relaxed) } else { setting.seed };
        let lab = Lab::new(seed).driver(driver);
        let rig = Rig::new(name.clone(), bench.held.clone(), lab.ledger().clone(), place);
        let policy = Policy { authoritative: setting.authoritative, ..Policy::default() };
        let lab = Self::install(lab, kind, &rig, &bench, policy)
            .extension(ExtensionScript::everywhere(COMPANION).without(Phase::Sweep).without(Phase::Reconcile));
        let death = setting.death.unwrap_or(Death::Process);
        let workspace = WorkspaceName::new("kit").expect("a valid name");
        Self {
            lab,
            rig,
            bench,
            kind: kind.clone(),
            authoritative: setting.authoritative,
            death,
            workspace,
            lost: Vec::new(),
        }
    }

    fn install(lab: Lab, kind: &ExtensionKind, rig: &Rig, bench: &Bench, policy: Policy) -> Lab {
        let (config, elsewhere) = (&bench.config, bench.elsewhere);
        let (name, tag) = (&kind.descriptor().name, config.get("tag").and_then(Value::as_str).unwrap_or_default());
        let (kind, rig, tag) = (kind.clone(), rig.clone(), tag.to_owned());
        lab.install(name, config.clone(), policy, move |ledger, process| {
            let (rig, ledger, process, tag) = (rig.clone(), ledger.clone(), process.clone(), tag.clone());
            kind.wrapped(
                |_| (),
                move |author| {
                    let (rig, ledger, process) = (rig.clone(), ledger.clone(), process.clone());
                    Arc::new(Wrapped { author, rig, ledger, process, tag: tag.clone(), elsewhere })
                },
            )
        })
    }

    /// What is asked of the author's extension directly.
    pub(super) fn beyond<T: Send + 'static>(
        &self,
        asked: impl Future<Output = T> + Send + 'static,
    ) -> impl Future<Output = T> + Send + 'static {
        let (mut asked, elsewhere): (BoxFuture<'static, T>, bool) = (Box::pin(asked), self.bench.elsewhere);
        std::future::poll_fn(move |cx| if elsewhere { patiently(&mut asked, cx) } else { asked.as_mut().poll(cx) })
    }

    /// Starts the gateway. False when a placed crash came first.
    pub(super) fn start(&mut self) -> bool {
        match self.lab.try_start() {
            Ok(started) => started,
            Err(error) => {
                self.rig.find(Rule::Config, format!("the gateway does not start with it: {error}"));
                false
            }
        }
    }

    pub(super) fn takes_part(&self, phase: Phase) -> bool {
        self.kind.descriptor().takes_part(phase)
    }

    fn request(&self, workspace: &WorkspaceName, name: &str) -> CreateRequest {
        let name = Some(SandboxName::new(name).expect("a valid name"));
        self.bench.shaped(CreateRequest { name, workspace: workspace.clone(), ..CreateRequest::default() })
    }

    /// The request that all plans are made for.
    pub(super) fn plain_request(&self) -> CreateRequest {
        self.request(&self.workspace, "planned")
    }

    /// Waits for an operation. When a hook waits to be cancelled meanwhile, deletes the sandbox.
    fn wait(&self, sandbox: &SandboxId, operation: &OperationId) -> Option<OperationOutcome> {
        let (engine, rig, request) = (self.lab.engine(), self.rig.clone(), self.lab.request());
        let (sandbox, operation) = (sandbox.clone(), operation.clone());
        self.lab.run(async move {
            let waited = Box::pin(engine.wait(&operation));
            let record = match select(waited, Box::pin(rig.somebody_waits())).await {
                Either::Left((record, _)) => record,
                Either::Right(((), waited)) => {
                    drop(engine.delete(request, sandbox, false).await);
                    waited.await
                }
            };
            record.ok().and_then(|record| record.outcome)
        })?
    }

    /// Creates a sandbox in a workspace and waits; none when the gateway died or refused.
    pub(super) fn create_in(&self, workspace: &WorkspaceName, name: &str) -> Option<(SandboxId, OperationOutcome)> {
        let (engine, asked, request) = (self.lab.engine(), self.lab.request(), self.request(workspace, name));
        let accepted = match self.lab.run(async move { engine.create(asked, request).await })? {
            Ok(accepted) => accepted,
            Err(error) => {
                self.refused("create", &error);
                return None;
            }
        };
        let id = accepted.sandbox.id.clone();
        let outcome = self.wait(&id, &accepted.operation?)?;
        Some((id, outcome))
    }

    pub(super) fn create(&self, name: &str) -> Option<(SandboxId, OperationOutcome)> {
        self.create_in(&self.workspace, name)
    }

    /// A request that the engine refuses is a finding only when nothing was done to the extension.
    fn refused(&self, what: &str, error: &Error) {
        if !self.rig.was_hit() {
            self.rig.find(Rule::Calm, format!("{what} is refused: {error}"));
        }
    }

    fn expect(&self, what: &str, outcome: &OperationOutcome) {
        if let OperationOutcome::Failed(error) = outcome
            && !self.rig.was_hit()
        {
            self.rig.find(Rule::Calm, format!("{what} failed: {error}"));
        }
    }

    /// Creates a sandbox that must succeed.
    pub(super) fn create_well(&self, name: &str) -> Option<SandboxId> {
        let (id, outcome) = self.create(name)?;
        self.expect("create", &outcome);
        matches!(outcome, OperationOutcome::Succeeded).then_some(id)
    }

    /// Start, stop or delete; none when the gateway died.
    pub(super) fn ask(&self, id: &SandboxId, what: Ask) -> Option<()> {
        let (engine, request, asked) = (self.lab.engine(), self.lab.request(), id.clone());
        let accepted = self.lab.run(async move {
            match what {
                Ask::Start => engine.start(request, asked).await,
                Ask::Stop => engine.stop(request, asked).await,
                Ask::Delete => engine.delete(request, asked, false).await,
            }
        })?;
        match accepted {
            Ok(accepted) => {
                if let Some(operation) = accepted.operation
                    && let Some(outcome) = self.wait(id, &operation)
                {
                    self.expect(what.as_str(), &outcome);
                }
            }
            Err(error) => self.refused(what.as_str(), &error),
        }
        (!self.lab.world().is_killed()).then_some(())
    }

    /// One round of reconcile, with a delete of this sandbox when a hook waits to be cancelled.
    pub(super) fn reconcile(&self, id: &SandboxId) -> Option<()> {
        let (engine, rig, request, id) = (self.lab.engine(), self.rig.clone(), self.lab.request(), id.clone());
        self.lab.run(async move {
            let round = Box::pin(engine.reconcile());
            if let Either::Right(((), round)) = select(round, Box::pin(rig.somebody_waits())).await {
                // Together: the delete waits until the round has given way.
                drop(join(engine.delete(request, id, false), round).await);
            }
        })
    }

    pub(super) fn sweep(&self) -> Option<Vec<String>> {
        let engine: Engine = self.lab.engine();
        self.lab.run(async move { engine.sweep().await.failed })
    }

    /// A whole life: a create that fails late, one that succeeds, a look, a stop, a start, a delete, and the workspace goes.
    /// Whatever fails on the way, it goes on as far as it can; none when the gateway died.
    pub(super) fn play(&self) -> Option<()> {
        self.lab.script(COMPANION).next(Phase::AfterReady, Act::Fail(StepError::fatal("scripted by the kit")));
        let doomed = self.create("doomed").map(|(id, _)| id);
        self.alive()?;
        if let Some((id, outcome)) = self.create("one") {
            self.expect("create", &outcome);
            self.alive()?;
            self.reconcile(&id)?;
            self.sweep()?;
            self.ask_if(&id, Ask::Stop, SandboxPhase::Ready)?;
            self.ask_if(&id, Ask::Start, SandboxPhase::Stopped)?;
            self.ask(&id, Ask::Delete)?;
        }
        self.alive()?;
        if let Some(id) = doomed {
            self.ask(&id, Ask::Delete)?;
        }
        self.delete_workspace(&self.workspace)
    }

    fn alive(&self) -> Option<()> {
        (!self.lab.world().is_killed()).then_some(())
    }

    fn ask_if(&self, id: &SandboxId, what: Ask, phase: SandboxPhase) -> Option<()> {
        let fits = self.lab.row(id).is_some_and(|row| row.phase == phase);
        if fits { self.ask(id, what) } else { self.alive() }
    }

    fn delete_workspace(&self, workspace: &WorkspaceName) -> Option<()> {
        let (engine, principal, workspace) = (self.lab.engine(), self.lab.request().principal, workspace.clone());
        // A workspace that is not there, or in which something is left, says so; what is left is looked at in the end.
        self.lab.run(async move { drop(engine.delete_workspace(principal, workspace).await) })
    }

    /// A new process, after a death that was placed or not.
    pub(super) fn rise(&mut self) -> bool {
        self.lab.ledger().no_crash();
        self.die();
        self.start()
    }

    fn die(&mut self) {
        match self.death {
            Death::Process => self.lab.crash(),
            Death::Marks => {
                self.lab.crash();
                self.lab.lose_marks();
            }
            Death::Machine => self.lab.power_loss(),
        }
    }

    /// Dies, and dies again so many entries into its recovery.
    pub(super) fn rise_and_fall(&mut self, entries: usize) {
        self.lab.ledger().no_crash();
        self.die();
        self.lab.ledger().crash_after(self.lab.ledger().len() + 1 + entries);
        if self.start() {
            self.lab.advance(Duration::from_mins(1));
        }
    }

    /// The store is lost, and the object of this sandbox with it: nobody knows it any more. To be started again.
    pub(super) fn forget_store(&mut self, id: &SandboxId) {
        self.lab.crash();
        self.lab.platform().lose(id);
        self.lab.swap_store(MemoryJournal::new(self.lab.ledger()));
        self.lost.push(id.clone());
    }

    /// Sweeps until what nobody owns must be free, if the extension may free it; else it is no leak.
    fn sweep_lost(&self) {
        let frees =
            self.kind.descriptor().reconcile == ReconcileSupport::Authoritative && self.takes_part(Phase::Sweep);
        for _ in 0..3 {
            if frees && !self.lost.is_empty() {
                self.sweep();
                self.lab.advance(Duration::from_mins(11));
            }
        }
        for id in self.lost.iter().filter(|_| !(frees && self.authoritative)) {
            self.rig.of(&Self::subject(id)).iter().for_each(|handle| self.rig.forget(handle));
        }
    }

    /// What the last reconcile of a sandbox complained about.
    pub(super) fn drift(&self, id: &SandboxId) -> Option<String> {
        let row = self.lab.row(id)?;
        let drift = row.conditions.into_iter().find(|condition| condition.kind == kinds::EXTENSION_DRIFT)?;
        (drift.status != ConditionStatus::False).then_some(drift.message)
    }

    /// Everything behaves again, becomes quiet and is deleted; then nothing may be left.
    pub(super) fn end(mut self) -> (Vec<Finding>, Option<String>) {
        let down = self.lab.world().is_killed() || !self.lab.is_running();
        if down && !self.rise() && !self.rise() {
            self.rig.find(Rule::Calm, "the gateway does not recover with it");
            return self.rig.take();
        }
        self.lab.ledger().no_crash();
        self.rig.disarm();
        self.lab.script(COMPANION).behave();
        self.lab.platform().behave();
        self.lab.advance(Duration::from_mins(2));
        self.sweep_lost();
        if self.quiet() {
            for id in self.lab.journal().rows().into_keys() {
                let (engine, request) = (self.lab.engine(), self.lab.request());
                self.lab.run(async move { drop(engine.delete(request, id, false).await) });
            }
            if self.quiet() {
                let mut left: Vec<WorkspaceKey> =
                    self.lab.journal().workspaces().into_iter().map(|row| row.key).collect();
                left.dedup_by(|one, other| one.workspace == other.workspace);
                for key in left {
                    self.delete_workspace(&key.workspace);
                }
                if self.quiet() {
                    self.nothing_is_left();
                }
            }
        }
        self.rig.take()
    }

    fn quiet(&self) -> bool {
        let quiet = self.lab.quiesce(PATIENCE);
        if !quiet {
            let owed = self.lab.journal().obligations();
            let own: Vec<String> = owed
                .iter()
                .map(|owed| format!("{} ({} attempts, the last: {})", owed.debt.phase, owed.attempts, owed.last_error))
                .collect();
            self.rig.find(Rule::Undo, format!("its cleanup never succeeds: {}", own.join("; ")));
        }
        quiet
    }

    fn nothing_is_left(&self) {
        for (handle, owner) in self.rig.owned() {
            let whose = owner.subject.map_or_else(|| "nobody".to_owned(), |subject| subject.to_string());
            let what = format!("{handle:?} is still held for {whose}, which is gone; {} made it", owner.phase);
            self.rig.find(self.rig.leak_rule(), what);
        }
        // What a lost store left behind for the companion nobody frees.
        if self.rig.is_clean()
            && self.lost.is_empty()
            && let Err(why) = self.lab.ledger().check(&self.lab.truth())
        {
            panic!(
                "no rule for extensions is broken, but one of the engine; this is a bug of the engine or of the kit: {why}"
            );
        }
    }

    pub(super) fn subject(id: &SandboxId) -> Subject {
        Subject::Sandbox(id.clone())
    }
}

/// What is asked of the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Start,
    Stop,
    Delete,
}

impl Ask {
    fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Delete => "delete",
        }
    }
}
