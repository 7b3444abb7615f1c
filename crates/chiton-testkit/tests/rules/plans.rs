//! Plans through the engine: ownership, overrides, slots, copies, digests.

use chiton_lifecycle::CreateRequest;
use chiton_lifecycle::engine::Preview;
use chiton_lifecycle::extension::StepError;
use chiton_lifecycle::policy::FailurePolicy;
use chiton_model::{Error, ErrorKind, ExtensionName, Phase};
use chiton_testkit::{Act, DriverSpec, ExtensionScript, Lab};

use crate::settle;

fn env(name: &str, variable: &'static str, value: &'static str) -> ExtensionScript {
    ExtensionScript::everywhere(name).writes(move |draft| draft.portable().env(variable, value))
}

fn lab(extensions: impl IntoIterator<Item = ExtensionScript>) -> Lab {
    let mut lab = Lab::new(100).driver(DriverSpec::new("fake"));
    for extension in extensions {
        lab = lab.extension(extension);
    }
    lab
}

fn plan(lab: &Lab, request: CreateRequest) -> Result<Preview, Error> {
    let (engine, principal) = (lab.engine(), lab.request().principal);
    lab.block_on(async move { engine.plan(&principal, &request).await })
}

#[test]
fn two_writers_of_one_field_are_refused_and_both_are_named() {
    let mut lab = lab([env("one", "A", "1"), env("two", "A", "2")]);
    lab.start();
    let refused = lab.ask_create("x").expect("no crash").expect_err("two writers");
    for word in ["\"one\"", "\"two\"", "/env/A"] {
        assert!(refused.message.contains(word), "{refused}");
    }
    assert!(lab.journal().rows().is_empty());
}

#[test]
fn writing_the_standing_value_is_no_conflict() {
    let mut lab = lab([env("one", "A", "1"), env("two", "A", "1")]);
    lab.start();
    let preview = plan(&lab, CreateRequest::default()).expect("a plan");
    assert_eq!(preview.plan.writes.len(), 1);
}

#[test]
fn an_override_that_the_operator_declared_wins_and_is_recorded() {
    let mut lab = Lab::new(101).driver(DriverSpec::new("fake")).extension(env("one", "A", "1")).extension_with(
        env("two", "A", "2"),
        |policy| {
            policy.overrides = vec![(ExtensionName::new("one").expect("valid"), "/env/A".to_owned())];
        },
    );
    lab.start();
    let (id, _) = lab.create("x");
    let row = lab.row(&id).expect("a row");
    assert_eq!(row.plan.plan["env"]["A"], "2");
    let (_, writes) = row.plan.writes.last().expect("two wrote");
    assert_eq!(writes[0].overrides.as_ref().map(ExtensionName::as_str), Some("one"));
}

#[test]
fn a_sealed_field_is_refused_by_its_name() {
    let mut lab = lab([ExtensionScript::everywhere("ext").writes(|draft| {
        draft.json_mut()["image"] = "other".into();
        Ok(())
    })]);
    lab.start();
    let refused = lab.ask_create("x").expect("no crash").expect_err("sealed");
    assert!(refused.message.contains("\"ext\"") && refused.message.contains("/image"), "{refused}");
}

#[test]
fn a_slot_is_filled_for_the_driver_and_unknown_in_a_dry_run() {
    let mut lab = lab([ExtensionScript::everywhere("ipam").slot("ip", "IP")]);
    lab.start();
    let preview = plan(&lab, CreateRequest::default()).expect("a plan");
    assert_eq!(preview.plan.plan["env"]["IP"], "<known after apply: ipam.ip>");
    let (id, _) = lab.create("x");
    let object = lab.platform().object(&id).expect("an object");
    assert_eq!(object.plan["env"]["IP"], format!("ip-of-{id}"));
}

#[test]
fn a_slot_too_few_undoes_the_create_and_names_the_slot() {
    let mut lab = lab([ExtensionScript::everywhere("ipam").slot("ip", "IP")]);
    lab.start();
    lab.script("ipam").next(Phase::BeforeCreate, Act::WrongSlots);
    let (id, _) = lab.create("x");
    let failure = lab.row(&id).and_then(|row| row.failure).expect("a failure");
    assert!(failure.cause.contains("\"ip\""), "{failure}");
    settle(&lab);
}

#[test]
fn an_optional_extension_that_fails_in_prepare_plan_is_off_the_chain_with_its_writes() {
    let mut lab = Lab::new(102)
        .driver(DriverSpec::new("fake"))
        .extension_with(env("ext", "A", "1"), |policy| policy.failure = FailurePolicy::Optional);
    lab.start();
    lab.script("ext").next(Phase::PreparePlan, Act::Fail(StepError::fatal("scripted")));
    let (id, _) = lab.create("x");
    let row = lab.row(&id).expect("a row");
    assert!(row.chain.is_empty());
    assert!(row.plan.plan["env"].get("A").is_none());
    assert!(row.plan.notes.iter().any(|note| note.contains("ext")), "{:?}", row.plan.notes);
    lab.delete_sandbox(&id).expect("deleted");
    settle(&lab);
    assert!(lab.ledger().hooks().iter().all(|hook| hook.subject.sandbox().is_none()));
}

