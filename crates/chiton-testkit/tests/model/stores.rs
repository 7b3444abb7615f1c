//! Stores that are backed up, restored and copied, and a second gateway on the same platform: whatever the sequence, an
//! object disappears only by a committed delete or unwind of its id or by a sweep in its epoch, and nothing is freed that a
//! live object still uses.

use std::sync::Arc;
use std::time::Duration;

use chiton_lifecycle::CreateRequest;
use chiton_lifecycle::extension::ReconcileSupport;
use chiton_model::{Phase, SandboxId, SandboxName, StoreEpoch};
use chiton_testkit::{
    Act, AgentBehaviour, Backup, Behaviour, Call, DriverSpec, ExtensionScript, Lab, MemoryJournal, Rng,
};
use parking_lot::Mutex;

/// How many sequences a default run plays.
const CASES: u64 = 40;

struct Play {
    lab: Lab,
    rng: Rng,
    /// Stores that are not open now: other gateways' and copies.
    others: Vec<MemoryJournal>,
    /// Backups of the open store.
    backups: Vec<Backup>,
    /// Which older life the next start takes over.
    adopt: Arc<Mutex<Option<StoreEpoch>>>,
    adopted: usize,
    restored: usize,
}

impl Play {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0xc0_51de);
        let adopt: Arc<Mutex<Option<StoreEpoch>>> = Arc::default();
        let taken = Arc::clone(&adopt);
        let mut spec = DriverSpec::new("fake");
        if rng.one_in(3) {
            spec = spec.remote();
        }
        let authoritative = |name: &str| {
            ExtensionScript::everywhere(name).declare(|own| own.reconcile = ReconcileSupport::Authoritative)
        };
        let lab = Lab::new(seed)
            .driver(spec)
            .extension_with(authoritative("lease").saves(), |policy| policy.authoritative = true)
            .extension(ExtensionScript::everywhere("second"))
            .configure(move |config| config.adopt_epoch.clone_from(&taken.lock()));
        let (others, backups) = (Vec::new(), Vec::new());
        let mut play = Self { lab, rng, others, backups, adopt, adopted: 0, restored: 0 };
        play.lab.start();
        play
    }

    fn rows(&self) -> Vec<SandboxId> {
        self.lab.journal().rows().into_keys().collect()
    }

    /// Names are few, so that they are used again.
    fn create(&mut self) {
        if self.rng.one_in(4) {
            let behaviour = match self.rng.below(3) {
                0 => Behaviour::HangDone(self.rng.millis(90_000)),
                1 => Behaviour::Fail(Duration::ZERO, "scripted".to_owned()),
                _ => Behaviour::Unknown(Duration::from_secs(1), Some(self.rng.millis(200_000))),
            };
            self.lab.platform().next(Call::Create, behaviour);
        }
        if self.rng.one_in(6) {
            self.lab.script("lease").next(Phase::AfterReady, Act::Slow(Duration::from_secs(25)));
        }
        let name = SandboxName::new(*self.rng.pick(&["one", "two", "three"])).expect("valid");
        let (engine, request) = (self.lab.engine(), self.lab.request());
        let create = CreateRequest { name: Some(name), ..CreateRequest::default() };
        self.lab.world().spawn_outside(async move { drop(engine.create(request, create).await) });
    }

    fn act(&mut self) {
        let rows = self.rows();
        if rows.is_empty() {
            return self.create();
        }
        let id = self.rng.pick(&rows).clone();
        let (engine, request, kind) = (self.lab.engine(), self.lab.request(), self.rng.below(5));
        self.lab.world().spawn_outside(async move {
            // A refusal is an answer too: what is held is refused.
            match kind {
                0 | 1 => drop(engine.delete(request, id, kind == 1).await),
                2 | 3 => drop(engine.stop(request, id).await),
                _ => drop(engine.start(request, id).await),
            }
        });
    }

    fn fall(&mut self) {
        if self.rng.one_in(4) { self.lab.power_loss() } else { self.lab.crash() }
    }

    /// A copy or an older state that nobody told the gateway about is only safe where the platform shows it: where the
    /// original made something since that still exists. Else the store itself must notice, as it does by the folder's inode
    /// and the machine's id.
    fn renewed(&mut self, journal: &MemoryJournal) {
        let info = journal.info();
        let shows = self.lab.platform().newest(&info).is_some_and(|newest| newest > info.last_commit);
        if !shows || self.rng.one_in(2) {
            journal.renew_epoch();
        }
    }

    fn step(&mut self) {
        match self.rng.below(20) {
            0..=5 => self.create(),
            6..=9 => self.act(),
            10 => self.backups.push(self.lab.journal().backup()),
            11 => {
                self.fall();
                self.lab.start();
            }
            12 | 13 if !self.backups.is_empty() => {
                // What was made since lives on, and the store does not know it any more.
                self.fall();
                let backup = self.backups[self.rng.below(self.backups.len())].clone();
                let journal = self.lab.journal().clone();
                let old = backup.info();
                journal.restore(&backup);
                self.renewed(&journal);
                let held = journal.rows().values().any(|row| row.epoch == old.epoch);
                if self.rng.one_in(3) && held && journal.info().epoch != old.epoch {
                    *self.adopt.lock() = Some(old.epoch);
                    self.adopted += 1;
                    // Gone for good is what the operator said; so are its copies.
                    self.others.retain(|other| other.info().gateway != old.gateway);
                }
                self.lab.start();
                *self.adopt.lock() = None;
                self.restored += 1;
            }
            14 => {
                self.fall();
                let copy = self.lab.journal().copy();
                let original = self.lab.swap_store(copy);
                self.others.push(original);
                let copy = self.lab.journal().clone();
                self.renewed(&copy);
                self.backups.clear();
                self.lab.start();
            }
            15 => {
                self.fall();
                let fresh = MemoryJournal::new(self.lab.ledger());
                let original = self.lab.swap_store(fresh);
                self.others.push(original);
                self.backups.clear();
                self.lab.start();
            }
            16 | 17 if !self.others.is_empty() => {
                self.fall();
                let other = self.others.swap_remove(self.rng.below(self.others.len()));
                let left = self.lab.swap_store(other);
                self.others.push(left);
                self.backups.clear();
                self.lab.start();
            }
            _ => {}
        }
        let pause = if self.rng.one_in(2) { self.rng.millis(3000) } else { self.rng.millis(2_400_000) };
        self.lab.advance(pause);
    }

    fn end(mut self) -> (usize, usize) {
        self.lab.platform().behave();
        self.lab.agents().always(AgentBehaviour::After(Duration::from_millis(1)));
        // Every store has its time to sweep.
        for _ in 0..=self.others.len() {
            self.lab.advance(Duration::from_hours(1));
            self.lab.crash();
            if let Some(other) = self.others.pop() {
                let left = self.lab.swap_store(other);
                self.others.insert(0, left);
            }
            self.lab.start();
        }
        self.lab.advance(Duration::from_hours(1));
        let ledger = self.lab.ledger();
        let seed = self.lab.world().seed();
        for (name, checked) in [
            ("only its owner removes", ledger.only_owners_remove()),
            ("no release before absence", ledger.no_release_before_absence()),
            ("intent before effect", ledger.intent_before_effect()),
            ("never made again", ledger.never_recreated()),
        ] {
            checked.unwrap_or_else(|why| panic!("CHITON_SEED={seed}: {name}: {why}\n{ledger:?}"));
        }
        assert_eq!(ledger.violations(), Vec::<String>::new(), "CHITON_SEED={seed}\n{ledger:?}");
        (self.restored, self.adopted)
    }
}

#[test]
fn no_store_removes_what_lives_in_another_nor_what_it_made_in_another_life() {
    let one = crate::number("CHITON_SEED");
    let cases = crate::number("CHITON_CASES").unwrap_or(CASES);
    let seeds: Vec<u64> = one.map_or_else(|| (0..cases).map(|case| 5_000_000 + case).collect(), |seed| vec![seed]);
    let (mut restored, mut adopted) = (0, 0);
    for seed in seeds {
        let mut play = Play::new(seed);
        for _ in 0..24 {
            play.step();
        }
        let counted = play.end();
        restored += counted.0;
        adopted += counted.1;
    }
    assert!(one.is_some() || (restored > 0 && adopted > 0), "{restored} restores, {adopted} adoptions");
}
