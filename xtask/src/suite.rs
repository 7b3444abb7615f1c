//! `cargo xtask suite`: holds every driver against the driver suite and prints driver × behaviour. The tests are those that
//! `cargo xtask test` runs; this only puts what they say side by side.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::process::Command;

use crate::engines::Variables;

/// The drivers, and the packages whose test `suite` holds them.
const DRIVERS: [(&str, &str); 3] =
    [("oci", "chiton-driver-oci"), ("docker", "chiton-driver-docker"), ("podman", "chiton-driver-podman")];
/// How many cases at a time: engines on a small machine slow down with more.
const THREADS: &str = "2";

/// What became of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    /// The driver's bench declares why it is not for it.
    Declared(String),
    Failed,
}

/// Runs the suite of each driver, with the cases whose names hold the given text.
pub(crate) fn run(filter: &[String], variables: &Variables) -> Result<(), String> {
    let mut rows: BTreeMap<String, BTreeMap<&str, Outcome>> = BTreeMap::new();
    let mut failed = Vec::new();
    for (driver, package) in DRIVERS {
        eprintln!("xtask: holding {driver} against the suite");
        let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(program)
            .args(["test", "--locked", "--package", package, "--test", "suite"])
            .args(filter)
            .args(["--", "--show-output", "--test-threads", THREADS])
            .envs(variables.iter().cloned())
            .output()
            .map_err(|error| format!("cargo cannot be run: {error}"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        let found = outcomes(&said);
        if found.is_empty() {
            return Err(format!("{package} ran no case: {}", String::from_utf8_lossy(&output.stderr)));
        }
        if !output.status.success() {
            eprintln!("{said}");
            failed.push(driver);
        }
        for (case, outcome) in found {
            rows.entry(case).or_default().insert(driver, outcome);
        }
    }
    print!("{}", table(&rows));
    if failed.is_empty() { Ok(()) } else { Err(format!("not every case holds for {}", failed.join(", "))) }
}

/// Reads what the test program printed.
fn outcomes(said: &str) -> BTreeMap<String, Outcome> {
    let mut found = BTreeMap::new();
    let mut section: Option<String> = None;
    for line in said.lines() {
        let name = |text: &str| text.strip_prefix("driver_suite::").map(str::to_owned);
        if let Some((test, ended)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
            if let Some(case) = name(test) {
                found.insert(case, if ended.starts_with("ok") { Outcome::Passed } else { Outcome::Failed });
            }
        } else if let Some(rest) = line.strip_prefix("---- ") {
            section = rest.strip_suffix(" stdout ----").and_then(name);
        } else if let (Some(case), Some(why)) = (&section, line.strip_prefix("SKIPPED ")) {
            let why = why.split_once(": ").map_or(why, |(_, why)| why);
            if let Some(outcome) = found.get_mut(case).filter(|outcome| **outcome == Outcome::Passed) {
                *outcome = Outcome::Declared(why.to_owned());
            }
        }
    }
    found
}

/// One row for each case, and the reasons below.
fn table(rows: &BTreeMap<String, BTreeMap<&str, Outcome>>) -> String {
    let mut text = String::new();
    let mut reasons: Vec<&str> = Vec::new();
    let heads: Vec<&str> = DRIVERS.iter().map(|(driver, _)| *driver).collect();
    let _ = writeln!(text, "| behaviour | {} |\n|---|{}", heads.join(" | "), "---|".repeat(heads.len()));
    for (case, outcomes) in rows {
        let mut cells = Vec::new();
        for driver in &heads {
            cells.push(match outcomes.get(driver) {
                None => String::new(),
                Some(Outcome::Passed) => "holds".to_owned(),
                Some(Outcome::Failed) => "FAILS".to_owned(),
                Some(Outcome::Declared(why)) => {
                    let number = reasons.iter().position(|known| known == why).unwrap_or_else(|| {
                        reasons.push(why);
                        reasons.len() - 1
                    });
                    format!("declared ({})", number + 1)
                }
            });
        }
        let _ = writeln!(text, "| {} | {} |", case.replace('_', " "), cells.join(" | "));
    }
    for (index, why) in reasons.iter().enumerate() {
        let _ = writeln!(text, "{}. {why}", index + 1);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Outcome, outcomes, table};
    use std::collections::BTreeMap;

    const SAID: &str = "running 3 tests\n\
        test driver_suite::create::once ... ok\n\
        test driver_suite::limit::disk ... ok\n\
        test driver_suite::stop::graceful ... FAILED\n\
        test not_of_the_suite ... ok\n\n\
        successes:\n\n---- driver_suite::limit::disk stdout ----\n\
        SKIPPED limit::disk: the engine has no such limit\n\n";

    #[test]
    fn what_passed_what_failed_and_what_was_declared_are_told_apart() {
        let found = outcomes(SAID);
        let declared = Outcome::Declared("the engine has no such limit".to_owned());
        let expected =
            [("create::once", Outcome::Passed), ("limit::disk", declared), ("stop::graceful", Outcome::Failed)];
        assert_eq!(found, expected.map(|(case, outcome)| (case.to_owned(), outcome)).into());
    }

    #[test]
    fn a_reason_stands_once_below_the_table() {
        let row = |case: &str| {
            let declared = Outcome::Declared("no such limit".to_owned());
            (
                case.to_owned(),
                BTreeMap::from([("docker", declared.clone()), ("podman", declared), ("oci", Outcome::Passed)]),
            )
        };
        let text = table(&[row("limit::disk"), row("limit::inodes")].into());
        assert!(text.contains("| limit::disk | holds | declared (1) | declared (1) |"), "{text}");
        assert_eq!(text.matches("no such limit").count(), 1, "{text}");
    }
}
