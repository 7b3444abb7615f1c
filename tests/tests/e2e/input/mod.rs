//! Bad input: what is said, word for word, and that nothing is stored.
//!
//! - `creates`: requests for sandboxes
//! - `sandboxes`: requests to sandboxes, and wrong usage
//! - `calls`: what no command line sends
//! - `configs`: configuration files

mod calls;
mod configs;
mod creates;
mod sandboxes;

use std::fmt::Write as _;

use serde_json::json;

use crate::harness::{Gateway, Output};

fn filters() -> [(&'static str, &'static str); 4] {
    [
        (r#"[^\s":]*chiton-e2e-[0-9A-Za-z]+"#, "[folder]"),
        ("s-[0-9a-z]{26}", "[sandbox]"),
        ("op-[0-9a-z]{26}", "[operation]"),
        ("[0-9a-f]{64}", "[sha256]"),
    ]
}

/// The answers to bad requests, one after the other, each with its exit code.
fn answers(gateway: &Gateway, requests: &[(&str, &[&str])]) -> String {
    let mut told = String::new();
    for (what, arguments) in requests {
        let Output { code, stdout, stderr } = gateway.chiton(arguments);
        assert!(code != 0 && stdout.is_empty(), "{what}: {code} {stdout} {stderr}");
        writeln!(told, "# {what}: {code}\n{}", stderr.trim_end()).expect("a string");
    }
    told
}

#[track_caller]
fn nothing_is_stored(gateway: &Gateway) {
    assert_eq!(gateway.json(&["sandbox", "list", "--all"]), json!([]));
    assert_eq!(gateway.json(&["obligations", "list"]), json!([]));
    assert_eq!(gateway.json(&["orphans", "list"]), json!([]));
    assert_eq!(gateway.entries("leases"), Vec::<String>::new());
    assert_eq!(gateway.entries("data/drivers/oci/sandboxes"), Vec::<String>::new());
}
