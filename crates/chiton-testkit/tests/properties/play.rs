//! One random history, and its end: everything behaves again, all becomes quiet, everything is deleted.

use std::time::Duration;

use chiton_lifecycle::engine::{CreateRequest, Engine, Request};
use chiton_model::{SandboxId, SandboxName};
use chiton_testkit::{AgentBehaviour, Lab, Rng};
use futures::future::BoxFuture;
use serde_json::json;

use crate::random;

pub(crate) struct Play {
    lab: Lab,
    rng: Rng,
    names: Vec<String>,
    crashes: bool,
}

/// What somebody asks of the gateway.
#[derive(Clone, Copy, Debug)]
enum Ask {
    Create,
    Start,
    Stop,
    Delete,
}

impl Play {
    pub(crate) fn new(seed: u64, crashes: bool) -> Self {
        let mut rng = Rng::new(seed ^ 0x5eed);
        let spec = random::spec(&mut rng);
        let (lab, names) = random::chain(&mut rng, Lab::new(seed).driver(spec));
        if rng.one_in(2) {
            lab.journal().latency(Duration::ZERO..Duration::from_millis(40));
        }
        if rng.one_in(6) {
            lab.journal().fail_commit(1 + rng.draw() % 12);
        }
        if rng.one_in(6) {
            lab.journal().fail_mark(1 + rng.draw() % 40);
        }
        random::misbehave(&mut rng, &lab, &names);
        let mut play = Self { lab, rng, names, crashes };
        play.begin();
        play
    }

    fn seed(&self) -> u64 {
        self.lab.world().seed()
    }

    /// Starts the gateway; a crash that was placed may come inside recovery, more than once.
    fn begin(&mut self) {
        for depth in 0.. {
            if self.crashes && depth < 3 && self.rng.one_in(3) {
                let after = self.lab.ledger().len() + self.rng.below(60);
                self.lab.ledger().crash_after(after.max(1));
            }
            let seed = self.seed();
            match self.lab.try_start() {
                Ok(true) => return,
                Ok(false) => self.fall(),
                Err(error) => panic!("seed {seed}: the engine does not start: {error}\n{:?}", self.lab.ledger()),
            }
        }
    }

    /// The gateway dies, or the machine.
    fn fall(&mut self) {
        self.lab.ledger().no_crash();
        match self.rng.below(4) {
            0 => {
                self.lab.crash();
                self.lab.lose_marks();
            }
            1 => self.lab.power_loss(),
            _ => self.lab.crash(),
        }
        if self.rng.one_in(3) {
            self.reconfigure();
        }
    }

    fn reconfigure(&mut self) {
        for name in self.names.clone() {
            let tag = format!("config-{}", self.rng.below(1000));
            self.lab.reconfigure(&name, json!({ "tag": tag }));
        }
    }

    /// A crash that was placed came.
    fn rise(&mut self) {
        if self.lab.world().is_killed() {
            self.fall();
            self.begin();
        }
    }

    fn ids(&self) -> Vec<SandboxId> {
        self.lab.journal().rows().into_keys().collect()
    }

