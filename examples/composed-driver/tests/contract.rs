//! The rules of `docs/extensions.md`, with the extension behind its socket; and the document prints what is here.

use chiton_extension_process::local::over_a_socket;
use chiton_testkit::conformance::Bench;
use serde_json::json;

chiton_testkit::conformance!(over_a_socket(chiton_example_composed_driver::extension()), || {
    Bench::in_folder(|folder| json!({ "folder": folder, "cpus": 4 })).elsewhere()
});

#[test]
fn the_document_prints_these_files() {
    let document = include_str!("../../../docs/composed-drivers.md");
    let (_, file) = include_str!("../fleet.toml").split_once("\n\n").expect("a head and the rest");
    assert!(document.contains(&format!("```toml\n{file}```")), "docs/composed-drivers.md prints another fleet.toml");
    let code = include_str!("../src/lib.rs");
    let hooks = &code[code.find("#[async_trait]").expect("the hooks")..];
    assert!(document.contains(&format!("```rust\n{hooks}```")), "docs/composed-drivers.md prints other hooks");
}
