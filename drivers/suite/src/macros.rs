//! The macro: one test for each case. And the list itself, which both the tests and the library are made from.

use std::sync::Arc;

use crate::bench::Bench;
use crate::case::{Case, run};
use crate::verdict::{Outcome, Stop, Verdict};

/// Makes a module of tests that hold a driver against every case.
///
/// The argument is an expression of type `Verdict<impl Bench>`, evaluated anew for each test, in an async function.
///
/// ```ignore
/// chiton_driver_suite::driver_suite!(OciBench::new().await);
/// ```
#[macro_export]
macro_rules! driver_suite {
    ($bench:expr $(,)?) => {
        mod driver_suite {
            #[allow(unused_imports)]
            use super::*;

            async fn assert(case: &'static str) {
                $crate::assert_case(case, async { $bench }).await;
            }

            $crate::__driver_cases! { $crate::__driver_tests }
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __driver_tests {
    ($($family:ident { $($name:ident: $about:literal,)+ })+) => {
        $(mod $family {
            $(
                #[doc = $about]
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    super::assert(concat!(stringify!($family), "::", stringify!($name))).await;
                }
            )+
        })+
    };
}

/// One case as a test: the only place where a failure becomes a panic.
#[doc(hidden)]
pub async fn assert_case<B: Bench>(name: &str, bench: impl Future<Output = Verdict<B>>) {
    let Some(case) = Case::named(name) else { panic!("there is no case {name:?}") };
    let bench = match bench.await {
        Ok(bench) => bench,
        Err(Stop::Skipped(why)) => {
            eprintln!("SKIPPED {name}: {why}");
            return;
        }
        Err(Stop::Failed(failure)) => panic!("{failure}"),
    };
    let report = run(case, Arc::new(bench)).await;
    match &report.outcome {
        Outcome::Passed => {}
        Outcome::Skipped(why) => eprintln!("SKIPPED {name}: {why}"),
        Outcome::Failed(_) => panic!("{report}\nthe promise: {}", case.about),
    }
}
