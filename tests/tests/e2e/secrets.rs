//! A secret is where it is needed and nowhere else.

use std::fs;
use std::path::Path;

use crate::harness::{Gateway, root};

const CONFIG: &str = r#"
[compute]
extensions = ["fault"]
[compute.extension.fault]
folder = "{folder}"
[secrets.api]
file = "{folder}/secret"
allow = { workspaces = ["default"] }
[log]
level = "trace"
"#;
const VALUE: &str = "a-value-that-stands-nowhere-else";

/// Files below a folder that hold the value.
fn holding(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    // The gateway lives on: what was there a moment ago may be gone.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            found.extend(holding(&entry.path()));
        } else if kind.is_file() && fs::read(entry.path()).is_ok_and(|bytes| has(&bytes)) {
            found.push(entry.path().display().to_string());
        }
    }
    found
}

fn has(bytes: &[u8]) -> bool {
    bytes.windows(VALUE.len()).any(|window| window == VALUE.as_bytes())
}

#[test]
fn a_secret_reaches_the_sandbox_and_neither_store_log_plan_nor_extension() {
    if !root() {
        return;
    }
    let gateway = Gateway::start(CONFIG);
    fs::write(gateway.path("secret"), format!("{VALUE}\n")).expect("a secret");
    let plan = gateway.chiton(&["plan", "box", "--secret", "TOKEN=api"]).ok();
    gateway.chiton(&["sandbox", "create", "box", "--secret", "TOKEN=api"]).ok();
    assert_eq!(gateway.shell("box", "echo $TOKEN").ok(), format!("{VALUE}\n"));
    for text in
        [plan, gateway.chiton(&["explain", "box"]).ok(), gateway.chiton(&["sandbox", "get", "box", "--json"]).ok()]
    {
        assert!(!has(text.as_bytes()), "{text}");
    }
    // The store, the mark log, the driver's records and the extension's calls are all below this folder.
    assert_eq!(holding(gateway.folder()), [gateway.path("secret").display().to_string()]);
    assert!(!has(gateway.said().as_bytes()), "the gateway logged the secret");
}

#[test]
fn a_secret_that_is_not_allowed_and_one_that_does_not_exist_are_refused_alike() {
    if !root() {
        return;
    }
    let gateway = Gateway::start(CONFIG);
    let refused = |reference: &str| {
        let pair = format!("TOKEN={reference}");
        gateway
            .chiton(&["sandbox", "create", "box", "-w", "other", "--secret", &pair])
            .refused()
            .replace(reference, "REF")
    };
    assert_eq!(refused("api"), refused("none"));
    assert_eq!(gateway.json(&["sandbox", "list", "--all"]), serde_json::json!([]));
}
