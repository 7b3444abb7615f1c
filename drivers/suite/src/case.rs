//! The list of cases, and the running of one.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;

use crate::bench::Bench;
use crate::stage::Stage;
use crate::verdict::{Failure, Outcome, Report, Stop, Verdict};
use crate::{__driver_cases, cases};

/// No case takes longer, its cleaning up aside.
const LONGEST: Duration = Duration::from_mins(15);

/// One thing that every driver promises.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// `family::what_holds`; stable, reports and declarations use it.
    pub name: &'static str,
    /// The promise, as a sentence.
    pub about: &'static str,
    /// Tries it.
    pub run: fn(Arc<Stage>) -> BoxFuture<'static, Verdict>,
}

macro_rules! list {
    ($($family:ident { $($name:ident: $about:literal,)+ })+) => {
        /// Every case, in the order in which an author meets them.
        pub const CASES: &[Case] = &[$($(Case {
            name: concat!(stringify!($family), "::", stringify!($name)),
            about: $about,
            run: |stage| Box::pin(cases::$family::$name(stage)),
        },)+)+];
    };
}

__driver_cases!(list);

impl Case {
    /// The case of a name.
    pub fn named(name: &str) -> Option<&'static Self> {
        CASES.iter().find(|case| case.name == name)
    }
}

/// Runs a case on a bench, deletes what it left, and looks whether anything of it is on the platform.
pub async fn run(case: &Case, bench: Arc<dyn Bench>) -> Report {
    let begin = Instant::now();
    let name = bench.name();
    let outcome = match bench.waived(case.name) {
        Some(why) => Outcome::Skipped(why),
        None => match played(case, bench).await {
            Ok(()) => Outcome::Passed,
            Err(Stop::Skipped(why)) => Outcome::Skipped(why),
            Err(Stop::Failed(failure)) => Outcome::Failed(failure.to_string()),
        },
    };
    Report { bench: name, case: case.name, outcome, took: begin.elapsed() }
}

async fn played(case: &Case, bench: Arc<dyn Bench>) -> Verdict {
    let stage = Stage::new(bench)?;
    // A panic here is a mistake of the suite or of a driver in this process; the platform is cleaned all the same.
    let play = AssertUnwindSafe((case.run)(Arc::clone(&stage))).catch_unwind();
    let verdict = match tokio::time::timeout(LONGEST, play).await {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(panic)) => Err(Failure::Panicked(text(&*panic)).into()),
        Err(_) => Err(Failure::Late { what: "the case's end".to_owned(), limit: LONGEST, seen: String::new() }.into()),
    };
    let cleaned = stage.clean().await;
    match verdict {
        // The case's own failure tells more than what it left.
        Err(Stop::Failed(failure)) => Err(Stop::Failed(failure)),
        verdict => cleaned.and(verdict),
    }
}

fn text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_else(|| "no text".to_owned())
}
