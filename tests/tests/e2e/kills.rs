//! A gateway that dies in the midst of everything: the short form of `cargo xtask crash`. After the last death, and
//! after some of those before, whatever is on the machine is owned by a sandbox, undone or owed; at the end everything
//! can be deleted and nothing is left.
//!
//! The seed is printed; `CHITON_E2E_SEED` plays it again, `CHITON_E2E_KILLS` says how often. A replay makes the same
//! choices; what the machine does in the meantime is its own.

use std::time::Duration;

use chiton_tests::crash::{Options, Report, run};
use chiton_tests::recovery::creates_in_flight;
use rand::Rng as _;

use crate::harness::{PROGRAM, Share, root, share};

/// How long an engine on this machine may work on what a dead gateway asked for.
const LATE: Duration = Duration::from_secs(5);

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{variable}={text:?}: {error}")))
}

/// Nothing leaked, and the run was one that could have shown it.
pub(crate) fn killed(driver: &str, kills: u64, beside: Share) -> Report {
    let _share = share(beside);
    let seed = number("CHITON_E2E_SEED").unwrap_or_else(|| rand::rng().random());
    println!("CHITON_E2E_SEED={seed}");
    let kills = number("CHITON_E2E_KILLS").unwrap_or(kills);
    let options = Options {
        program: PROGRAM.into(),
        driver: driver.to_owned(),
        kills,
        seed,
        audit_every: 4,
        engine_kills: 0,
        late: LATE,
        wait_late: false,
        verbose: false,
    };
    let report = run(&options).expect("a run");
    let text = serde_json::to_string_pretty(&report).expect("JSON");
    println!("{text}");
    assert!(
        report.leaks.is_empty(),
        "{} leaks; again: {}\n{}",
        report.leaks.len(),
        report.replay,
        report.leaks.join("\n")
    );
    assert_eq!(report.kills.gateway, kills);
    assert!(report.operations.resumed > 0 && report.audits > 0, "{text}");
    report
}

#[test]
fn a_gateway_that_is_killed_at_any_moment_leaves_nothing_that_nobody_owns() {
    if !root() {
        return;
    }
    let report = killed("oci", 50, Share::Whole);
    assert!(report.kills.recovering > 0 && report.audits > 1, "{:?} {}", report.kills, report.audits);
    let sent = |kinds: &[&str]| kinds.iter().filter_map(|kind| report.requests.sent.get(*kind)).sum::<u64>();
    assert!(sent(&["create"]) > 0 && sent(&["delete"]) > 0, "{:?}", report.requests);
    assert!(sent(&["start", "stop", "exec"]) > 0, "no sandbox ever ran: {:?}", report.requests);
}

#[test]
fn a_thousand_creates_that_a_kill_interrupted_are_all_undone() {
    let _share = share(Share::Whole);
    let folder = tempfile::tempdir().expect("a folder");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let recovery = runtime.block_on(creates_in_flight(PROGRAM.as_ref(), folder.path(), 1000));
    let recovery = recovery.unwrap_or_else(|why| panic!("{why}"));
    println!("{recovery:?}");
    assert_eq!((recovery.live, recovery.unwound), (0, 1000));
}
