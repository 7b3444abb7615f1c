//! Random histories: whatever a world does to the engine, once all is quiet the ledger balances and, once every sandbox
//! is deleted, nothing is left.
//!
//! A failure prints its seed. `CHITON_SEED=<seed>` replays that one history; `CHITON_CASES=<n>` runs more of them.

mod play;
mod random;

use play::Play;

/// How many histories a default run plays: seconds, not minutes.
const CASES: u64 = 120;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("the variable holds a whole number"))
}

/// The seeds of a run. Each family of tests has seeds of its own.
fn seeds(family: u64) -> Box<dyn Iterator<Item = u64>> {
    if let Some(seed) = number("CHITON_SEED") {
        return Box::new(std::iter::once(seed));
    }
    let cases = number("CHITON_CASES").unwrap_or(CASES);
    Box::new((0..cases).map(move |case| family * 1_000_000 + case))
}

/// Plays one history a seed. Every seed that fails is named with the first line of why.
fn for_each_seed(family: u64, play: impl Fn(u64)) {
    let mut failed = Vec::new();
    for seed in seeds(family) {
        let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| play(seed)));
        if let Err(panic) = played {
            let why = panic.downcast_ref::<String>().map_or("no message", String::as_str);
            failed.push(format!("CHITON_SEED={seed}: {}", why.lines().next().unwrap_or_default()));
        }
    }
    assert!(failed.is_empty(), "{} histories fail; replay one by its seed:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn without_crashes_every_history_is_sound_and_leaves_nothing() {
    for_each_seed(1, |seed| {
        let mut play = Play::new(seed, false);
        play.actions(6);
        play.end();
    });
}

#[test]
fn with_crashes_every_history_is_sound_and_leaves_nothing() {
    for_each_seed(2, |seed| {
        let mut play = Play::new(seed, true);
        play.actions(8);
        play.end();
    });
}

#[test]
fn operations_that_race_on_one_sandbox_are_sound_and_leave_nothing() {
    for_each_seed(3, |seed| {
        let mut play = Play::new(seed, false);
        play.races(10);
        play.end();
    });
}

#[test]
fn operations_that_race_while_the_gateway_crashes_are_sound_and_leave_nothing() {
    for_each_seed(4, |seed| {
        let mut play = Play::new(seed, true);
        play.races(10);
        play.end();
    });
}
