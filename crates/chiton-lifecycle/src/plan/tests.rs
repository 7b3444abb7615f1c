//! Every kind of rule, who wrote what, slots, digests, and what is said when two writers meet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use chiton_driver::{
    CallError, CallResult, Capabilities, ComputeDriver, CreateCall, DefaultPlan, DriverEvent, FieldRule, Locality,
    Observed, PlanRequest, PortableWrite, Rule, StartCall, marker,
};
use chiton_model::{BackendId, DriverId, Error, ExtensionName, SandboxId};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::diff::diff;
use super::rules::{Rules, below};
use super::{PlanBuilder, SealedPlan, SlotOwner, Writer, digest_json, explain};
use crate::extension::Draft;
use crate::journal::{ActivationStamp, ChainEntry};

/// A driver that has rules and makes nothing.
struct Paper {
    capabilities: Arc<Capabilities>,
    rules: Vec<FieldRule>,
}

fn nothing<T>() -> CallResult<T> {
    Err(CallError::NotRun(Error::internal("this driver only has rules")))
}

#[async_trait]
impl ComputeDriver for Paper {
    fn capabilities(&self) -> Arc<Capabilities> {
        Arc::clone(&self.capabilities)
    }
    async fn backend_id(&self) -> CallResult<BackendId> {
        nothing()
    }
    async fn default_plan(&self, _: &PlanRequest) -> Result<DefaultPlan, Error> {
        nothing().map_err(CallError::into_error)
    }
    fn field_rules(&self) -> &[FieldRule] {
        &self.rules
    }
    fn plan_schema(&self) -> Value {
        Value::Null
    }
    fn write_portable(&self, plan: &mut Value, write: &PortableWrite) -> Result<(), Error> {
        if let PortableWrite::Env { name, value } = write {
            plan["env"][name] = json!(value);
        }
        Ok(())
    }
    async fn validate(&self, _: &Value) -> Result<(), Error> {
        Ok(())
    }
    async fn create(&self, _: &CreateCall) -> CallResult<()> {
        nothing()
    }
    async fn start(&self, _: &StartCall) -> CallResult<()> {
        nothing()
    }
    async fn stop(&self, _: &SandboxId) -> CallResult<()> {
        nothing()
    }
    async fn delete(&self, _: &SandboxId) -> CallResult<()> {
        nothing()
    }
    async fn get(&self, _: &SandboxId) -> CallResult<Option<Observed>> {
        nothing()
    }
    async fn list(&self) -> CallResult<Vec<Observed>> {
        nothing()
    }
    fn watch(&self) -> BoxStream<'static, DriverEvent> {
        futures::stream::pending().boxed()
    }
}

fn name(text: &str) -> ExtensionName {
    ExtensionName::new(text).expect("a valid name")
}

fn rules() -> Vec<FieldRule> {
    vec![
        FieldRule::new("/env", Rule::MergeMap),
        FieldRule::new("/mounts", Rule::Append { key: Some("target".to_owned()) }),
        FieldRule::new("/init", Rule::Append { key: None }),
        FieldRule::new("/limits/*", Rule::SetOnce),
        FieldRule::new("/limits/pids", Rule::Sealed),
        FieldRule::new("/note", Rule::SetOnce),
        FieldRule::new("/id", Rule::MergeMap),
    ]
}

fn base() -> Value {
    json!({
        "image": "one", "env": { "HOME": "/root" }, "mounts": [{ "target": "/a", "source": "/x" }], "init": ["first"],
        "limits": { "cpu": null, "pids": null }, "note": "", "id": marker("sandbox.id"),
    })
}

fn builder() -> PlanBuilder {
    let driver = Paper {
        capabilities: Arc::new(Capabilities {
            id: DriverId::new("paper").expect("valid"),
            kind: "paper".to_owned(),
            version: "1.0.0".to_owned(),
            default_image: String::new(),
            gateway_manages_lifecycle: false,
            locality: Locality::Local,
            points: BTreeSet::new(),
            limits: BTreeSet::new(),
            networks: BTreeSet::new(),
            features: BTreeSet::new(),
            plan_schema: 1,
            agent: false,
        }),
        rules: rules(),
    };
    let slots = BTreeMap::from([("/id".to_owned(), "sandbox.id".to_owned())]);
    let from_request = vec!["/image".to_owned()];
    PlanBuilder::new(Arc::new(driver), DefaultPlan { plan: base(), slots, from_request, from_image: Vec::new() })
}

