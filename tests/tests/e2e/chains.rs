//! Chains: who writes what, who is asked, and what a change of the config changes.

use serde_json::{Value, json};

use crate::harness::{Gateway, root};
use crate::life::CHAIN;

/// Everything but the fault extension's folder and the lease is pure: plans of two gateways can be compared.
const PURE: &str = r#"
[compute]
extensions = ["fleet-labels", "noop"]
[compute.extension."fleet-labels"]
labels = { fleet = "test", region = "north" }
"#;

const REQUEST: [&str; 8] = ["box", "--memory", "128Mi", "--label", "team=red", "--env", "A=1", "--image=host"];

fn plan(gateway: &Gateway) -> Value {
    gateway.json(&[&["plan"], &REQUEST[..]].concat())
}

#[test]
fn a_chain_of_one_noop_plans_as_no_chain_does() {
    if !root() {
        return;
    }
    let bare = Gateway::start("");
    let noop = Gateway::start("[compute]\nextensions = [\"noop\"]\n");
    let (bare, mut noop) = (plan(&bare), plan(&noop));
    assert_eq!(noop["chain"][0]["extension"], "noop");
    assert_ne!(bare["digest"], noop["digest"], "the chain is part of what is agreed to");
    for part in ["chain", "digest"] {
        noop[part] = bare[part].clone();
    }
    assert_eq!(noop, bare);
}

#[test]
fn the_same_config_gives_the_same_digest_in_another_process() {
    if !root() {
        return;
    }
    let (one, other) = (Gateway::start(PURE), Gateway::start(PURE));
    let (first, second) = (plan(&one), plan(&other));
    assert_eq!(first, second);
    assert_eq!(first["plan"]["labels"], json!({ "team": "red", "fleet": "test", "region": "north" }));
    other.configure(&PURE.replace("north", "south"));
    let mut other = other;
    other.terminate();
    other.begin();
    assert_ne!(plan(&other)["digest"], first["digest"], "another config is another plan");
    assert_eq!(one.json(&["sandbox", "list", "--all"]), json!([]), "a plan stores nothing");
}