    fn ask(&mut self, ask: Ask) -> Option<BoxFuture<'static, ()>> {
        let engine = self.lab.engine();
        let mut request = self.lab.request();
        if self.rng.one_in(4) {
            request.request_id = Some(format!("request-{}", self.rng.below(5)));
        }
        if matches!(ask, Ask::Create) {
            let name = *self.rng.pick(&["one", "two", "three"]);
            return Some(Box::pin(create(engine, request, name)));
        }
        let ids = self.ids();
        let id = (!ids.is_empty()).then(|| self.rng.pick(&ids).clone())?;
        Some(Box::pin(async move {
            // A refusal is an answer too.
            match ask {
                Ask::Start => drop(engine.start(request, id).await),
                Ask::Stop => drop(engine.stop(request, id).await),
                _ => drop(engine.delete(request, id, false).await),
            }
        }))
    }

    fn pick_ask(&mut self) -> Ask {
        *self.rng.pick(&[Ask::Create, Ask::Create, Ask::Start, Ask::Start, Ask::Stop, Ask::Stop, Ask::Delete])
    }

    /// Things happen one after the other, with random pauses.
    pub(crate) fn actions(&mut self, most: usize) {
        for _ in 0..=self.rng.below(most) {
            self.one_action();
            self.rise();
        }
    }

    fn one_action(&mut self) {
        match self.rng.below(16) {
            0..=8 => {
                let ask = self.pick_ask();
                if let Some(asked) = self.ask(ask) {
                    self.lab.run(asked);
                }
                if !self.rng.one_in(3) {
                    let pause = self.rng.millis(90_000);
                    self.lab.advance(pause);
                }
            }
            9 => {
                let pause = self.rng.millis(400_000);
                self.lab.advance(pause);
            }
            10 => {
                let engine = self.lab.engine();
                self.lab.run(async move { drop(engine.reconcile().await) });
            }
            11 => {
                let ids = self.ids();
                if !ids.is_empty() {
                    let id = self.rng.pick(&ids).clone();
                    if self.rng.one_in(4) {
                        self.lab.platform().lose(&id);
                    } else {
                        self.lab.platform().exit(&id, 3);
                    }
                }
            }
            12 => self.lab.platform().end_watches(),
            13 => random::misbehave(&mut self.rng, &self.lab, &self.names),
            14 => {
                let engine = self.lab.engine();
                if self.lab.run(async move { engine.shutdown().await }).is_some() {
                    self.lab.crash();
                    if self.rng.one_in(2) {
                        self.reconfigure();
                    }
                    self.begin();
                }
            }
            _ if self.crashes => {
                if self.rng.one_in(2) {
                    let after = self.lab.ledger().len() + 1 + self.rng.below(80);
                    self.lab.ledger().crash_after(after);
                } else {
                    self.fall();
                    self.begin();
                }
            }
            _ => {
                let engine = self.lab.engine();
                self.lab.run(async move { drop(engine.sweep().await) });
            }
        }
    }

    /// Several callers ask at once, at random moments.
    pub(crate) fn races(&mut self, most: usize) {
        for name in ["one", "two"] {
            let asked = create(self.lab.engine(), self.lab.request(), name);
            self.lab.run(asked);
            self.rise();
        }
        for _ in 0..2 {
            let calm = self.rng.millis(5000);
            self.lab.advance(calm);
            self.rise();
            for _ in 0..=self.rng.below(most) {
                let ask = self.pick_ask();
                let Some(asked) = self.ask(ask) else { continue };
                let moment = self.lab.world().sleep(self.rng.millis(8000));
                self.lab.world().spawn_outside(async move {
                    moment.await;
                    asked.await;
                });
            }
            if self.crashes && self.rng.one_in(2) {
                let after = self.lab.ledger().len() + 1 + self.rng.below(120);
                self.lab.ledger().crash_after(after);
            }
            let pause = self.rng.millis(60_000);
            self.lab.advance(pause);
            self.rise();
        }
    }

    /// Everything behaves, all becomes quiet and balances; then everything is deleted and nothing is left.
    pub(crate) fn end(&mut self) {
        self.rise();
        self.lab.ledger().no_crash();
        self.crashes = false;
        for name in &self.names {
            self.lab.script(name).behave();
        }
        self.lab.platform().behave();
        self.lab.journal().behave();
        self.lab.agents().always(AgentBehaviour::After(Duration::from_millis(1)));
        // Whoever asked and still waits gets an answer before the end begins.
        self.lab.advance(Duration::from_mins(10));
        self.quiet("after the history");
        self.lab.assert_sound();
        for id in self.ids() {
            let (engine, request) = (self.lab.engine(), self.lab.request());
            let deleted = self.lab.block_on(async move { engine.delete(request, id, false).await });
            if let Err(error) = deleted {
                panic!("seed {}: a delete is refused: {error}\n{:?}", self.seed(), self.lab.ledger());
            }
        }
        self.quiet("after all was deleted");
        self.lab.assert_sound();
        self.nothing_is_left();
    }

    fn quiet(&self, when: &str) {
        assert!(
            self.lab.quiesce(Duration::from_hours(12)),
            "seed {}: not quiet {when}: open {:?}, {} calls on their way, owed {:?}\n{:?}",
            self.seed(),
            self.lab.journal().operations().into_values().filter(|op| op.outcome.is_none()).collect::<Vec<_>>(),
            self.lab.platform().in_flight(),
            self.lab.journal().obligations(),
            self.lab.ledger()
        );
    }

    fn nothing_is_left(&self) {
        let (journal, ledger) = (self.lab.journal(), self.lab.ledger());
        let rows = journal.rows();
        assert!(rows.is_empty(), "seed {}: rows are left: {rows:#?}\n{ledger:?}", self.seed());
        let held: Vec<_> = ledger.held().into_keys().filter(|(_, key)| !key.ends_with("/workspace")).collect();
        assert!(held.is_empty(), "seed {}: held for nobody: {held:?}\n{ledger:?}", self.seed());
        let states: Vec<_> = journal.states().into_keys().collect();
        assert!(states.is_empty(), "seed {}: states of nobody: {states:?}\n{ledger:?}", self.seed());
        let obligations = journal.obligations();
        assert!(obligations.is_empty(), "seed {}: obligations: {obligations:#?}\n{ledger:?}", self.seed());
    }
}

async fn create(engine: Engine, request: Request, name: &'static str) {
    let name = Some(SandboxName::new(name).expect("a valid name"));
    drop(engine.create(request, CreateRequest { name, ..CreateRequest::default() }).await);
}
