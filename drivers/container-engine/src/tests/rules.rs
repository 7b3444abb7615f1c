//! Field rules and portable writes.

use std::collections::BTreeSet;

use chiton_driver::{PortableWrite, Rule};
use chiton_model::ErrorKind;
use serde_json::{Value, json};

use super::{generous, plan_of, planned, request};
use crate::plan::{EnginePlan, MountPlan, field_rules, write_portable};

#[test]
fn rules_name_fields_of_the_schema_and_all_others_are_sealed() {
    let schema = schemars::schema_for!(EnginePlan).to_value();
    let fields: BTreeSet<String> = schema["properties"].as_object().unwrap().keys().cloned().collect();
    let mut named = BTreeSet::new();
    for rule in field_rules() {
        let pointer = rule.path.clone();
        let first = pointer.split('/').nth(1).unwrap().to_owned();
        assert!(fields.contains(&first), "{pointer} is no field");
        assert_ne!(rule.rule, Rule::Sealed, "{pointer}: what is not named is sealed");
        named.insert(first);
    }
    // Whoever adds a field decides here whether extensions may write it.
    let sealed: Vec<&str> = fields.iter().filter(|field| !named.contains(*field)).map(String::as_str).collect();
    let wanted = "agent cdi_devices command image sandbox secrets security stop_grace_seconds user volumes";
    let wanted: Vec<&str> = wanted.split(' ').collect();
    assert_eq!(sealed, wanted);
}

#[test]
fn the_plan_reads_the_same_when_it_is_written_again_and_nothing_else_is_read() {
    let plan = planned(&request(json!({ "hostname": "inside" })), &generous()).unwrap();
    assert_eq!(json!(EnginePlan::decode(&plan).unwrap()), plan);
    for (pointer, object) in [("", &plan), ("/sandbox", &plan["sandbox"]), ("/resources", &plan["resources"])] {
        let mut more = object.clone();
        more.as_object_mut().unwrap().insert("unheard_of".to_owned(), json!(1));
        let mut changed = plan.clone();
        *changed.pointer_mut(pointer).unwrap() = more;
        let error = EnginePlan::decode(&changed).expect_err(pointer);
        assert!(error.message.contains("unheard_of"), "{}", error.message);
    }
}

fn written(write: &PortableWrite) -> Result<EnginePlan, chiton_model::Error> {
    let mut plan: Value = planned(&request(json!({})), &generous()).unwrap();
    write_portable("paper", &mut plan, write)?;
    // Written again it is the same.
    let once = plan.clone();
    write_portable("paper", &mut plan, write)?;
    assert_eq!(once, plan);
    EnginePlan::decode(&plan)
}

#[test]
fn portable_writes_reach_their_fields() {
    let text = |text: &str| text.to_owned();
    let env = written(&PortableWrite::Env { name: text("A"), value: text("b") }).unwrap();
    assert_eq!(env.env["A"], "b");
    let label = written(&PortableWrite::Label { key: text("a/b"), value: text("c") }).unwrap();
    assert_eq!(label.labels["a/b"], "c");
    let mount = PortableWrite::Mount { source: text("/usr"), target: text("/shown"), read_only: true };
    let bind = MountPlan::Bind { source: text("/usr"), target: text("/shown"), read_only: true, selinux_label: None };
    assert_eq!(written(&mount).unwrap().mounts, [bind]);
    let device = written(&PortableWrite::Device { path: text("/dev/null") }).unwrap();
    assert_eq!(device.devices[0].path, "/dev/null");
    let network = written(&PortableWrite::Network { address: text("10.0.0.2") }).unwrap();
    assert_eq!(network.network.address.as_deref(), Some("10.0.0.2"));
    for (name, quantity) in [("cpu", "250m"), ("memory", "64Mi"), ("pids", "64"), ("open_files", "128")] {
        let write = PortableWrite::Resource { name: text(name), quantity: text(quantity) };
        let resources = json!(written(&write).unwrap().resources);
        assert!(resources.get(name).is_some_and(|value| !value.is_null()), "{name}: {resources}");
    }
    let annotation = written(&PortableWrite::Annotation { key: text("a"), value: text("b") }).unwrap_err();
    assert!(matches!(annotation.kind, ErrorKind::Unsupported { .. }), "{annotation:?}");
    let strange = written(&PortableWrite::Resource { name: text("disk"), quantity: text("1Gi") });
    assert!(strange.unwrap_err().message.contains("disk"));
}

#[test]
fn a_secret_takes_the_place_of_an_open_value_and_is_a_slot() {
    let mut asked = request(json!({}));
    asked.env.insert("KEY".to_owned(), "in the open".to_owned());
    asked.secrets.insert("KEY".to_owned(), "vault".to_owned());
    let plan = plan_of(&asked, &generous());
    assert!(!plan.env.contains_key("KEY"));
    assert!(plan.secrets["KEY"].contains("secret.vault"), "{}", plan.secrets["KEY"]);
}
