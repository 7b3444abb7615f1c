//! The kit over a driver that knows only the public contract. What every driver promises a gateway (the other group) is told
//! by exit codes and cannot be looked at there.

use chiton_driver_conform::{By, CASES, Outcome};

mod common;

use common::Driver;

#[tokio::test(flavor = "multi_thread")]
async fn a_stock_driver_passes_and_what_it_lacks_it_declares_itself() {
    let report = Driver::stock().report().await;
    assert!(report.passed(), "{report}");
    let lacks = report.named(|outcome| matches!(outcome, Outcome::Declared { by: By::Driver, found: None, .. }));
    assert_eq!(
        lacks,
        [
            "capabilities::backend_is_named",
            "listener::requirements_are_sound",
            "health::says_serving",
            "workspace::calls_are_idempotent",
            "process::exit_code_is_told",
            "process::environment_arrives",
            "process::arguments_arrive",
            "quantity::memory_is_applied_or_refused",
            "secret::environment_is_not_shown",
            "watch::marks_the_snapshots_end",
        ],
        "{report}"
    );
    let passed = report.named(|outcome| *outcome == Outcome::Pass);
    assert_eq!(passed.len() + lacks.len(), CASES.len(), "{report}");
}