fn write(builder: &mut PlanBuilder, who: &str, change: impl FnOnce(&mut Draft)) -> Result<(), Error> {
    write_over(builder, who, |_, _| false, change)
}

fn write_over(
    builder: &mut PlanBuilder,
    who: &str,
    overrides: impl Fn(&ExtensionName, &str) -> bool,
    change: impl FnOnce(&mut Draft),
) -> Result<(), Error> {
    let mut draft = builder.draft(&name(who));
    change(&mut draft);
    builder.apply(&name(who), draft, &overrides)
}

fn set(builder: &mut PlanBuilder, who: &str, pointer: &str, value: Value) -> Result<(), Error> {
    write(builder, who, |draft| *draft.json_mut().pointer_mut(pointer).expect("a place") = value)
}

fn sealed(builder: PlanBuilder) -> SealedPlan {
    builder.seal(&Vec::new()).expect("a plan has a digest")
}

fn link(config: &str, version: &str) -> ChainEntry {
    let stamp = ActivationStamp { rule: "always".to_owned(), inputs: String::new(), principal: "tester".to_owned() };
    ChainEntry {
        name: name("ext"),
        version: version.to_owned(),
        state_schema: 1,
        config: config.to_owned(),
        activation: stamp,
        observe: false,
    }
}

#[test]
fn a_path_without_a_rule_is_sealed() {
    let refused = set(&mut builder(), "ext", "/image", json!("two")).expect_err("no rule");
    assert!(
        refused.message.contains("\"ext\" may not write /image") && refused.message.contains("sealed"),
        "{refused}"
    );
    assert!(refused.cure.is_some());
}

#[test]
fn the_longest_rule_decides_and_a_literal_beats_a_wildcard() {
    let mut builder = builder();
    set(&mut builder, "ext", "/limits/cpu", json!("1")).expect("open");
    assert!(set(&mut builder, "ext", "/limits/pids", json!("1")).is_err());
    let rules = rules();
    let rules = Rules::new(&rules);
    assert_eq!(rules.govern("/limits/pids/max").map(|governed| governed.anchor), Some("/limits/pids".to_owned()));
    assert!(rules.govern("/limits").is_none());
    assert!(rules.govern("/environment").is_none(), "a rule ends at a segment's end");
}

#[test]
fn a_field_that_is_set_once_has_one_writer() {
    let mut builder = builder();
    set(&mut builder, "one", "/note", json!("a")).expect("the first");
    let refused = set(&mut builder, "two", "/note", json!("b")).expect_err("the second");
    for word in ["\"one\"", "\"two\"", "/note"] {
        assert!(refused.message.contains(word), "{refused}");
    }
    assert!(refused.cure.as_ref().is_some_and(|cure| cure.contains("overrides = [\"one:/note\"]")), "{refused:?}");
    assert_eq!(builder.plan["note"], "a", "a refused draft leaves nothing");
}

#[test]
fn a_map_is_merged_by_key_and_one_key_has_one_writer() {
    let mut builder = builder();
    write(&mut builder, "one", |draft| draft.portable().env("A", "1").expect("open")).expect("a key of its own");
    write(&mut builder, "two", |draft| draft.portable().env("B", "2").expect("open")).expect("a key of its own");
    assert!(write(&mut builder, "two", |draft| draft.portable().env("A", "3").expect("open")).is_err());
    assert_eq!(builder.plan["env"], json!({ "HOME": "/root", "A": "1", "B": "2" }));
    assert_eq!(builder.owners["/env/A"], Writer::Extension(name("one")));
}