#[test]
fn a_plan_that_was_agreed_to_is_the_only_one_that_is_made() {
    if !root() {
        return;
    }
    let gateway = Gateway::start(PURE);
    let digest = plan(&gateway)["digest"].as_str().expect("a digest").to_owned();
    let create = |digest: &str, more: &[&str]| {
        let options = ["--expect-plan", digest];
        gateway.chiton(&[&["sandbox", "create"], &REQUEST[..], &options, more].concat())
    };
    let refused = create(&digest, &["--pids", "9"]).refused();
    insta::with_settings!({filters => vec![("[0-9a-f]{64}", "[sha256]")]}, {
        insta::assert_snapshot!(refused, @r#"
        error: the plan's digest is sha256:[sha256], the request expects sha256:[sha256] [refused]
          cure: read the plan again (chiton plan) and pass the digest that it prints
        "#);
    });
    assert_eq!(gateway.json(&["sandbox", "list", "--all"]), json!([]));
    create(&digest, &[]).ok();
    assert_eq!(gateway.get("box")["plan_digest"], digest);
}

#[test]
fn two_extensions_that_write_one_field_are_refused_by_name_unless_the_operator_lets_one_win() {
    if !root() {
        return;
    }
    let config = format!("{}\n[compute.extension.\"fault\".labels]\nfleet = \"own\"\n", CHAIN.trim_end());
    let mut gateway = Gateway::start(&config);
    insta::assert_snapshot!(gateway.chiton(&["sandbox", "create", "box"]).refused(), @r#"
    error: extensions "fleet-labels" and "fault" both write /labels/fleet [refused]
      cure: take one of them off this sandbox, or let the later one win: [compute.policy."fault"] overrides = ["fleet-labels:/labels/fleet"]
    "#);
    assert_eq!(gateway.json(&["sandbox", "list", "--all"]), json!([]));
    gateway.terminate();
    gateway.configure(&format!("{config}\n[compute.policy.\"fault\"]\noverrides = [\"fleet-labels:/labels/fleet\"]\n"));
    gateway.begin();
    let planned = gateway.json(&["plan", "box"]);
    let writes = planned["writes"].as_array().expect("writes");
    let fault = writes.iter().find(|writes| writes["extension"] == "fault").expect("its writes");
    let write = fault["writes"].as_array().expect("writes").iter().find(|write| write["path"] == "/labels/fleet");
    assert_eq!(
        write,
        Some(&json!({ "path": "/labels/fleet", "before": "test", "after": "own", "overrides": "fleet-labels" }))
    );
    gateway.chiton(&["sandbox", "create", "box"]).ok();
    let explained = gateway.json(&["explain", "box"]);
    let values = explained["values"].as_array().unwrap_or_else(|| explained.as_array().expect("values"));
    let value = values.iter().find(|value| value["path"] == "/labels/fleet").expect("the label");
    assert_eq!((&value["value"], &value["writer"]), (&json!("own"), &json!("extension fault")));
}

#[test]
fn who_gets_an_extension_is_the_operators_rule() {
    if !root() {
        return;
    }
    let config = r#"
[compute]
extensions = ["fleet-labels", "noop", "fault"]
[compute.extension."fleet-labels"]
labels = { fleet = "test" }
[compute.extension."fault"]
folder = "{folder}"
[compute.policy."noop"]
activation = "on-request"
allow = { workspaces = ["trusted"] }
[compute.policy."fault"]
activation = "match"
match = { labels = { tier = "gold" } }
"#;
    let gateway = Gateway::start(config);
    let chain = |arguments: &[&str]| -> Vec<(String, String)> {
        let planned = gateway.json(&[&["plan", "box"], arguments].concat());
        let text = |entry: &Value, name: &str| entry[name].as_str().expect("text").to_owned();
        let chain = planned["chain"].as_array().expect("a chain");
        chain.iter().map(|entry| (text(entry, "extension"), text(entry, "activation"))).collect()
    };
    let entry = |name: &str, rule: &str| (name.to_owned(), rule.to_owned());
    let always = entry("fleet-labels", "always");
    assert_eq!(chain(&[]), std::slice::from_ref(&always));
    assert_eq!(chain(&["--label", "tier=gold"]), [always.clone(), entry("fault", "match")]);
    assert_eq!(chain(&["--label", "tier=tin"]), std::slice::from_ref(&always));
    assert_eq!(chain(&["-w", "trusted", "--extension", "noop"]), [always, entry("noop", "on-request")]);
    let refused = |arguments: &[&str]| gateway.chiton(&[&["sandbox", "create", "box"], arguments].concat()).refused();
    insta::assert_snapshot!(refused(&["--extension", "noop"]), @r#"
    error: extension "noop" is not allowed for uid:0 in workspace "default" [refused]
      cure: ask the operator to allow it: [compute.policy."noop"] allow
    "#);
    insta::assert_snapshot!(refused(&["--extension", "fault"]), @r#"
    error: extension "fault" is not allowed for uid:0 in workspace "default" [refused]
      cure: it cannot be asked for, it comes where the operator's rule says: [compute.policy."fault"] match
    "#);
    insta::assert_snapshot!(refused(&["--extension", "address-lease"]), @r#"
    error: extension "address-lease" is not one that this gateway offers [refused]
      cure: known: fleet-labels, noop, fault
    "#);
    insta::assert_snapshot!(refused(&["--extension", "nope"]), @r#"
    error: extension "nope" is not one that this gateway offers [refused]
      cure: known: fleet-labels, noop, fault
    "#);
    assert_eq!(gateway.json(&["sandbox", "list", "--all"]), json!([]));
}

#[test]
fn a_sandbox_keeps_the_chain_and_configs_that_it_was_made_with() {
    if !root() {
        return;
    }
    let mut gateway = Gateway::start(CHAIN);
    let old = gateway.json(&["sandbox", "create", "old"]);
    let id = old["id"].as_str().expect("an id").to_owned();
    let lease = gateway.entries("leases");
    assert_eq!(lease, [old["slots"]["address-lease.address"].as_str().expect("an address")]);

    // The lease moves to another folder and range, and the fault extension is not listed any more.
    gateway.terminate();
    let moved = CHAIN.replace("10.88.0", "10.99.0").replace("{folder}/leases", "{folder}/other-leases");
    gateway.configure(&moved.replace("\"fault\", ", ""));
    gateway.begin();
    let extensions = gateway.json(&["extensions"]);
    let fault = extensions.as_array().expect("a list").iter().find(|extension| extension["name"] == "fault");
    let fault = fault.expect("an extension");
    assert_eq!((&fault["draining"], &fault["sandboxes"], &fault["position"]), (&json!(true), &json!(1), &Value::Null));
    let new = gateway.json(&["sandbox", "create", "new"]);
    assert_eq!(new["chain"].as_array().map(Vec::len), Some(2));
    assert!(gateway.entries("other-leases")[0].starts_with("10.99.0."));
    assert_eq!(gateway.get("old")["chain"], old["chain"]);

    gateway.chiton(&["sandbox", "stop", "old"]).ok();
    gateway.chiton(&["sandbox", "start", "old"]).ok();
    gateway.chiton(&["sandbox", "delete", "old", "new"]).ok();
    let phases = gateway.phases(&id);
    assert_eq!(phases.last().map(String::as_str), Some("after_delete/completed"), "{phases:?}");
    assert_eq!(gateway.entries("leases"), Vec::<String>::new(), "freed where it was taken");
    assert_eq!(gateway.entries("other-leases"), Vec::<String>::new());
}
