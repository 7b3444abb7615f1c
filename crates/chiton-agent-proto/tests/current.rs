//! The generated code in the repository is what the protocol file says.

use std::path::Path;

/// Set it to have the file written anew instead of compared.
const BLESS: &str = "CHITON_BLESS";

#[test]
fn generated_code_is_what_the_protocol_file_compiles_to() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let descriptors =
        protox::compile(["chiton/agent/v1/agent.proto"], [here.join("../../proto")]).expect("the protocol compiles");
    let out = tempfile::tempdir().expect("a temporary folder");
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .build_transport(false)
        .emit_rerun_if_changed(false)
        .out_dir(out.path())
        .compile_fds(descriptors)
        .expect("code is generated");
    let fresh = std::fs::read_to_string(out.path().join("chiton.agent.v1.rs")).expect("the generated file");
    let kept = here.join("src/v1.rs");
    if std::env::var_os(BLESS).is_some() {
        std::fs::write(&kept, &fresh).expect("the file can be written");
    }
    let old = std::fs::read_to_string(&kept).expect("the kept file");
    assert!(old == fresh, "src/v1.rs is not current: run this test once with {BLESS}=1 and commit the file");
}