#[test]
fn removing_anothers_key_is_a_write_too() {
    let mut builder = builder();
    write(&mut builder, "one", |draft| draft.portable().env("A", "1").expect("open")).expect("open");
    let removed = write(&mut builder, "two", |draft| {
        draft.json_mut()["env"].as_object_mut().expect("a map").remove("A");
    });
    assert!(removed.is_err_and(|refused| refused.message.contains("/env/A")));
}

#[test]
fn a_keyed_list_takes_elements_of_new_keys_only_from_each_writer() {
    let mount = |target: &str| json!({ "target": target, "source": "/y" });
    let push = |element: Value| {
        move |draft: &mut Draft| {
            draft.json_mut()["mounts"].as_array_mut().expect("a list").push(element);
        }
    };
    let mut builder = builder();
    write(&mut builder, "one", push(mount("/b"))).expect("a new key");
    write(&mut builder, "two", push(mount("/c"))).expect("a new key");
    let twice = write(&mut builder, "two", push(mount("/b"))).expect_err("the same key twice in the list");
    assert!(twice.message.contains("two elements have target \"/b\""), "{twice}");
    let taken = set(&mut builder, "two", "/mounts/1/source", json!("/z")).expect_err("another's element");
    assert!(taken.message.contains("/mounts/~1b") && taken.message.contains("\"one\""), "{taken}");
    let gone =
        write(&mut builder, "one", |draft| drop(draft.json_mut()["mounts"].as_array_mut().expect("a list").remove(0)));
    assert!(gone.is_err_and(|refused| refused.message.contains("only takes additions")));
    let bare = write(&mut builder, "one", push(json!({ "source": "/y" }))).expect_err("no key");
    assert!(bare.message.contains("needs a string \"target\""), "{bare}");
}

#[test]
fn an_element_of_a_keyed_list_keeps_its_place_and_so_does_its_slot() {
    let mut builder = builder();
    write(&mut builder, "ipam", |draft| {
        let slot = draft.slot("source");
        let mounts = draft.json_mut()["mounts"].as_array_mut().expect("a list");
        mounts.push(json!({ "target": "/b", "source": slot }));
    })
    .expect("a new key");
    let first = write(&mut builder, "two", |draft| {
        let mounts = draft.json_mut()["mounts"].as_array_mut().expect("a list");
        mounts.insert(0, json!({ "target": "/c", "source": "/y" }));
    });
    assert!(first.is_err_and(|refused| refused.message.contains("in order, at the front")));
    let turned =
        write(&mut builder, "two", |draft| draft.json_mut()["mounts"].as_array_mut().expect("a list").reverse());
    assert!(turned.is_err());
    let plan = sealed(builder);
    assert_eq!(plan.filled(|_| Some("/data".to_owned()))["mounts"][1], json!({ "target": "/b", "source": "/data" }));
}

#[test]
fn a_plan_that_could_not_be_read_back_is_refused() {
    let deep = (0..70).fold(json!(1), |inner, _| json!([inner]));
    let refused = set(&mut builder(), "ext", "/note", deep).expect_err("too deep");
    assert!(refused.message.contains("64 levels") && refused.cure.is_some(), "{refused}");
}

#[test]
fn a_write_over_null_is_still_one_when_it_is_read_back() {
    let mut builder = builder();
    write(&mut builder, "ext", |draft| {
        draft.json_mut()["limits"].as_object_mut().expect("a map").remove("cpu");
    })
    .expect("open");
    let plan = sealed(builder);
    let again: SealedPlan = serde_json::from_value(json!(plan)).expect("it is one");
    assert_eq!(again, plan);
    assert_eq!((&again.writes[0].1[0].before, &again.writes[0].1[0].after), (&Some(Value::Null), &None));
}

#[test]
fn a_list_without_a_key_keeps_its_old_elements_at_the_front() {
    let mut builder = builder();
    set(&mut builder, "one", "/init", json!(["first", "second"])).expect("appended");
    assert!(set(&mut builder, "two", "/init", json!(["third", "first", "second"])).is_err());
    assert!(set(&mut builder, "two", "/init", json!(["first"])).is_err());
    set(&mut builder, "two", "/init", json!(["first", "second", "third"])).expect("appended");
    assert_eq!(builder.owners["/init/2"], Writer::Extension(name("two")));
}

