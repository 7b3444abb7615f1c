//! The rules of `docs/extensions.md`, on the real engine.

use chiton_testkit::conformance::Bench;
use serde_json::json;

chiton_testkit::conformance!(chiton_extension_scratch::extension(), || {
    Bench::in_folder(|folder| json!({ "folder": folder, "target": "/scratch" }))
});

#[test]
fn a_relative_path_is_named_with_its_cure() {
    let kind = chiton_extension_scratch::extension().expect("it can be declared");
    let issues = kind.check(&json!({ "folder": "here", "target": "/scratch" }));
    assert_eq!(issues.len(), 1);
    assert_eq!(
        (issues[0].pointer.as_str(), issues[0].message.as_str()),
        ("/folder", "\"here\" is not an absolute path")
    );
}
