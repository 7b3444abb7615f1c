//! The kit that any driver can be held against.

use std::sync::Arc;

use chiton_driver_conform::{Declared, Options, Outcome, Restart, run};
use tokio::sync::Mutex;

use crate::subject::Subject;

/// What processes without any isolation cannot pass.
const DECLARED: &str = r#"
"behaviour::start::keeps_files" = "it writes to /tmp, which is the host's own"
"behaviour::limit::memory_bites" = "a process that asks for more is refused it, and nobody is killed"
"behaviour::secret::reaches_the_process_only" = "secret variables are not taken"
"#;

/// Cases of every driver that apply to these.
const LIFE: &[&str] = &[
    "behaviour::create::repeats",
    "behaviour::create::ten_at_once_make_one",
    "behaviour::create::never_after_delete",
    "behaviour::create::twenty_at_once",
    "behaviour::start::runs",
    "behaviour::start::of_nothing_is_refused",
    "behaviour::exit::code_is_reported",
    "behaviour::exit::signal_is_reported",
    "behaviour::exit::is_not_missed",
    "behaviour::exit::program_that_is_missing",
    "behaviour::stop::repeats",
    "behaviour::delete::of_running",
    "behaviour::delete::of_stopped",
    "behaviour::delete::of_absent",
    "behaviour::delete::during_create",
    "behaviour::delete::during_start",
    "behaviour::owner::next_life_sees_all",
    "behaviour::owner::labels_win",
    "behaviour::watch::begins_with_a_snapshot",
    "behaviour::watch::tells_every_change",
    "behaviour::watch::has_many_watchers",
    "behaviour::text::nul_is_refused",
];

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
    let declared = Declared::parse("declared", DECLARED).unwrap();
    let report = run(Options { restart: Some(restart), declared, ..Options::new(socket) }, |_| {}).await.unwrap();
    assert!(report.passed(), "{report}");
    // Of the contract's own cases only those do not apply that are about what it has no use for, and says so.
    let unused =
        ["listener::requirements_are_sound", "workspace::calls_are_idempotent", "secret::environment_is_not_shown"];
    let own = |names: Vec<&str>| -> Vec<String> {
        names.into_iter().filter(|name| !name.starts_with("behaviour::")).map(ToOwned::to_owned).collect()
    };
    assert_eq!(own(report.named(|outcome| !matches!(outcome, Outcome::Pass))), unused, "{report}");
    // And of what a gateway sees of every driver, the life of a sandbox.
    let passed = report.named(|outcome| *outcome == Outcome::Pass);
    for case in LIFE {
        assert!(passed.contains(case), "{case} did not pass: {report}");
    }
    // Of the case that writes to the host's own.
    drop(std::fs::remove_file("/tmp/kept"));
    let subject = subject.lock().await;
    subject.nothing_left().await;
}
