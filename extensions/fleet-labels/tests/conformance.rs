//! The rules of `docs/extensions.md`, on the real engine.

use serde_json::json;

chiton_testkit::conformance!(chiton_fleet_labels::extension(), || json!({
    "labels": { "fleet": "prod", "region": "us-west" }
}));
