//! What is refused in `[compute.policy]`: above all a rule that does not say whom it is for.

use insta::assert_snapshot;

use super::{bad, file};

#[test]
fn match_without_a_table() {
    let text = r#"[compute.policy.fleet-labels]
activation = "match"
"#;
    assert_snapshot!(bad(&file(text)), @r#"chiton.toml:2: compute.policy.fleet-labels.match: activation needs a table "match"; say for whom, for example match = { workspaces = ["default"] }"#);
}

#[test]
fn match_with_an_empty_table() {
    let text = r#"[compute.policy.fleet-labels]
activation = "match"
match = {}
"#;
    assert_snapshot!(bad(&file(text)), @r#"chiton.toml:3: compute.policy.fleet-labels.match: an empty table would mean everybody; say who: workspaces, principals or labels, for example { workspaces = ["default"] }"#);
}

#[test]
fn on_request_without_allow() {
    let text = r#"[compute.policy.fleet-labels]
failure = "optional"
activation = "on-request"
"#;
    assert_snapshot!(bad(&file(text)), @r#"chiton.toml:3: compute.policy.fleet-labels.allow: activation needs a table "allow"; say who may ask, for example allow = { workspaces = ["default"] }"#);
}

#[test]
fn on_request_that_allows_an_empty_table() {
    let text = r#"[compute.policy.fleet-labels]
activation = "on-request"
allow = {}
"#;
    assert_snapshot!(bad(&file(text)), @r#"chiton.toml:3: compute.policy.fleet-labels.allow: an empty table would mean everybody; say who: workspaces, principals or labels, for example { workspaces = ["default"] }"#);
}

#[test]
fn lists_that_restrict_nothing() {
    let text = r#"[compute.policy.fleet-labels]
activation = "match"
match = { workspaces = [], principals = [], labels = {} }
"#;
    assert_snapshot!(bad(&file(text)), @r"
    chiton.toml:3: compute.policy.fleet-labels.match.workspaces: an empty list restricts nothing; name at least one, or remove it
    chiton.toml:3: compute.policy.fleet-labels.match.principals: an empty list restricts nothing; name at least one, or remove it
    chiton.toml:3: compute.policy.fleet-labels.match.labels: an empty table restricts nothing; name at least one label, or remove it
    ");
}

#[test]
fn a_rule_that_the_activation_does_not_use() {
    let text = r#"[compute.policy.fleet-labels]
allow = { workspaces = ["a"] }
[compute.policy.address-lease]
activation = "on-request"
allow = { workspaces = ["a"] }
match = { workspaces = ["b"] }
"#;
    assert_snapshot!(bad(&file(text)), @r#"
    chiton.toml:2: compute.policy.fleet-labels.allow: "allow" does nothing with this activation; write activation = "on-request", or remove it
    chiton.toml:6: compute.policy.address-lease.match: "match" does nothing with this activation; write activation = "match", or remove it
    "#);
}

#[test]
fn an_unknown_activation() {
    let text = r#"[compute.policy.fleet-labels]
activation = "on_request"
allow = { workspaces = ["a"] }
"#;
    assert_snapshot!(bad(&file(text)), @r#"chiton.toml:2: compute.policy.fleet-labels.activation: unknown value "on_request"; did you mean "on-request"?"#);
}

#[test]
fn an_unknown_key_in_a_rule() {
    let text = r#"[compute.policy.fleet-labels]
activation = "match"

[compute.policy.fleet-labels.match]
workspace = ["a"]
"#;
    assert_snapshot!(bad(&file(text)), @r#"chiton.toml:5: compute.policy.fleet-labels.match.workspace: unknown key; did you mean "workspaces"?"#);
}

#[test]
fn a_rule_that_is_no_table() {
    let text = r#"[compute.policy.fleet-labels]
activation = "match"
match = "a"
"#;
    assert_snapshot!(bad(&file(text)), @r"chiton.toml:3: compute.policy.fleet-labels.match: is a string; write a table");
}

#[test]
fn names_that_no_request_can_have() {
    let text = r#"[compute.policy.fleet-labels]
activation = "match"
match.workspaces = ["Team A", "b", "b"]
match.principals = [""]
match.labels = { "openshell.io/x" = "y", "a b" = "c", d = "e f", g = 1 }
"#;
    assert_snapshot!(bad(&file(text)), @r#"
    chiton.toml:3: compute.policy.fleet-labels.match.workspaces[0]: workspace name "Team A" is not valid: it contains 'T'; correct the name
    chiton.toml:3: compute.policy.fleet-labels.match.workspaces[2]: "b" is listed twice; remove one of them
    chiton.toml:4: compute.policy.fleet-labels.match.principals[0]: "" is not a principal's subject; correct the name
    chiton.toml:5: compute.policy.fleet-labels.match.labels.g: is an integer; write a string in quotes
    chiton.toml:5: compute.policy.fleet-labels.match.labels."a b": key "a b" is not a valid label key; use [prefix/]name: at most 63 letters, digits, '-', '_' and '.', beginning and ending with a letter or digit
    chiton.toml:5: compute.policy.fleet-labels.match.labels.d: value "e f" of label "d" is not valid; use at most 63 letters, digits, '-', '_' and '.', beginning and ending with a letter or digit
    chiton.toml:5: compute.policy.fleet-labels.match.labels."openshell.io/x": label "openshell.io/x" is reserved: keys under "openshell.io/" are set by the gateway; no request carries such a label: choose a key without a reserved prefix
    "#);
}

#[test]
fn unknown_failure_and_reconcile() {
    let text = r#"[compute.policy.fleet-labels]
failure = "optionl"
reconcile = "always"
"#;
    assert_snapshot!(bad(&file(text)), @r#"
    chiton.toml:2: compute.policy.fleet-labels.failure: unknown value "optionl"; did you mean "optional"?
    chiton.toml:3: compute.policy.fleet-labels.reconcile: unknown value "always"; write one of "advisory", "authoritative"
    "#);
}

#[test]
fn a_deadline_of_nothing() {
    let text = r#"[compute.policy.fleet-labels]
deadline = "0s"
"#;
    assert_snapshot!(bad(&file(text)), @r#"chiton.toml:2: compute.policy.fleet-labels.deadline: duration "0s" is too short; write at least "1ms""#);
}

#[test]
fn a_deadline_beyond_all_clocks() {
    let text = r#"[compute.policy.fleet-labels]
deadline = "99999999999999999999h"
"#;
    assert_snapshot!(bad(&file(text)), @r#"chiton.toml:2: compute.policy.fleet-labels.deadline: duration "99999999999999999999h" is not valid: it is longer than 365d; write a number and a unit, for example "30s""#);
}

#[test]
fn no_hook_at_once() {
    let text = r"[compute.policy.fleet-labels]
concurrency = 0
[compute.policy.address-lease]
concurrency = 4294967296
";
    assert_snapshot!(bad(&file(text)), @r"
    chiton.toml:2: compute.policy.fleet-labels.concurrency: 0 hooks at once are not possible; write a number from 1 to 4294967295
    chiton.toml:4: compute.policy.address-lease.concurrency: 4294967296 hooks at once are not possible; write a number from 1 to 4294967295
    ");
}

#[test]
fn rules_about_an_unknown_extension() {
    let text = r#"[compute.policy.fleet-label]
deadline = "5s"
"#;
    assert_snapshot!(bad(&file(text)), @r#"chiton.toml:1: compute.policy.fleet-label: unknown extension "fleet-label"; did you mean "fleet-labels"?; if it was removed for good, set abandon = true"#);
}

#[test]
fn rules_about_no_name() {
    let text = r#"[compute.policy."Fleet Labels"]
abandon = true
"#;
    assert_snapshot!(bad(&file(text)), @r#"chiton.toml:1: compute.policy."Fleet Labels": "Fleet Labels" is not an extension name; use 1 to 63 lower-case letters, digits and inner hyphens"#);
}

#[test]
fn overrides_that_mean_nothing() {
    let text = r#"[compute]
extensions = ["fleet-labels", "address-lease"]
[compute.extension]
fleet-labels = { labels.a = "b" }
address-lease = { range = "10.0.0.1-10.0.0.9", folder = "/srv" }
[compute.policy.fleet-labels]
overrides = [
  "address-lease",
  "address-lease:network",
  "address-lease:/network",
  "adress-lease:/network",
  "fleet-labels:/labels/a",
  "address-lease:/a~2",
]
"#;
    assert_snapshot!(bad(&file(text)), @r#"
    chiton.toml:8: compute.policy.fleet-labels.overrides[0]: "address-lease" is not extension:/pointer; write for example "fleet-labels:/labels/fleet"
    chiton.toml:9: compute.policy.fleet-labels.overrides[1]: "address-lease:network" is not extension:/pointer; write for example "fleet-labels:/labels/fleet"
    chiton.toml:10: compute.policy.fleet-labels.overrides[2]: extension "address-lease" writes after "fleet-labels": there is nothing to replace; put it earlier in compute.extensions, or remove the override
    chiton.toml:11: compute.policy.fleet-labels.overrides[3]: unknown extension "adress-lease"; did you mean "address-lease"?
    chiton.toml:12: compute.policy.fleet-labels.overrides[4]: an extension may always replace its own writes; remove it
    chiton.toml:13: compute.policy.fleet-labels.overrides[5]: "address-lease:/a~2" is not extension:/pointer; write for example "fleet-labels:/labels/fleet"
    "#);
}

#[test]
fn an_override_twice() {
    let text = r#"[compute.policy.address-lease]
overrides = ["fleet-labels:/labels/a", "fleet-labels:/labels/a"]
"#;
    assert_snapshot!(bad(&file(text)), @r#"chiton.toml:2: compute.policy.address-lease.overrides[1]: "fleet-labels:/labels/a" is listed twice; remove one of them"#);
}
