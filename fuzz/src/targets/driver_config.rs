//! What a request says to one driver or extension alone: documents that only they can read.

use std::collections::BTreeMap;
use std::path::PathBuf;

use chiton_driver::{PlanRequest, PortableWrite, marker};
use chiton_driver_oci::fuzzing::{default_plan, field_rules, write_portable};
use chiton_driver_oci::{OciOptions, OciPlan};
use chiton_lifecycle::extension::ConfigIssue;
use chiton_model::{DriverId, GatewayId, Resources, WorkspaceName};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Target;
use crate::behaviour::{note, note_text};
use crate::check::{explained, round_trip, sayable};

pub(super) const TARGET: Target = Target {
    name: "driver_config",
    about: "documents of the oci driver and of the extensions: options, plans, portable writes",
    run,
    seeds,
    words: &[
        "hostname",
        "read_only",
        "stop_grace_seconds",
        "host",
        "dir:/",
        "dir:",
        "env",
        "labels",
        "10.0.0.1-10.0.0.9",
        "10.0.0.1",
        "range",
        "cpu",
        "memory",
        "pids",
        "500m",
        "a/b",
        "m~n",
        "host_image",
        "first_id",
        "Annotation",
        "Mount",
        "\u{202e}",
    ],
    longest: 4096,
    short: 4_000,
    memory: (2048, 2 << 20),
};

/// A request as far as a driver sees it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Input {
    image: String,
    command: Vec<String>,
    env: BTreeMap<String, String>,
    secrets: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    workdir: String,
    name: Option<String>,
    resources: Resources,
    driver_config: Value,
    writes: Vec<(String, String, String)>,
    plan: Option<Value>,
}

fn seeds() -> Vec<Vec<u8>> {
    let inputs = [
        json!({ "driver_config": { "hostname": "box", "read_only": true, "stop_grace_seconds": 3 } }),
        json!({ "driver_config": {}, "env": { "A": "1", "a/b": "2" }, "secrets": { "T": "db" }, "labels": { "x/y": "z" }, "name": "web" }),
        json!({ "driver_config": {}, "image": "dir:/usr", "command": ["sh"], "workdir": "/tmp", "resources": { "cpu": "1", "pids": 3 } }),
        json!({ "driver_config": { "hostnam": 1 } }),
        json!({ "driver_config": {}, "writes": [["env", "A", "1"], ["label", "a", "b"], ["annotation", "a", "b"], ["mount", "/a", "/b"],
            ["device", "/dev/null", ""], ["network", "10.0.0.1", ""], ["resource", "cpu", "500m"], ["resource", "pids", "9"]] }),
        json!({ "range": "10.0.0.1-10.0.0.9", "folder": "/srv/leases" }),
        json!({ "labels": { "fleet": "prod" } }),
        json!({ "host_image": true, "dir_roots": ["/srv"], "first_id": 65536, "stop_grace_seconds": 4, "log_bytes": 4096 }),
        json!({ "driver_config": {}, "plan": plan() }),
    ];
    inputs.map(|input| input.to_string().into_bytes()).into()
}

fn options() -> OciOptions {
    let id = DriverId::new("oci").expect("an id");
    let gateway = GatewayId::new("g-1").expect("an id");
    let folder = |name: &str| PathBuf::from("/nowhere/chiton-fuzz").join(name);
    OciOptions::new(id, gateway, folder("state"), folder("run"), &[])
}

fn request(input: &Input) -> PlanRequest {
    PlanRequest {
        image: input.image.clone(),
        command: input.command.clone(),
        env: input.env.clone(),
        secrets: input.secrets.clone(),
        labels: input.labels.clone(),
        resources: input.resources.clone(),
        network: chiton_model::NetworkSpec::default(),
        volumes: Vec::new(),
        workdir: input.workdir.clone(),
        name: input.name.clone(),
        workspace: WorkspaceName::default(),
        driver_config: input.driver_config.clone(),
    }
}

fn plan() -> Value {
    let input = Input { driver_config: json!({}), ..Input::default() };
    default_plan(&request(&input), &options()).map_or(Value::Null, |default| default.plan)
}

fn run(data: &[u8]) {
    let Ok(document) = serde_json::from_slice::<Value>(data) else { return };
    checked(&document);
    let Ok(input) = serde_json::from_value::<Input>(document) else { return };
    if let Some(plan) = &input.plan {
        match OciPlan::decode(plan) {
            Ok(typed) => {
                note("a plan");
                round_trip(&typed);
            }
            Err(error) => explained(&error),
        }
    }
    let default = match default_plan(&request(&input), &options()) {
        Ok(default) => default,
        Err(error) => return explained(&error),
    };
    note(("planned", default.slots.len().min(4), default.from_request.len().min(6)));
    let typed = OciPlan::decode(&default.plan).expect("the driver reads its own plan");
    round_trip(&typed);
    for (pointer, slot) in &default.slots {
        assert_eq!(
            default.plan.pointer(pointer),
            Some(&json!(marker(slot))),
            "slot {slot} does not stand at {pointer}"
        );
    }
    for pointer in &default.from_request {
        assert!(default.plan.pointer(pointer).is_some(), "{pointer} is from the request and not there");
    }
    let again = default_plan(&request(&input), &options()).expect("it was planned a moment ago");
    assert_eq!(again, default, "the same request gives another plan");
    let mut plan = default.plan;
    for (kind, one, two) in &input.writes {
        portable(&mut plan, kind, one, two);
    }
}

fn portable(plan: &mut Value, kind: &str, one: &str, two: &str) {
    let (first, second) = (one.to_owned(), two.to_owned());
    let write = match kind {
        "env" => PortableWrite::Env { name: first, value: second },
        "label" => PortableWrite::Label { key: first, value: second },
        "annotation" => PortableWrite::Annotation { key: first, value: second },
        "mount" => PortableWrite::Mount { source: first, target: second, read_only: true },
        "device" => PortableWrite::Device { path: first },
        "network" => PortableWrite::Network { address: first },
        _ => PortableWrite::Resource { name: first, quantity: second },
    };
    let before = plan.clone();
    match write_portable(plan, &write) {
        Ok(()) => {
            let written = plan.clone();
            write_portable(plan, &write).expect("it was written a moment ago");
            assert_eq!(*plan, written, "written twice it is another plan");
            let rules = field_rules();
            for change in chiton_lifecycle::plan::fuzzing::differences(&before, plan, &rules) {
                let rule = chiton_lifecycle::plan::fuzzing::govern(&rules, &change.path);
                assert!(rule.is_some(), "a portable write changed {}, which is sealed", change.path);
            }
            note(kind);
        }
        Err(error) => {
            explained(&error);
            assert_eq!(*plan, before, "a refused write left something");
        }
    }
}

/// Every document as the config of each extension and of the driver.
fn checked(document: &Value) {
    let kinds = [chiton_fleet_labels::extension(), chiton_address_lease::extension()];
    let mut issues: Vec<ConfigIssue> = kinds.iter().flatten().flat_map(|kind| kind.check(document)).collect();
    if document.is_object() {
        issues.extend((chiton::oci().check)(document));
    }
    note(issues.len().min(6));
    for issue in issues {
        sayable(&issue.message);
        note_text(&issue.message);
        assert!(issue.pointer.is_empty() || issue.pointer.starts_with('/'), "{:?} is no pointer", issue.pointer);
    }
}
