//! The same program where nothing stops it.

use std::collections::BTreeMap;
use std::process::Command;

/// What came of one attack, in the attacker's words: `succeeded …`, `refused ERRNO`, `killed SIGNAL`.
pub(super) type Results = BTreeMap<String, String>;

/// The attacker, on the host.
pub(super) const ATTACKER: &str = env!("CARGO_BIN_EXE_chiton-attacker");

/// Reads what the attacker printed: a line for each attack that it was to try.
#[track_caller]
pub(super) fn results(attacks: &[&str], printed: &str) -> Results {
    let mut lines = printed.lines();
    let mut results = Results::new();
    for attack in attacks {
        let line = lines.next().unwrap_or_else(|| panic!("nothing was said of {attack}: {printed}"));
        let said = line.strip_prefix(attack).unwrap_or_else(|| panic!("{line:?} is not about {attack}: {printed}"));
        results.insert((*attack).to_owned(), said.trim_start().to_owned());
    }
    results
}

/// Asserts that every one of these succeeds for the host's root, in namespaces that end with the attacker, so that it does
/// no harm there.
#[track_caller]
pub(super) fn succeed(attacks: &[&str]) {
    let found = run(attacks);
    let failed: Vec<_> = found.iter().filter(|(_, said)| !said.starts_with("succeeded")).collect();
    assert!(failed.is_empty(), "outside of a sandbox these have to succeed, or the test proves nothing: {failed:#?}");
}

/// Runs attacks as the host's root, in namespaces that end with the attacker.
#[track_caller]
fn run(attacks: &[&str]) -> Results {
    let output = Command::new("unshare")
        .args(["--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child", "--mount-proc"])
        .arg(ATTACKER)
        .args(attacks)
        .output()
        .expect("package util-linux is installed");
    assert!(output.status.success(), "the control did not run: {output:?}");
    results(attacks, &String::from_utf8_lossy(&output.stdout))
}
