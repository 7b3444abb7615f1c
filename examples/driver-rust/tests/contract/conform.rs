//! The kit that any driver can be held against.

use std::sync::Arc;

use chiton_driver_conform::{CASES, Options, Outcome, Restart, run};
use tokio::sync::Mutex;

use crate::subject::Subject;

pub(crate) async fn the_kit_finds_nothing(subject: Subject) {
    let socket = subject.socket();
    let subject = Arc::new(Mutex::new(subject));
    let held = Arc::clone(&subject);
    let restart = Restart::With(Arc::new(move || {
        let held = Arc::clone(&held);
        Box::pin(async move {
            held.lock().await.killed_and_back();
            Ok(())
        })
    }));
    let report = run(Options { restart: Some(restart), ..Options::new(socket) }, |_| {}).await.unwrap();
    assert!(report.passed(), "{report}");
    // What it has no use for, and says so: optional calls, and secret variables.
    let declared = report.named(|outcome| matches!(outcome, Outcome::Declared { found: None, .. }));
    let unused =
        ["listener::requirements_are_sound", "workspace::calls_are_idempotent", "secret::environment_is_not_shown"];
    assert_eq!(declared, unused, "{report}");
    let passed = report.named(|outcome| *outcome == Outcome::Pass).len();
    assert_eq!(passed + unused.len(), CASES.len(), "{report}");
    let subject = subject.lock().await;
    subject.nothing_left().await;
}
