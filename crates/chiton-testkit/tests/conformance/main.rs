//! The kit itself: an extension that keeps every rule has no finding, and each seeded fault is found, by the family and
//! under the rule that its author would look for.

/// The guide's own extension, word for word.
#[allow(unreachable_pub, missing_docs, clippy::wildcard_imports)]
mod guide;
mod seeded;
mod tickets;

use std::collections::BTreeSet;
use std::process::Command;

use chiton_testkit::conformance::{Bench, Check, Rule};
use serde_json::json;

fn bench() -> Bench {
    Bench::in_folder(|folder| json!({ "folder": folder })).old_state(1, json!({ "number": "old" }))
}

chiton_testkit::conformance!(mod reference, crate::tickets::extension(), crate::bench);

chiton_testkit::conformance!(mod guided, crate::guide::extension(), || {
    Bench::in_folder(|folder| json!({ "folder": folder }))
});

#[test]
fn the_guides_extension_is_the_one_that_is_tested() {
    let guide = include_str!("../../../../docs/extensions.md");
    assert!(guide.contains(include_str!("guide.rs")), "docs/extensions.md and guide.rs differ");
}

#[test]
fn the_macro_makes_a_test_for_every_check() {
    let program = std::env::current_exe().expect("a test has a program");
    let listed = Command::new(program).args(["--list", "--format", "terse"]).output().expect("it lists its tests");
    let listed = String::from_utf8(listed.stdout).expect("text");
    let made: BTreeSet<String> = listed
        .lines()
        .filter_map(|line| line.strip_prefix("reference::")?.strip_suffix(": test"))
        .map(str::to_owned)
        .collect();
    let wanted: BTreeSet<String> = Check::all().iter().map(ToString::to_string).collect();
    assert_eq!(made, wanted);
}

#[test]
fn the_guide_has_every_rule_under_its_number() {
    let guide = include_str!("../../../../docs/extensions.md");
    for rule in Rule::ALL {
        let line = format!("{}. **{}.**", rule.number(), rule.title());
        assert!(guide.contains(&line), "docs/extensions.md has no line {line:?}");
    }
}
