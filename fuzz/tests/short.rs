//! Every target for a moment, from a seed that is the same each time. `CHITON_FUZZ_SEED` takes another.

use std::time::Duration;

use chiton_fuzz::run::{Limit, run};
use chiton_fuzz::{TARGETS, target};

#[global_allocator]
static MEMORY: peak_alloc::PeakAlloc = peak_alloc::PeakAlloc;

fn seed() -> u64 {
    std::env::var("CHITON_FUZZ_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// One test, because memory is counted for the whole process and another thread's would count too.
#[test]
fn every_property_of_every_target_holds_for_a_moment() {
    let mut failures = Vec::new();
    for target in TARGETS {
        // A number of inputs, so that a run is the same everywhere; the time is for a machine that stands still.
        match run(target, seed(), Limit { inputs: target.short, time: Duration::from_mins(1) }) {
            Ok(report) => println!("{report}"),
            Err(failure) => failures.push(failure.to_string()),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    the_same_seed_gives_the_same_run();
}

fn the_same_seed_gives_the_same_run() {
    let words = target("words").expect("it is there");
    let run = |seed| {
        let report = run(words, seed, Limit { inputs: 2_000, time: Duration::from_mins(1) }).expect("it holds");
        (report.inputs, report.behaviours)
    };
    assert_eq!(run(7), run(7));
}
