//! The running of cases.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use chiton_compute_wire::v1::GetCapabilitiesResponse;
use chiton_model::Error;
use futures::FutureExt as _;
use tokio::time::timeout;

use crate::case::{Case, select};
use crate::options::Options;
use crate::report::{CaseResult, Report};
use crate::stage::{Run, Stage};
use crate::verdict::{By, Outcome, Stop, Verdict, broken};
use crate::wire::Wire;

/// Runs the cases, one after another, and tells of each as it ends.
///
/// # Errors
/// `unavailable` when nobody can be called at the socket, `invalid` when no case has a name with the filter in it, or when
/// neither driver nor caller names an image. What the driver does wrong is in the report.
pub async fn run(options: Options, mut told: impl FnMut(&CaseResult)) -> Result<Report, Error> {
    let begin = Instant::now();
    let cases = select(&options.filter);
    if cases.is_empty() {
        return Err(Error::invalid("filter", format!("no case has {:?} in its name", options.filter))
            .cure("docs/driver-conformance.md lists the cases"));
    }
    options.dial().channel(tonic::transport::Endpoint::from_static("http://driver.invalid")).await?;
    let run = Arc::new(prepared(options).await?);
    let mut report = Report::new(&run.capabilities, run.options.strict);
    let mut ends: BTreeMap<&str, Outcome> = BTreeMap::new();
    for case in cases {
        let began = Instant::now();
        let outcome = outcome(case, &run, &ends).await;
        ends.insert(case.name, outcome.clone());
        let result = CaseResult::new(case, outcome, began.elapsed());
        told(&result);
        report.results.push(result);
    }
    report.took = begin.elapsed();
    Ok(report)
}

/// What the cases need to know before. A driver that answers nothing here fails its cases later.
async fn prepared(options: Options) -> Result<Run, Error> {
    let wire = Wire::connect(&options.dial(), options.limits).await.ok();
    let (mut capabilities, mut before) = (GetCapabilitiesResponse::default(), Vec::new());
    if let Some(wire) = &wire {
        if let Ok(Ok(found)) = wire.capabilities().await {
            capabilities = found;
            if options.image.is_empty() && capabilities.default_image.is_empty() {
                return Err(Error::invalid("image", "the driver has no default image, and no other is named")
                    .cure("name an image that it can use with --image"));
            }
            // As a gateway does it before the first sandbox of a workspace. Whether it may fail is a case's matter.
            drop(wire.ensure_workspace(&options.workspace).await);
        }
        if let Ok(Ok(list)) = wire.list().await {
            before = list.into_iter().map(|sandbox| sandbox.id).collect();
            before.sort();
        }
    }
    Ok(Run::new(options, capabilities, before))
}

async fn outcome(case: &Case, run: &Arc<Run>, ends: &BTreeMap<&str, Outcome>) -> Outcome {
    for name in case.after {
        match ends.get(name) {
            Some(Outcome::Pass | Outcome::PassDeclared { .. }) => {}
            Some(Outcome::Declared { why, by, .. }) => {
                return Outcome::Declared { why: format!("{name}: {why}"), by: *by, found: None };
            }
            _ => return Outcome::Blocked { by: name },
        }
    }
    let declared = run.options.declared.why(case.name).map(ToOwned::to_owned);
    match (played(case, run).await, declared) {
        (Ok(()), None) => Outcome::Pass,
        (Ok(()), Some(why)) => Outcome::PassDeclared { why },
        (Err(Stop::Broken(finding)), None) => Outcome::Fail(finding),
        (Err(Stop::Broken(finding)), Some(why)) => Outcome::Declared { why, by: By::File, found: Some(finding) },
        (Err(Stop::NotHere(why, by)), _) => Outcome::Declared { why, by, found: None },
    }
}

async fn played(case: &Case, run: &Arc<Run>) -> Verdict {
    let stage = Stage::new(run).await?;
    let limit = case.deadline(&run.options.limits);
    // A panic is a mistake of the kit's; the driver is cleaned all the same.
    let play = AssertUnwindSafe((case.run)(&stage)).catch_unwind();
    let verdict = match timeout(limit, play).await {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(_)) => Err(broken("the case itself", "an end", "a panic; this is a mistake of the kit")),
        Err(_) => Err(broken("the case", format!("its end within {limit:?}"), "it goes on")),
    };
    stage.clean().await;
    verdict
}
