//! The kit finds nothing in a driver that keeps every rule.

use chiton_driver_conform::{CASES, Declared, Group, Outcome, run};
use chiton_driver_scripted::Fault;

mod common;

use common::Driver;

#[tokio::test(flavor = "multi_thread")]
async fn the_reference_driver_passes_every_case() {
    let driver = Driver::with(&[]);
    let report = driver.report().await;
    assert!(report.passed(), "{report}");
    let passed = report.named(|outcome| *outcome == Outcome::Pass);
    assert_eq!(passed, CASES.iter().map(|case| case.name).collect::<Vec<_>>(), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_restart_and_a_shell_what_needs_them_is_declared() {
    let driver = Driver::with(&[]);
    let mut options = driver.options();
    options.restart = None;
    options.shell.clear();
    let report = run(options, |_| {}).await.unwrap();
    assert!(report.passed(), "{report}");
    let declared = report.named(|outcome| matches!(outcome, Outcome::Declared { found: None, .. }));
    assert_eq!(
        declared,
        [
            "process::exit_code_is_told",
            "process::environment_arrives",
            "process::arguments_arrive",
            "quantity::memory_is_applied_or_refused",
            "restart::forgets_nothing",
            "restart::creates_stay_idempotent",
            "restart::watches_begin_with_everything",
            "restart::deleted_stay_deleted",
            "restart::under_load",
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declared_failure_is_shown_as_declared_and_one_that_passes_as_such() {
    let driver = Driver::with(&[Fault::BadVersion]);
    let declared = r#"
        "capabilities::version_is_sound" = "versions are names here"
        "capabilities::name_is_sound" = "not yet"
    "#;
    let mut options = driver.options();
    options.filter = "capabilities::".to_owned();
    options.declared = Declared::parse("declared.toml", declared).unwrap();
    let report = run(options.clone(), |_| {}).await.unwrap();
    assert!(report.passed(), "{report}");
    let of = |name: &str| report.results.iter().find(|result| result.case == name).unwrap().outcome.clone();
    let Outcome::Declared { why, found: Some(found), .. } = of("capabilities::version_is_sound") else {
        panic!("{report}");
    };
    assert_eq!(why, "versions are names here");
    assert!(found.found.contains("the newest"), "{found}");
    assert_eq!(of("capabilities::name_is_sound"), Outcome::PassDeclared { why: "not yet".to_owned() });
    options.strict = true;
    let strict = run(options, |_| {}).await.unwrap();
    assert!(!strict.passed(), "{strict}");
}

#[tokio::test]
async fn where_nobody_listens_the_error_names_the_path() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = chiton_driver_conform::Options::new(folder.path().join("nobody.sock"));
    options.limits = common::hasty();
    let error = run(options, |_| {}).await.unwrap_err();
    assert!(error.message.contains("nobody.sock"), "{error}");
    assert!(error.cure.is_some(), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_runs_what_its_cases_need_and_an_unknown_one_is_refused() {
    let driver = Driver::with(&[]);
    let mut options = driver.options();
    "ready::comes".clone_into(&mut options.filter);
    let report = run(options.clone(), |_| {}).await.unwrap();
    let all = report.named(|outcome| *outcome == Outcome::Pass);
    let needed = ["contract::answers", "list::answers", "create::is_answered", "get::finds_it", "delete::removes_it"];
    assert_eq!(all, [&needed[..], &["ready::comes"]].concat(), "{report}");
    "nothing like it".clone_into(&mut options.filter);
    let error = run(options, |_| {}).await.unwrap_err();
    assert!(error.message.contains("nothing like it"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reference_driver_keeps_every_drivers_promises() {
    let driver = Driver::with(&[]);
    let mut options = driver.options();
    options.groups = [Group::Behaviour].into();
    let declared = r#"
        "behaviour::start::keeps_files" = "its sandboxes are plain processes and have no files of their own"
        "behaviour::limit::memory_bites" = "its limit is one of addresses: allocations fail, and nobody is killed"
    "#;
    options.declared = Declared::parse("declared.toml", declared).unwrap();
    let report = run(options, |_| {}).await.unwrap();
    // Of the case whose sandbox has no files of its own.
    drop(std::fs::remove_file("/tmp/kept"));
    assert!(report.passed(), "{report}");
    let passed = report.named(|outcome| *outcome == Outcome::Pass);
    for case in [
        "create::ten_at_once_make_one",
        "create::never_after_delete",
        "delete::during_create",
        "exit::code_is_reported",
    ] {
        assert!(passed.contains(&format!("behaviour::{case}").as_str()), "{case}\n{report}");
    }
}
