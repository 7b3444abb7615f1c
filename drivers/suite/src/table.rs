//! Drivers × cases, for people.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{self, StreamExt as _};

use crate::bench::Bench;
use crate::case::{CASES, run};
use crate::verdict::{Outcome, Report, Stop, Verdict};

/// Makes a bench for one case.
pub type MakeBench = Arc<dyn Fn() -> BoxFuture<'static, Verdict<Arc<dyn Bench>>> + Send + Sync>;

/// What became of every case on every bench.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// In the order of [`CASES`], bench by bench.
    pub reports: Vec<Report>,
}

impl Table {
    /// Runs every case whose name contains `filter` on every bench, so many at a time, and tells of each as it ends.
    pub async fn run(
        benches: &[(&str, MakeBench)],
        filter: &str,
        at_a_time: usize,
        mut told: impl FnMut(&Report),
    ) -> Self {
        let mut reports = Vec::new();
        for (name, make) in benches {
            let cases = CASES.iter().filter(|case| case.name.contains(filter));
            let runs = cases.map(|case| {
                let (name, make) = ((*name).to_owned(), Arc::clone(make));
                async move {
                    let mut report = match make().await {
                        Ok(bench) => run(case, bench).await,
                        Err(stop) => {
                            let outcome = match stop {
                                Stop::Skipped(why) => Outcome::Skipped(why),
                                Stop::Failed(failure) => Outcome::Failed(failure.to_string()),
                            };
                            Report { bench: name.clone(), case: case.name, outcome, took: std::time::Duration::ZERO }
                        }
                    };
                    report.bench = name;
                    report
                }
            });
            let mut runs = stream::iter(runs).buffered(at_a_time.max(1));
            while let Some(report) = runs.next().await {
                told(&report);
                reports.push(report);
            }
        }
        Self { reports }
    }

    /// Whether nothing failed.
    pub fn passed(&self) -> bool {
        !self.reports.iter().any(|report| matches!(report.outcome, Outcome::Failed(_)))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut benches: Vec<&str> = Vec::new();
        let mut cells = BTreeMap::new();
        for report in &self.reports {
            if !benches.contains(&report.bench.as_str()) {
                benches.push(&report.bench);
            }
            cells.insert((report.case, report.bench.as_str()), report);
        }
        let width = CASES.iter().map(|case| case.name.len()).max().unwrap_or_default();
        let wide = |bench: &str| bench.len().max(8);
        write!(f, "{:width$}", "case")?;
        for bench in &benches {
            write!(f, "  {bench:>wide$}", wide = wide(bench))?;
        }
        let mut notes = Vec::new();
        for case in CASES.iter().filter(|case| self.reports.iter().any(|report| report.case == case.name)) {
            write!(f, "\n{:width$}", case.name)?;
            for bench in &benches {
                let cell = match cells.get(&(case.name, *bench)) {
                    None => String::new(),
                    Some(report) => match &report.outcome {
                        Outcome::Passed => format!("{:.1} s", report.took.as_secs_f64()),
                        Outcome::Failed(_) => "FAILED".to_owned(),
                        Outcome::Skipped(_) => "skipped".to_owned(),
                    },
                };
                write!(f, "  {cell:>wide$}", wide = wide(bench))?;
            }
            notes.extend(benches.iter().filter_map(|bench| match &cells.get(&(case.name, *bench))?.outcome {
                Outcome::Passed => None,
                Outcome::Failed(why) => Some(format!("{bench}: {} failed: {why}", case.name)),
                Outcome::Skipped(why) => Some(format!("{bench}: {} skipped: {why}", case.name)),
            }));
        }
        for bench in &benches {
            let of = |wanted: fn(&Outcome) -> bool| {
                self.reports.iter().filter(|report| report.bench == **bench && wanted(&report.outcome)).count()
            };
            write!(
                f,
                "\n{bench}: {} passed, {} failed, {} skipped",
                of(|outcome| *outcome == Outcome::Passed),
                of(|outcome| matches!(outcome, Outcome::Failed(_))),
                of(|outcome| matches!(outcome, Outcome::Skipped(_)))
            )?;
        }
        notes.iter().try_for_each(|note| write!(f, "\n{note}"))
    }
}

#[cfg(test)]
mod tests;
