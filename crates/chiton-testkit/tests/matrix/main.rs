//! The crash matrix: every crash point × operation × chain × fault × what becomes of the disk × a second crash.
//!
//! The default run takes an even sample of all cells. `CHITON_CELLS=100000` takes more, `CHITON_CELLS=all` all, and
//! `CHITON_SEED` another sample; a failure prints its cell, and `CHITON_CELL='…'` runs it alone. At length it is best run
//! optimised: `cargo test --profile matrix -p chiton-testkit --test matrix`.

mod cell;
mod life;
mod points;
mod run;
mod scene;

use std::env;
use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{available_parallelism, scope};
use std::time::Instant;

use chiton_testkit::Rng;

use crate::cell::{Cell, Setting, settings};

/// How many cells the default run takes.
const SAMPLE: usize = 400;
/// So many failures tell the story.
const ENOUGH: usize = 20;

fn number(variable: &str, standing: u64) -> u64 {
    env::var(variable).map_or(standing, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

/// How many cells to take; none for all.
fn wanted() -> Option<usize> {
    match env::var("CHITON_CELLS").ok().as_deref() {
        None => Some(SAMPLE),
        Some("all") => None,
        Some(text) => Some(text.parse().expect("CHITON_CELLS is a number or all")),
    }
}

fn replay(cell: Cell, why: &str) -> String {
    let cell = serde_json::to_string(&cell).expect("a cell is plain data");
    format!("{why}\nreplay: CHITON_CELL='{cell}' cargo test -p chiton-testkit --test matrix whatever")
}

/// What a run of many cells came to.
#[derive(Default)]
struct Tally {
    cells: usize,
    crashes: usize,
    failed: Vec<(Cell, String)>,
}

impl Tally {
    fn run(&mut self, setting: Setting, share: Option<usize>, rng: &mut Rng) {
        let mut cells = cell::cells(setting, run::rehearse(setting).moments, rng);
        if let Some(share) = share {
            cells = (0..share.min(cells.len())).map(|_| cells.swap_remove(rng.below(cells.len()))).collect();
        }
        for cell in cells {
            self.cells += 1;
            match run::run(cell) {
                Ok(crashes) => self.crashes += crashes,
                Err(why) => {
                    println!("failed: {}", replay(cell, why.lines().next().unwrap_or_default()));
                    self.failed.push((cell, why));
                }
            }
        }
    }
}

#[test]
fn whatever_crashes_wherever_nothing_is_lost_and_nothing_is_left() {
    if let Ok(text) = env::var("CHITON_CELL") {
        let cell: Cell = serde_json::from_str(&text).expect("CHITON_CELL is a cell");
        if let Err(why) = run::run(cell) {
            panic!("{}", replay(cell, &why));
        }
        return;
    }
    let (seed, wanted, all) = (number("CHITON_SEED", 1), wanted(), settings());
    // An even share of the settings, and of the cells of each: the sample has every operation, chain, fault and driver.
    let every = wanted.map_or(1, |cells| (all.len() / cells.max(1)).max(1));
    let share = wanted.map(|cells| cells.div_ceil(all.len()));
    let first = Rng::new(seed).below(every);
    let chosen: Vec<Setting> = all.iter().copied().skip(first).step_by(every).collect();
    let (next, failures, begun) = (AtomicUsize::new(0), AtomicUsize::new(0), Instant::now());
    let tallies = Mutex::new(Vec::new());
    scope(|threads| {
        for _ in 0..available_parallelism().map_or(1, NonZero::get) {
            threads.spawn(|| {
                let mut tally = Tally::default();
                while failures.load(Ordering::Relaxed) < ENOUGH {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(setting) = chosen.get(index) else { break };
                    // The choice does not depend on which thread makes it.
                    let mut rng = Rng::new(seed ^ u64::try_from(index).unwrap_or(0) << 20);
                    let before = tally.failed.len();
                    tally.run(*setting, share, &mut rng);
                    failures.fetch_add(tally.failed.len() - before, Ordering::Relaxed);
                }
                tallies.lock().expect("no cell panics through").push(tally);
            });
        }
    });
    let (mut cells, mut crashes, mut failed) = (0, 0, Vec::new());
    for tally in tallies.into_inner().expect("no cell panics through") {
        cells += tally.cells;
        crashes += tally.crashes;
        failed.extend(tally.failed);
    }
    let (worlds, took) = (chosen.len(), begun.elapsed());
    println!("{cells} cells of {worlds} worlds, {crashes} crashes, {} failed, {took:?}", failed.len());
    if let Some((cell, why)) = failed.first() {
        panic!("{} of {cells} cells failed; the first:\n{}", failed.len(), replay(*cell, why));
    }
}
