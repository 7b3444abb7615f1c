//! The rules of `docs/extensions.md`, with the extension behind its socket.

use chiton_extension_process::local::over_a_socket;
use chiton_testkit::conformance::Bench;
use serde_json::json;

chiton_testkit::conformance!(over_a_socket(chiton_example_extension_process::extension()), || {
    Bench::in_folder(|folder| json!({ "folder": folder, "count": 9, "label": "yes" })).elsewhere()
});
