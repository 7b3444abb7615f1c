use std::collections::BTreeSet;

use chiton_compute_wire::json::to_struct;
use chiton_compute_wire::v1;
use chiton_model::{DriverId, ErrorKind, NetworkSpec};
use serde_json::{Value, json};

use super::{Reading, read};

fn reading() -> Reading {
    Reading {
        base: DriverId::new("docker").unwrap(),
        name: "fleet".to_owned(),
        on_request: BTreeSet::new(),
        composed: true,
        delegate: true,
        network: NetworkSpec::default(),
        supervisor: true,
    }
}

fn with_block(block: &Value) -> v1::DriverSandbox {
    let template = v1::DriverSandboxTemplate {
        image: "any".to_owned(),
        driver_config: Some(to_struct(block)),
        ..v1::DriverSandboxTemplate::default()
    };
    let spec = v1::DriverSandboxSpec { tty: true, template: Some(template), ..v1::DriverSandboxSpec::default() };
    v1::DriverSandbox {
        id: "s-one".to_owned(),
        name: "one".to_owned(),
        spec: Some(spec),
        ..v1::DriverSandbox::default()
    }
}

#[test]
fn a_delegated_block_that_is_no_table_is_refused_by_its_name() {
    for odd in [json!("x"), json!(1), json!(true), json!(["x"])] {
        let error = read(Some(with_block(&json!({ "docker": odd }))), &reading(), 0).err().expect("it is no table");
        assert!(matches!(error.kind, ErrorKind::Invalid { .. }), "{error:?}");
        assert!(error.message.contains("driver_config.fleet.docker"), "{error:?}");
    }
    let (create, ..) = read(Some(with_block(&json!({ "docker": { "user": "1000" } }))), &reading(), 0).unwrap();
    assert_eq!(create.spec.driver_config["docker"], json!({ "user": "1000", "tty": true }));
}
