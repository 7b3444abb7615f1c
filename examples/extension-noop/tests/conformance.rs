//! Every rule of `docs/extensions.md`, each in a test of its own, on the real engine in a virtual world. Yours has effects:
//! say what it holds, with `Bench::in_folder` if it holds files, else with `Bench::new(config).held(…)`.

use serde_json::json;

chiton_testkit::conformance!(chiton_extension_noop::extension(), || json!({}));
