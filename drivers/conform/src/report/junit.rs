//! The report for machines that read `JUnit` XML.

use chiton_model::Error;
use quick_junit::{NonSuccessKind, Report as Xml, TestCase, TestCaseStatus, TestSuite};

use super::{CaseResult, Report, why};
use crate::verdict::Outcome;

pub(super) fn xml(report: &Report) -> Result<String, Error> {
    let mut xml = Xml::new("chiton conform driver");
    xml.set_time(report.took);
    let mut groups: Vec<&str> = report.results.iter().map(|result| result.group).collect();
    groups.dedup();
    for group in groups {
        let mut suite = TestSuite::new(format!("{}.{group}", report.driver));
        suite.add_property(("driver_version", &*report.version));
        suite.add_property(("contract_version", &*report.contract_version.to_string()));
        for result in report.results.iter().filter(|result| result.group == group) {
            suite.add_test_case(case(report, result));
        }
        xml.add_test_suite(suite);
    }
    xml.to_string().map_err(|error| Error::internal(format!("the report cannot be written as XML: {error}")))
}

fn case(report: &Report, result: &CaseResult) -> TestCase {
    let message = why(result).unwrap_or_default();
    let failure = |kind: &str| {
        let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
        status.set_message(message.clone()).set_type(kind).set_description(result.rule);
        status
    };
    let status = match &result.outcome {
        Outcome::Fail(_) => failure("fail"),
        Outcome::Blocked { .. } => failure("blocked"),
        Outcome::PassDeclared { .. } if report.strict => failure("pass_declared"),
        Outcome::Pass | Outcome::PassDeclared { .. } => TestCaseStatus::success(),
        Outcome::Declared { .. } => {
            let mut status = TestCaseStatus::skipped();
            status.set_message(message);
            status
        }
    };
    let (family, name) = result.case.rsplit_once("::").unwrap_or(("", &*result.case));
    let mut case = TestCase::new(name, status);
    let family = family.strip_prefix("behaviour::").unwrap_or(family);
    case.set_classname(format!("{}.{family}", result.group)).set_time(result.took);
    case
}
