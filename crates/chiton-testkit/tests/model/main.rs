//! Operations that overlap: a reference model of the conflict table and of request ids, who waits for whom and how long,
//! and stores that are backed up, restored and copied.
//!
//! A failure of the model is shrunk and prints its seed: `CHITON_SEED=<seed> cargo test -p chiton-testkit --test model model`
//! replays and shrinks that one history; `CHITON_CASES=<n>` runs more of them.

mod machine;
mod real;
mod reference;
mod starvation;
mod stores;
mod table;

use std::collections::BTreeSet;

use chiton_model::OperationKind;
use parking_lot::Mutex;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest};

use crate::machine::Machine;
use crate::real::Beside;

/// How many histories a default run holds against the model.
const CASES: u64 = 240;

/// Which cells of the conflict table were met in this process.
static MET: Mutex<BTreeSet<(OperationKind, OperationKind)>> = Mutex::new(BTreeSet::new());

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("the variable holds a whole number"))
}

/// Runs a strategy's one value of a seed; a failure is shrunk.
fn replay(seed: u64) -> Result<(), String> {
    let config = Config { cases: 1, failure_persistence: None, max_shrink_iters: 4000, ..Config::default() };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config.clone(), rng);
    let run = runner.run(&Machine::sequential_strategy(1..60), |(initial, transitions, seen)| {
        Beside::test_sequential(config.clone(), initial, transitions, seen);
        Ok::<(), TestCaseError>(())
    });
    run.map_err(|error| match error {
        TestError::Fail(why, (initial, transitions, _)) => {
            let history: Vec<String> = transitions.iter().map(|transition| format!("  {transition:?}")).collect();
            let history = history.join("\n");
            let closed = initial.closed;
            format!("CHITON_SEED={seed}: {why}\nthe shortest history, doors closed at first: {closed}:\n{history}")
        }
        TestError::Abort(why) => format!("CHITON_SEED={seed}: {why}"),
    })
}

#[test]
fn every_history_answers_and_ends_as_the_model_says_and_meets_every_cell_of_the_conflict_table() {
    let one = number("CHITON_SEED");
    let cases = number("CHITON_CASES").unwrap_or(CASES);
    let seeds: Vec<u64> = one.map_or_else(|| (0..cases).collect(), |seed| vec![seed]);
    for seed in seeds {
        if let Err(why) = replay(seed) {
            panic!("{why}");
        }
    }
    if one.is_some() {
        return;
    }
    let met = MET.lock();
    let missed: Vec<_> = table::cells().into_iter().filter(|cell| !met.contains(cell)).collect();
    assert!(missed.is_empty(), "never met, as (running, asked): {missed:?}");
}
