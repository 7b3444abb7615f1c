//! The request's own block: every key is taken, every other is refused, nothing is ignored.

use chiton_model::ErrorKind;
use serde_json::{Map, Value, json};

use super::{all_keys, generous, options, plan_of, planned, request};
use crate::plan::MountPlan;

/// The refusal of a block, and the field that it is about.
fn refused(config: &Value) -> (String, String, String) {
    let error = planned(&request(config.clone()), &generous()).expect_err(&format!("{config} is refused"));
    let field = match &error.kind {
        ErrorKind::Invalid { field } => field.clone(),
        kind => panic!("{config}: {kind:?}"),
    };
    (field, error.message, error.cure.expect("a cure"))
}

#[test]
fn every_key_reaches_the_plan() {
    let block: Map<String, Value> = all_keys().into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let plan = plan_of(&request(Value::Object(block)), &generous());
    assert_eq!(plan.security.capabilities, ["NET_RAW"]);
    assert_eq!(plan.cdi_devices, ["vendor.com/class=one"]);
    assert_eq!(plan.hostname, "inside");
    assert!(plan.security.read_only_root);
    assert_eq!(plan.stop_grace_seconds, 3);
    assert_eq!(plan.user, "app:staff");
    assert_eq!(plan.workdir, "/work");
    let tmpfs = MountPlan::Tmpfs { target: "/scratch".to_owned(), size_bytes: Some(1 << 20), mode: Some(0o1777) };
    assert_eq!(plan.mounts, [tmpfs]);
}

#[test]
fn whether_the_images_command_runs_is_chosen() {
    let mut bare = request(json!({ "image_command": false }));
    bare.command.clear();
    let of_image = |request: &chiton_driver::PlanRequest| {
        let (options, mut found) = (options(), super::found());
        found.config.entrypoint = vec!["serve".to_owned()];
        let context = crate::plan::PlanContext { options: &options, abilities: super::ABLE, found, program: None };
        let plan = crate::plan::default_plan(request, context).unwrap().plan;
        crate::plan::EnginePlan::decode(&plan).unwrap().command
    };
    assert_eq!(of_image(&bare), Vec::<String>::new());
    bare.driver_config = json!({});
    assert_eq!(of_image(&bare), ["serve"]);
}

#[test]
fn a_misspelt_key_is_refused_with_the_nearest() {
    for (key, value) in all_keys() {
        let misspelt = format!("{}x", &key[..key.len() - 1]);
        let mut block = Map::new();
        block.insert(misspelt.clone(), value);
        let (field, message, cure) = refused(&Value::Object(block));
        assert_eq!(field, format!("driver_config.{misspelt}"));
        assert!(message.contains(&misspelt), "{message}");
        assert!(cure.contains(&format!("{key:?}")), "{key}: {cure}");
    }
    let (_, _, cure) = refused(&json!({ "zzzzzzzzzzzz": 1 }));
    for (key, _) in all_keys() {
        assert!(cure.contains(key), "{cure} names {key}");
    }
}

#[test]
fn a_wrong_type_is_refused_by_its_key() {
    for (key, good) in all_keys() {
        for wrong in
            [json!(null), json!(-1), json!(1.5), json!({ "a": 1 }), json!([[1]]), json!(7), json!("7"), json!(true)]
        {
            let same = std::mem::discriminant(&wrong) == std::mem::discriminant(&good);
            if same && !(wrong.is_number() || wrong.is_array()) || (good.is_number() && wrong == json!(7)) {
                continue;
            }
            let mut block = Map::new();
            block.insert(key.to_owned(), wrong.clone());
            let (field, message, _) = refused(&Value::Object(block));
            assert!(field.starts_with(&format!("driver_config.{key}")), "{key} = {wrong}: {field}: {message}");
        }
    }
    for block in [json!([]), json!("x"), json!(null), json!(1)] {
        let (field, ..) = refused(&block);
        assert_eq!(field, "driver_config");
    }
}

