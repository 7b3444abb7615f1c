//! The kit's rules hold behind a socket as they do in process.

use chiton_extension_process::local::over_a_socket;
use chiton_testkit::conformance::Bench;
use serde_json::json;

chiton_testkit::conformance!(mod noop, over_a_socket(chiton_extension_noop::extension()), || {
    Bench::new(json!({})).elsewhere()
});

chiton_testkit::conformance!(mod scratch, over_a_socket(chiton_extension_scratch::extension()), || {
    Bench::in_folder(|folder| json!({ "folder": folder, "target": "/scratch" })).elsewhere()
});

chiton_testkit::conformance!(mod fleet_labels, over_a_socket(chiton_fleet_labels::extension()), || {
    Bench::new(json!({ "labels": { "fleet": "prod" } })).elsewhere()
});
