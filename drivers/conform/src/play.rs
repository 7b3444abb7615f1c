//! The running of cases.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use chiton_compute_wire::v1::GetCapabilitiesResponse;
use chiton_driver_suite::Case as SuiteCase;
use chiton_model::Error;
use futures::FutureExt as _;
use tokio::time::timeout;

use crate::behaviour;
use crate::case::{self, Case, Group, chosen, select};
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
    let start = Instant::now();
    let items = selected(&options)?;
    options.dial().channel(tonic::transport::Endpoint::from_static("http://driver.invalid")).await?;
    let run = Arc::new(prepared(options).await?);
    let mut report = Report::new(&run.capabilities, run.options.strict);
    let mut ends: BTreeMap<&str, Outcome> = BTreeMap::new();
    let mut tell = |result: CaseResult| {
        told(&result);
        report.results.push(result);
    };
    for item in items {
        let began = Instant::now();
        tell(match item {
            Item::Wire(case) => {
                let outcome = match barred(case.after, &ends) {
                    Some(outcome) => outcome,
                    None => judged(case.name, &run, played(case, &run).await),
                };
                ends.insert(case.name, outcome.clone());
                CaseResult::new(case, outcome, began.elapsed())
            }
            Item::Suite(case) => {
                let outcome = match (barred(behaviour::AFTER, &ends), behaviour::not_here(&run)) {
                    (Some(outcome), _) => outcome,
                    (None, Some((why, by))) => Outcome::Declared { why, by, found: None },
                    (None, None) => match behaviour::played(case, &run).await {
                        Outcome::Pass => judged(&case::behaviour(case.name), &run, Ok(())),
                        Outcome::Fail(finding) => judged(&case::behaviour(case.name), &run, Err(Stop::Broken(finding))),
                        other => other,
                    },
                };
                CaseResult::of_suite(case, outcome, began.elapsed())
            }
        });
    }
    report.took = start.elapsed();
    Ok(report)
}

/// A case of one group or the other.
enum Item {
    Wire(&'static Case),
    Suite(&'static SuiteCase),
}

/// The cases of both groups that the options choose, and what they need.
fn selected(options: &Options) -> Result<Vec<Item>, Error> {
    let Options { groups, filter, .. } = options;
    let has = |group| groups.contains(&group);
    let of_suite = |case: &&SuiteCase| has(Group::Behaviour) && case::behaviour(case.name).contains(filter.as_str());
    let suite: Vec<_> = chiton_driver_suite::CASES.iter().filter(of_suite).map(Item::Suite).collect();
    let mut wanted = Vec::new();
    if has(Group::Wire) {
        wanted.extend(select(filter).iter().map(|case| case.name));
    }
    if !suite.is_empty() {
        wanted.extend(behaviour::AFTER);
    }
    if wanted.is_empty() {
        return Err(Error::invalid("filter", format!("no case of these groups has {filter:?} in its name"))
            .cure("docs/driver-conformance.md lists the cases"));
    }
    // What both groups leave is looked for at last.
    let (last, first): (Vec<_>, Vec<_>) = chosen(wanted).into_iter().partition(|case| case.name.starts_with("leak::"));
    Ok(first.into_iter().map(Item::Wire).chain(suite).chain(last.into_iter().map(Item::Wire)).collect())
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

/// What becomes of a case that needs others, if they did not pass.
fn barred(after: &[&'static str], ends: &BTreeMap<&str, Outcome>) -> Option<Outcome> {
    after.iter().find_map(|name| match ends.get(name) {
        Some(Outcome::Pass | Outcome::PassDeclared { .. }) => None,
        Some(Outcome::Declared { why, by, .. }) => {
            Some(Outcome::Declared { why: format!("{name}: {why}"), by: *by, found: None })
        }
        _ => Some(Outcome::Blocked { by: name }),
    })
}

/// A verdict in the light of what was declared.
fn judged(case: &str, run: &Run, verdict: Verdict) -> Outcome {
    let declared = run.options.declared.why(case).map(ToOwned::to_owned);
    match (verdict, declared) {
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