#[test]
fn mounts_are_as_strict() {
    for (mount, field) in [
        (json!("x"), ""),
        (json!({ "type": "tmpfs", "target": "/a", "sise_bytes": 1 }), ".sise_bytes"),
        (json!({ "type": "tmpfs", "target": "/a", "mode": null }), ".mode"),
        (json!({ "type": "tmpfs", "target": "/a", "mode": 4096 }), ".mode"),
        (json!({ "type": "tmp", "target": "/a" }), ".type"),
        (json!({ "target": "/a" }), ".type"),
    ] {
        let (found, message, _) = refused(&json!({ "mounts": [mount] }));
        assert_eq!(found, format!("driver_config.mounts[0]{field}"), "{message}");
    }
    // A key of another type of mount.
    let error =
        planned(&request(json!({ "mounts": [{ "type": "tmpfs", "target": "/a", "source": "b" }] })), &options());
    assert!(error.is_err());
}

#[test]
fn what_the_operator_does_not_allow_is_refused() {
    for (config, word) in [
        (json!({ "capabilities": ["SYS_ADMIN"] }), "SYS_ADMIN"),
        (json!({ "cdi_devices": ["vendor.com/class=one"] }), "vendor.com/class=one"),
        (json!({ "mounts": [{ "type": "bind", "source": "/usr", "target": "/a" }] }), "/usr"),
        (json!({ "mounts": [{ "type": "volume", "source": "shared", "target": "/a" }] }), "shared"),
    ] {
        let error = planned(&request(config.clone()), &options()).expect_err(&config.to_string());
        assert!(matches!(error.kind, ErrorKind::Refused { .. }), "{config}: {error:?}");
        let cure = error.cure.unwrap_or_default();
        assert!(error.message.contains(word) && !cure.is_empty(), "{config}: {} ({cure})", error.message);
    }
}

#[test]
fn a_bind_is_what_its_links_lead_to_and_never_the_drivers_own() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    for name in ["shared", "state", "run"] {
        std::fs::create_dir(root.join(name)).unwrap();
    }
    std::os::unix::fs::symlink("/etc", root.join("shared/out")).unwrap();
    std::os::unix::fs::symlink(root.join("state"), root.join("shared/own")).unwrap();
    let mut options = options();
    options.state_dir = root.join("state");
    options.run_dir = root.join("run");
    options.allowed.bind_roots = vec![root.clone()];
    let bind = |source: &std::path::Path| {
        request(json!({ "mounts": [{ "type": "bind", "source": source.to_str().unwrap(), "target": "/a" }] }))
    };
    let plan = plan_of(&bind(&root.join("shared")), &options);
    assert!(
        matches!(&plan.mounts[..], [MountPlan::Bind { source, read_only: true, .. }] if *source == root.join("shared").to_str().unwrap())
    );
    for (source, why) in [
        (root.join("shared/out"), "not below an allowed folder"),
        (root.join("shared/own"), "the driver's own files"),
        (root.clone(), "the driver's own files"),
        (root.join("absent"), "not on this machine"),
    ] {
        let error = planned(&bind(&source), &options).expect_err(why);
        assert!(error.message.contains(why), "{}", error.message);
    }
}

#[test]
fn users_and_host_names_are_names() {
    for user in ["", ":", "a:", ":b", "a:b:c", "-a", "a b", "a/b", &"a".repeat(33)] {
        assert_eq!(refused(&json!({ "user": user })).0, "driver_config.user", "{user:?}");
    }
    for name in ["", "-a", "a-", ".a", "a b", "ä", &"a".repeat(64)] {
        assert_eq!(refused(&json!({ "hostname": name })).0, "driver_config.hostname", "{name:?}");
    }
    let (field, message, _) = refused(&json!({ "stop_grace_seconds": 46 }));
    assert_eq!(field, "driver_config.stop_grace_seconds");
    assert!(message.contains("stop_grace_seconds"), "{message}");
}
