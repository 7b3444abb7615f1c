//! The table as people see it.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;

use super::{MakeBench, Table};
use crate::case::CASES;
use crate::verdict::{Failure, Outcome, Report, Stop};

fn report(bench: &str, number: usize, outcome: Outcome) -> Report {
    Report { bench: bench.to_owned(), case: CASES[number].name, outcome, took: Duration::from_millis(1234) }
}

#[test]
fn each_driver_has_a_column_and_each_reason_a_line() {
    let table = Table {
        reports: vec![
            report("oci", 0, Outcome::Passed),
            report("oci", 1, Outcome::Skipped("no such thing".to_owned())),
            report("docker", 0, Outcome::Failed("two plans".to_owned())),
        ],
    };
    let text = table.to_string();
    let lines: Vec<&str> = text.lines().collect();
    let words = |line: &str| line.split_whitespace().map(ToOwned::to_owned).collect::<Vec<_>>();
    assert_eq!(words(lines[0]), ["case", "oci", "docker"]);
    assert_eq!(words(lines[1]), [CASES[0].name, "1.2", "s", "FAILED"]);
    assert_eq!(words(lines[2]), [CASES[1].name, "skipped"]);
    assert_eq!(lines[3], "oci: 1 passed, 0 failed, 1 skipped");
    assert_eq!(lines[4], "docker: 0 passed, 1 failed, 0 skipped");
    assert!(text.contains(&format!("oci: {} skipped: no such thing", CASES[1].name)), "{text}");
    assert!(text.contains(&format!("docker: {} failed: two plans", CASES[0].name)), "{text}");
    assert!(!table.passed());
}

#[tokio::test]
async fn a_bench_that_cannot_be_made_is_in_the_table() {
    let none: MakeBench = Arc::new(|| async { Err(Stop::Skipped("no engine".to_owned())) }.boxed());
    let broken: MakeBench = Arc::new(|| async { Err(Failure::bench("start", "it is broken").into()) }.boxed());
    let mut told = 0;
    let table = Table::run(&[("a", none), ("b", broken)], "plan::", 2, |_| told += 1).await;
    let plans = CASES.iter().filter(|case| case.name.starts_with("plan::")).count();
    assert_eq!((told, table.reports.len()), (2 * plans, 2 * plans));
    assert!(table.reports[..plans].iter().all(|report| report.outcome == Outcome::Skipped("no engine".to_owned())));
    assert!(table.reports[plans..].iter().all(|report| matches!(report.outcome, Outcome::Failed(_))));
    let json = serde_json::to_value(&table.reports[0]).unwrap();
    assert_eq!(json["outcome"], "skipped");
    assert_eq!(json["why"], "no engine");
}

#[test]
fn names_of_cases_are_unique() {
    let names: std::collections::BTreeSet<&str> = CASES.iter().map(|case| case.name).collect();
    assert_eq!(names.len(), CASES.len());
}