#[test]
fn an_override_replaces_the_write_its_owner_and_its_slot() {
    let mut builder = builder();
    write(&mut builder, "ipam", |draft| {
        let slot = draft.slot("ip");
        draft.portable().env("IP", &slot).expect("open");
    })
    .expect("a slot");
    let may = |earlier: &ExtensionName, path: &str| earlier.as_str() == "ipam" && path == "/env/IP";
    write_over(&mut builder, "two", may, |draft| draft.portable().env("IP", "fixed").expect("open")).expect("by leave");
    let plan = sealed(builder);
    assert!(!plan.slots.contains_key("/env/IP"));
    assert_eq!(plan.owners["/env/IP"], Writer::Extension(name("two")));
    assert_eq!(plan.writes[1].1[0].overrides, Some(name("ipam")));
}

#[test]
fn a_leave_for_one_path_is_no_leave_for_another() {
    let mut builder = builder();
    write(&mut builder, "one", |draft| draft.portable().env("A", "1").expect("open")).expect("open");
    let may = |_: &ExtensionName, path: &str| path == "/env/B";
    assert!(write_over(&mut builder, "two", may, |draft| draft.portable().env("A", "2").expect("open")).is_err());
}

#[test]
fn what_the_gateway_fills_later_cannot_be_written_even_where_a_rule_opens_it() {
    let refused = set(&mut builder(), "ext", "/id", json!("mine")).expect_err("a gateway's slot");
    assert!(refused.message.contains("the gateway fills it later"), "{refused}");
}

#[test]
fn a_slot_stands_where_its_writer_put_it_and_nowhere_else() {
    let mut builder = builder();
    write(&mut builder, "ipam", |draft| {
        let (ip, zone) = (draft.slot("ip"), draft.slot_or("zone", "none"));
        draft.portable().env("IP", &ip).expect("open");
        draft.portable().env("ZONE", &zone).expect("open");
    })
    .expect("slots");
    let plan = sealed(builder);
    let of_ipam = name("ipam");
    assert_eq!(plan.slots_of(&of_ipam).map(|(slot, _)| slot).collect::<Vec<_>>(), ["ip", "zone"]);
    assert_eq!(plan.slots["/env/ZONE"].default.as_deref(), Some("none"));
    assert_eq!(plan.slots["/id"].owner, SlotOwner::Gateway);
    let filled = plan.filled(|slot| (slot.name == "ipam.ip").then(|| "10.0.0.1".to_owned()));
    assert_eq!(filled["env"]["IP"], "10.0.0.1");
    assert_eq!(filled["env"]["ZONE"], marker("ipam.zone"), "what is not known keeps its marker");
}

#[test]
fn a_declared_slot_that_stands_nowhere_is_refused() {
    let refused = write(&mut builder(), "ipam", |draft| drop(draft.slot("ip"))).expect_err("it is nowhere");
    assert!(refused.message.contains("slot \"ip\"") && refused.message.contains("no field that it owns"), "{refused}");
    // Inside a longer text nobody could fill it.
    let mixed = write(&mut builder(), "ipam", |draft| {
        let slot = draft.slot("ip");
        draft.portable().env("URL", &format!("http://{slot}")).expect("open");
    });
    assert!(mixed.is_err());
}

#[test]
fn writing_the_standing_value_is_no_write() {
    let mut builder = builder();
    write(&mut builder, "ext", |draft| draft.portable().env("HOME", "/root").expect("open")).expect("nothing changes");
    assert!(builder.writes.is_empty());
    assert!(!builder.owners.contains_key("/env/HOME"));
}

