//! What is said is read back as it was; what must not be said is refused.

use std::sync::Arc;
use std::time::Duration;

use chiton_driver::{Capabilities, Locality, Point};
use chiton_lifecycle::extension::{Descriptor, Draft, PortableWriter, ReconcileSupport, StepError};
use chiton_model::{DriverId, ExtensionName, Phase};
use serde_json::{Value, json};

use super::{Recorder, apply, describe, failure, read_descriptor, read_failure, said};
use crate::proto::{PlanWriteOp, PrepareHookResponse, plan_write_op};

fn descriptor() -> Descriptor {
    let phases = [Phase::PreparePlan, Phase::BeforeCreate, Phase::AfterDelete];
    let mut descriptor = Descriptor::new("x", "1.2.3", "Says something", phases).expect("a descriptor");
    descriptor.needs.points.insert(Point::Label);
    descriptor.reads_schemas.insert(1);
    descriptor.state_schema = 2;
    descriptor.reconcile = ReconcileSupport::Authoritative;
    descriptor.config_schema = json!({ "type": "object" });
    descriptor
}

fn name() -> ExtensionName {
    ExtensionName::new("x").expect("a name")
}

#[test]
fn a_descriptor_is_read_back_as_it_was() {
    let read = read_descriptor(&name(), describe(&descriptor())).expect("readable");
    assert_eq!(serde_json::to_value(read).expect("JSON"), serde_json::to_value(descriptor()).expect("JSON"));
}

#[test]
fn a_descriptor_that_is_not_what_was_asked_for_is_refused() {
    let wrong = |change: fn(&mut crate::proto::DescribeExtensionResponse), part: &str| {
        let mut answer = describe(&descriptor());
        change(&mut answer);
        let why = read_descriptor(&name(), answer).expect_err("refused");
        assert!(why.contains(part), "{why}");
    };
    wrong(|answer| answer.name = "another".to_owned(), "calls itself \"another\" and is configured as \"x\"");
    wrong(|answer| answer.phases.push("after_lunch".to_owned()), "\"after_lunch\", which there is not");
    wrong(|answer| answer.state_schema = 0, "state_schema is 0");
    wrong(|answer| answer.config_schema_json = "{".to_owned(), "config_schema_json is no JSON document");
    wrong(
        |answer| answer.needs.get_or_insert_default().features.push("wings".to_owned()),
        "a feature \"wings\", which there is not",
    );
}

#[test]
fn failures_keep_their_class() {
    for error in [
        StepError::fatal("no"),
        StepError::Retryable { message: "later".to_owned(), after: Some(Duration::from_millis(7)) },
        StepError::retryable("soon"),
        StepError::Exhausted { resource: "seats".to_owned(), message: "all taken".to_owned() },
    ] {
        assert_eq!(read_failure(&failure(&error)), error);
    }
}

#[test]
fn what_a_process_says_is_fit_to_be_shown() {
    assert_eq!(said("a\x1b[2Jb"), "a\\u{1b}[2Jb");
    let long = said(&"ä".repeat(5000));
    assert!(long.len() <= 4096 + '…'.len_utf8() && long.ends_with('…'), "{}", long.len());
}

/// A driver that has labels only, as a list of pairs: what is portable is not a path.
struct Labels;

impl PortableWriter for Labels {
    fn driver(&self) -> DriverId {
        DriverId::new("d").expect("an id")
    }

    fn write(&self, plan: &mut Value, write: &chiton_driver::PortableWrite) -> Result<(), chiton_model::Error> {
        let chiton_driver::PortableWrite::Label { key, value } = write else { panic!("only labels are offered") };
        plan["labels"].as_array_mut().expect("a list").push(json!([key, value]));
        Ok(())
    }
}

fn draft(plan: Value) -> Draft {
    Draft::by(plan, name(), Arc::new(Labels))
}

fn capabilities() -> Arc<Capabilities> {
    Arc::new(Capabilities {
        id: DriverId::new("d").expect("an id"),
        kind: "d".to_owned(),
        version: "1.0.0".to_owned(),
        default_image: String::new(),
        gateway_manages_lifecycle: false,
        locality: Locality::Local,
        points: [Point::Label].into(),
        limits: [].into(),
        networks: [].into(),
        features: [].into(),
        plan_schema: 1,
        agent: true,
    })
}

#[test]
fn writes_are_carried_out_in_their_order_and_slots_are_declared() {
    let plan = json!({ "labels": [], "a": 1, "b/c": { "~": [1, 2] } });
    let recorder = Arc::new(Recorder::new(plan.clone(), capabilities()));
    let mut theirs = Draft::by(plan.clone(), name(), Arc::clone(&recorder) as _);
    theirs.json_mut()["b/c"]["~"] = json!([2, 3, 4]);
    theirs.portable().label("k", "v").expect("offered");
    let slot = theirs.slot_or("number", "0");
    theirs.json_mut()["a"] = json!(slot);
    let refused = theirs.portable().env("A", "1").expect_err("not offered");
    assert!(refused.to_string().contains("\"env\""), "{refused}");
    let answer = recorder.answer(&theirs);
    assert_eq!(answer.writes.len(), 3, "what was written before and after the label stays before and after it");
    let mut ours = draft(plan);
    apply(answer, &mut ours).expect("applied");
    let expected = json!({ "labels": [["k", "v"]], "a": "<known after apply: x.number>", "b/c": { "~": [2, 3, 4] } });
    assert_eq!(*ours.json(), expected);
    assert_eq!(ours.slots().collect::<Vec<_>>(), [("number", Some("0"))]);
}

fn patched(patch: &Value) -> Result<Value, StepError> {
    let write = PlanWriteOp { write: Some(plan_write_op::Write::PatchJson(patch.to_string())) };
    let mut draft = draft(json!({ "list": vec![0; 8] }));
    apply(PrepareHookResponse { writes: vec![write], ..Default::default() }, &mut draft)?;
    Ok(draft.json().clone())
}

#[test]
fn patches_that_are_none_or_would_fill_the_memory_are_refused() {
    let wrong = |patch: Value, part: &str| {
        let error = patched(&patch).expect_err("refused").to_string();
        assert!(error.contains(part), "{error}");
    };
    wrong(json!({ "op": "add" }), "its patch cannot be applied");
    wrong(json!([{ "op": "remove", "path": "/none" }]), "its patch cannot be applied");
    wrong(json!([{ "op": "explode", "path": "/list" }]), "its patch cannot be applied");
    let doubling: Vec<Value> = (0..64).map(|_| json!({ "op": "copy", "from": "/list", "path": "/list/-" })).collect();
    wrong(json!(doubling), "it copies within a plan of more than");
    let good = patched(&json!([{ "op": "test", "path": "/list/0", "value": 0 }, { "op": "remove", "path": "/list" }]));
    assert_eq!(good.expect("applied"), json!({}));
}
