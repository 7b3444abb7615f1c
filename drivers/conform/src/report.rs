//! What became of the cases, as data and for people.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use chiton_compute_wire::v1::GetCapabilitiesResponse;
use chiton_driver_suite::Case as SuiteCase;
use chiton_model::{Error, printable};
use serde::{Serialize, Serializer};

use crate::case::{self, Case, Group};
use crate::verdict::{By, Outcome};

mod junit;

/// What became of one case.
#[derive(Clone, Debug, Serialize)]
pub struct CaseResult {
    /// The group of cases that it is of: `wire` or `behaviour`.
    pub group: &'static str,
    /// The case.
    pub case: String,
    /// The rule, as a sentence.
    pub about: &'static str,
    /// Where the rule is from.
    pub rule: &'static str,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// How long it took, cleaning up included.
    #[serde(rename = "millis", serialize_with = "millis")]
    pub took: Duration,
}

impl CaseResult {
    pub(crate) fn new(case: &Case, outcome: Outcome, took: Duration) -> Self {
        let group = Group::Wire.name();
        Self { group, case: case.name.to_owned(), about: case.about, rule: case.rule, outcome, took }
    }

    pub(crate) fn of_suite(case: &SuiteCase, outcome: Outcome, took: Duration) -> Self {
        let group = Group::Behaviour.name();
        Self { group, case: case::behaviour(case.name), about: case.about, rule: "docs/drivers.md", outcome, took }
    }
}

/// What became of all cases.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The driver's own name.
    pub driver: String,
    /// Its version.
    pub version: String,
    /// The version of the contract's additions that it speaks.
    pub contract_version: u32,
    /// Whether a declared failure that did not happen is an error.
    pub strict: bool,
    /// In the order in which they ran.
    pub results: Vec<CaseResult>,
    /// How long it took in all.
    #[serde(rename = "millis", serialize_with = "millis")]
    pub took: Duration,
}

fn millis<S: Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(took.as_millis()).unwrap_or(u64::MAX))
}

impl Report {
    pub(crate) fn new(capabilities: &GetCapabilitiesResponse, strict: bool) -> Self {
        Self {
            driver: printable(&capabilities.driver_name),
            version: printable(&capabilities.driver_version),
            contract_version: capabilities.contract_version,
            strict,
            results: Vec::new(),
            took: Duration::ZERO,
        }
    }

    /// Whether the driver keeps every rule but those of declared cases.
    pub fn passed(&self) -> bool {
        self.results.iter().all(|result| match result.outcome {
            Outcome::Pass | Outcome::Declared { .. } => true,
            Outcome::PassDeclared { .. } => !self.strict,
            Outcome::Fail(_) | Outcome::Blocked { .. } => false,
        })
    }

    /// The names of the cases that failed.
    pub fn failed(&self) -> Vec<&str> {
        self.named(|outcome| matches!(outcome, Outcome::Fail(_)))
    }

    /// The names of the cases with such an outcome.
    pub fn named(&self, wanted: impl Fn(&Outcome) -> bool) -> Vec<&str> {
        self.results.iter().filter(|result| wanted(&result.outcome)).map(|result| &*result.case).collect()
    }

    /// The report as one JSON document.
    ///
    /// # Errors
    /// `internal`: serde cannot write it.
    pub fn json(&self) -> Result<String, Error> {
        serde_json::to_string_pretty(self)
            .map_err(|error| Error::internal(format!("the report cannot be written as JSON: {error}")))
    }

    /// The report as `JUnit` XML: declared cases are skipped ones, blocked cases and declarations that strictness does not
    /// allow are failures.
    ///
    /// # Errors
    /// `internal`: it cannot be written as XML.
    pub fn junit(&self) -> Result<String, Error> {
        junit::xml(self)
    }

    /// How many cases ended how, in words.
    pub fn totals(&self) -> String {
        let count = |wanted: fn(&Outcome) -> bool| self.named(wanted).len();
        let mut parts = vec![
            format!("{} passed", count(|outcome| matches!(outcome, Outcome::Pass | Outcome::PassDeclared { .. }))),
            format!("{} failed", count(|outcome| matches!(outcome, Outcome::Fail(_)))),
            format!("{} declared", count(|outcome| matches!(outcome, Outcome::Declared { .. }))),
        ];
        let blocked = count(|outcome| matches!(outcome, Outcome::Blocked { .. }));
        if blocked > 0 {
            parts.push(format!("{blocked} not tried"));
        }
        parts.join(", ")
    }
}

fn words(by: By) -> &'static str {
    match by {
        By::Driver => "by the driver",
        By::Options => "by the options",
        By::File => "in the file",
        By::Suite => "by the suite",
    }
}

/// Why a case ended as it did, for people.
pub(crate) fn why(result: &CaseResult) -> Option<String> {
    let case = &result.case;
    Some(match &result.outcome {
        Outcome::Pass => return None,
        Outcome::Fail(finding) => format!(
            "{case}: {}\n    {}\n    expected  {}\n    found     {}\n    rule      {}",
            result.about, finding.what, finding.expected, finding.found, result.rule
        ),
        Outcome::Declared { why, by, found } => {
            let by = words(*by);
            match found {
                Some(found) => format!("{case}: declared {by}: {why}\n    found: {found}"),
                None => format!("{case}: declared {by}: {why}"),
            }
        }
        Outcome::PassDeclared { why } => {
            format!("{case}: passes, but is declared to fail ({why}); take the declaration out")
        }
        Outcome::Blocked { by } => format!("{case}: not tried, because {by} did not pass"),
    })
}

/// How wide names are in tables.
fn width() -> usize {
    case::names().map(|name| name.len()).max().unwrap_or_default()
}

/// One line of the table.
impl fmt::Display for CaseResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (width, time) = (width(), format!("{} ms", self.took.as_millis()));
        write!(f, "{:width$}  {:<15}  {time:>9}", self.case, self.outcome.word())
    }
}

impl Report {
    /// What stands below the table: the totals, and of each case that did not simply pass why.
    pub fn summary(&self) -> String {
        let mut text = format!(
            "driver {:?} {:?}, contract_version {}: {} in {:.1} s",
            self.driver,
            self.version,
            self.contract_version,
            self.totals(),
            self.took.as_secs_f64()
        );
        // Many cases are declared for one reason.
        let mut declared: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for result in &self.results {
            match (&result.outcome, why(result)) {
                (Outcome::Declared { why, by, found: None }, _) => {
                    declared.entry(format!("declared {}: {why}", words(*by))).or_default().push(&result.case);
                }
                (_, Some(note)) => text.extend(["\n\n", &note]),
                (_, None) => {}
            }
        }
        for (why, cases) in declared {
            text.extend(["\n\n", &why, "\n    ", &cases.join("\n    ")]);
        }
        text
    }
}

/// The table, and what stands below it.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.results.iter().try_for_each(|result| writeln!(f, "{result}"))?;
        write!(f, "\n{}\n", self.summary())
    }
}