#[test]
fn the_digest_depends_on_plan_chain_and_config_and_on_nothing_else() {
    let digest = |chain: &[ChainEntry], note: &str| {
        let mut builder = builder();
        set(&mut builder, "ext", "/note", json!(note)).expect("open");
        builder.notes.push(format!("a note of {note}"));
        builder.seal(&chain.to_vec()).expect("sealed").digest
    };
    let standard = digest(&[link("c", "1.0.0")], "a");
    assert_eq!(standard, digest(&[link("c", "1.0.0")], "a"));
    assert!(standard.starts_with("sha256:") && standard.len() == 71);
    let others = [
        digest(&[link("c", "1.0.0")], "b"),
        digest(&[link("d", "1.0.0")], "a"),
        digest(&[link("c", "1.0.1")], "a"),
        digest(&[], "a"),
        digest(&[ChainEntry { observe: true, ..link("c", "1.0.0") }], "a"),
    ];
    assert!(others.iter().all(|other| *other != standard));
    let mut other_principal = link("c", "1.0.0");
    other_principal.activation.principal = "somebody".to_owned();
    assert_eq!(digest(&[other_principal], "a"), standard, "who asked is no part of the plan");
}

#[test]
fn a_documents_digest_ignores_the_order_of_keys() {
    let one: Value = serde_json::from_str(r#"{"a":1,"b":{"c":2,"d":3}}"#).expect("JSON");
    let two: Value = serde_json::from_str(r#"{"b":{"d":3,"c":2},"a":1}"#).expect("JSON");
    assert_eq!(digest_json(&one).expect("a digest"), digest_json(&two).expect("a digest"));
}

#[test]
fn an_expected_digest_must_match() {
    let plan = sealed(builder());
    assert!(plan.expect(&plan.digest).is_ok());
    let refused = plan.expect("sha256:00").expect_err("another");
    assert!(refused.message.contains(&plan.digest) && refused.message.contains("sha256:00"), "{refused}");
}

#[test]
fn explain_names_the_writer_and_slot_of_every_value() {
    let mut builder = builder();
    write(&mut builder, "ipam", |draft| {
        let slot = draft.slot("ip");
        draft.portable().env("IP", &slot).expect("open");
        let mounts = draft.json_mut()["mounts"].as_array_mut().expect("a list");
        mounts.push(json!({ "target": "/b", "source": "/y" }));
    })
    .expect("open");
    let plan = sealed(builder);
    let explained = explain(&plan, &plan.plan);
    let of = |path: &str| explained.iter().find(|leaf| leaf.path == path).expect("a leaf");
    assert_eq!(of("/image").writer, Writer::Request);
    assert_eq!(of("/env/HOME").writer, Writer::Driver);
    assert_eq!(of("/env/IP").writer, Writer::Extension(name("ipam")));
    assert_eq!(of("/env/IP").slot.as_deref(), Some("ipam.ip"));
    assert_eq!(of("/mounts/0/source").writer, Writer::Driver);
    assert_eq!(of("/mounts/1/source").writer, Writer::Extension(name("ipam")));
}

/// Small documents over few keys, so that two of them often meet.
fn document() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), "[a/~]{0,2}".prop_map(Value::from)];
    leaf.prop_recursive(3, 16, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[ab/~]{1,2}", inner, 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn equal_documents_have_no_difference_and_unequal_ones_have(one in document(), two in document()) {
        let rules = rules();
        let rules = Rules::new(&rules);
        prop_assert!(diff(&one, &one, &rules).is_empty());
        let empty = |value: &Value| value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty);
        if one != two && !(empty(&one) && empty(&two)) {
            prop_assert!(!diff(&one, &two, &rules).is_empty());
        }
    }

    #[test]
    fn every_difference_is_where_it_says_and_none_lies_in_another(one in document(), two in document()) {
        let rules = rules();
        let changes = diff(&one, &two, &Rules::new(&rules));
        for (index, change) in changes.iter().enumerate() {
            prop_assert_eq!(one.pointer(&change.place), change.before.as_ref());
            prop_assert_eq!(two.pointer(&change.place), change.after.as_ref());
            let inside = changes.iter().enumerate().find(|(other, inner)| *other != index && below(&inner.path, &change.path));
            prop_assert!(inside.is_none(), "{:?} lies in {:?}", inside, change);
        }
    }
}
