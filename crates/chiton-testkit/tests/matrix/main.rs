//! The crash matrix: every crash point × operation × chain × fault × what becomes of the disk × a second crash.
//!
//! The default run takes an even sample of all cells, another one for every seed. `CHITON_CELLS=100000` takes more,
//! `CHITON_CELLS=all` all, `CHITON_SEED` another sample; a failure prints its cell, and `CHITON_CELL='…'` runs it alone.

mod cell;
mod run;
mod scene;

use std::collections::BTreeSet;
use std::env;
use std::time::Instant;

use chiton_lifecycle::crash::{Deed, Point, Side};
use chiton_testkit::{Rng, What};

use crate::cell::{Cell, settings};
use crate::scene::Scene;

/// How many cells the default run takes.
const SAMPLE: usize = 4000;

fn seed() -> u64 {
    env::var("CHITON_SEED").map_or(1, |text| text.parse().expect("CHITON_SEED is a number"))
}

fn replay(cell: Cell, why: &str) -> String {
    let cell = serde_json::to_string(&cell).expect("a cell is plain data");
    format!("{why}\nreplay: CHITON_CELL='{cell}' cargo test -p chiton-testkit --test matrix")
}

/// How many cells to take; none for all.
fn wanted() -> Option<usize> {
    match env::var("CHITON_CELLS").ok().as_deref() {
        None => Some(SAMPLE),
        Some("all") => None,
        Some(text) => Some(text.parse().expect("CHITON_CELLS is a number or all")),
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
    let mut rng = Rng::new(seed());
    let settings = settings();
    let (mut ran, mut crashes, mut failed) = (0, 0, Vec::new());
    // An even share of the settings, and of the cells of each: the sample has every operation, chain, fault and driver.
    let wanted = wanted();
    let every = wanted.map_or(1, |cells| (settings.len() / cells.max(1)).max(1));
    let share = wanted.map(|cells| cells.div_ceil(settings.len()));
    let begun = Instant::now();
    for setting in settings.iter().skip(rng.below(every)).step_by(every) {
        let mut cells = cell::cells(*setting, run::rehearse(*setting).0, &mut rng);
        if let Some(share) = share {
            cells = (0..share.min(cells.len())).map(|_| cells.swap_remove(rng.below(cells.len()))).collect();
        }
        for cell in cells {
            ran += 1;
            match run::run(cell) {
                Ok(done) => crashes += done.crashes,
                Err(why) => {
                    println!("failed: {}", replay(cell, why.lines().next().unwrap_or_default()));
                    failed.push((cell, why));
                }
            }
        }
        if failed.len() >= 40 {
            break;
        }
    }
    println!(
        "{ran} cells of {} worlds, {crashes} crashes, {} failed, {:?}",
        settings.len(),
        failed.len(),
        begun.elapsed()
    );
    if let Some((cell, why)) = failed.first() {
        panic!("{} of {ran} cells failed; the first:\n{}", failed.len(), replay(*cell, why));
    }
}

#[test]
fn every_crash_point_is_reached_and_every_reached_one_is_listed() {
    let listed: BTreeSet<Point> = Point::all().into_iter().collect();
    let mut reached = BTreeSet::new();
    for setting in settings().into_iter().filter(|setting| setting.chain == 2) {
        reached.extend(run::rehearse(setting).1);
    }
    let unlisted: Vec<String> = reached.difference(&listed).map(ToString::to_string).collect();
    let unreached: Vec<String> = listed.difference(&reached).map(ToString::to_string).collect();
    assert!(unlisted.is_empty() && unreached.is_empty(), "not listed: {unlisted:#?}\nnever reached: {unreached:#?}");
}

#[test]
fn every_write_and_every_effect_has_its_points() {
    let _ = (What::Start, Deed::AgentOpened, Side::Before, Scene::new);
}
