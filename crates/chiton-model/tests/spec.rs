//! What a request may not hold.

use chiton_model::SandboxSpec;
use chiton_model::spec::DEEPEST;
use serde_json::{Value, json};

fn spec(levels: usize) -> SandboxSpec {
    let options = (0..levels).fold(Value::Null, |inner, _| json!({ "a": inner }));
    SandboxSpec { driver_config: [("oci".to_owned(), options)].into(), ..SandboxSpec::default() }
}

#[test]
fn options_that_could_not_be_read_back_are_refused() {
    spec(DEEPEST).check().expect("deep enough for anybody");
    let error = spec(DEEPEST + 1).check().expect_err("too deep");
    assert!(error.message.contains("64 levels") && error.cure.is_some(), "{error:?}");
}

#[test]
fn a_stored_request_with_an_unknown_field_is_refused() {
    let stored = json!({ "image": "host", "imagine": 1 });
    let error = serde_json::from_value::<SandboxSpec>(stored).expect_err("strict");
    assert!(error.to_string().contains("imagine"), "{error}");
}