#[test]
fn an_optional_extension_with_a_bare_slot_is_refused_at_seal() {
    let mut lab = Lab::new(103).driver(DriverSpec::new("fake")).extension_with(
        ExtensionScript::everywhere("ext").slot("ip", "IP"),
        |policy| {
            policy.failure = FailurePolicy::Optional;
        },
    );
    lab.start();
    let refused = plan(&lab, CreateRequest::default()).expect_err("a bare slot of an optional extension");
    assert!(refused.message.contains("\"ext\"") && refused.message.contains("no default"), "{refused}");
}

#[test]
fn an_observer_writes_to_a_copy_and_takes_part_in_no_effect() {
    let mut lab = Lab::new(104)
        .driver(DriverSpec::new("fake"))
        .extension_with(env("ext", "A", "1"), |policy| policy.failure = FailurePolicy::Observe);
    lab.start();
    let (id, _) = lab.create("x");
    assert!(lab.row(&id).expect("a row").plan.plan["env"].get("A").is_none());
    lab.stop_sandbox(&id).expect("stopped");
    lab.delete_sandbox(&id).expect("deleted");
    settle(&lab);
    let called: Vec<Phase> = lab.ledger().hooks().into_iter().map(|hook| hook.phase).collect();
    assert_eq!(called, [Phase::ApproveStop], "its vote is heard and does not count");
}

#[test]
fn the_digest_is_the_same_in_another_engine_and_another_config_gives_another() {
    let digest = |tag: &str| {
        let mut lab = lab([env("one", "A", "1"), ExtensionScript::everywhere("ipam").slot("ip", "IP")]);
        lab.reconfigure("one", serde_json::json!({ "tag": tag }));
        lab.start();
        plan(&lab, CreateRequest::default()).expect("a plan").plan.digest
    };
    assert_eq!(digest("a"), digest("a"));
    assert_ne!(digest("a"), digest("b"));
}

#[test]
fn a_noop_changes_nothing_but_the_chain() {
    let plain = || {
        let mut lab = lab([]);
        lab.start();
        plan(&lab, CreateRequest::default()).expect("a plan")
    };
    let mut with = lab([ExtensionScript::everywhere("noop")]);
    with.start();
    let noop = plan(&with, CreateRequest::default()).expect("a plan");
    assert_eq!(plain().plan.plan, noop.plan.plan);
    assert_eq!(plain().plan.slots, noop.plan.slots);
    assert!(plain().chain.is_empty());
    assert_eq!(noop.chain.len(), 1);
}

#[test]
fn a_create_with_the_expected_digest_passes_and_with_another_stores_nothing() {
    let mut lab = lab([env("one", "A", "1")]);
    lab.start();
    let digest = plan(&lab, CreateRequest::default()).expect("a plan").plan.digest;
    let create = |expected: &str| {
        let request = CreateRequest { expect_plan: Some(expected.to_owned()), ..CreateRequest::default() };
        let (engine, asked) = (lab.engine(), lab.request());
        lab.block_on(async move { engine.create(asked, request).await })
    };
    let refused = create(&format!("sha256:{}", "0".repeat(64))).expect_err("another digest");
    assert!(matches!(refused.kind, ErrorKind::Refused { .. }) && refused.message.contains(&digest), "{refused}");
    assert!(lab.journal().rows().is_empty());
    create(&digest).expect("the expected one");
    settle(&lab);
}

#[test]
fn a_failing_look_of_a_required_extension_stores_nothing() {
    for phase in [Phase::ValidateRequest, Phase::PreparePlan, Phase::ValidatePlan] {
        for act in [Act::Fail(StepError::fatal("scripted")), Act::Hang, Act::Panic] {
            let mut lab = lab([ExtensionScript::everywhere("ext")]);
            lab.start();
            lab.script("ext").next(phase, act.clone());
            let before = lab.ledger().len();
            let refused = lab.ask_create("x").expect("no crash").expect_err("refused");
            assert!(refused.message.contains("\"ext\""), "{phase} {act:?}: {refused}");
            let stored = lab.ledger().since(before);
            assert!(!stored.iter().any(|entry| matches!(entry.what, chiton_testkit::What::Commit(_))));
        }
    }
}

#[test]
fn an_unhealthy_required_extension_makes_creates_fail_early() {
    let mut lab = lab([ExtensionScript::everywhere("ext")]);
    lab.start();
    lab.script("ext").unhealthy(Some((lab.world().wall(), "its server is away")));
    let refused = lab.ask_create("x").expect("no crash").expect_err("unavailable");
    assert!(refused.message.contains("unavailable since") && refused.message.contains("its server is away"));
    lab.script("ext").unhealthy(None);
    lab.create("x");
    settle(&lab);
}
